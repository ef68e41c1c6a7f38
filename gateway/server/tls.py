"""TLS for `GATEWAY_TLS_PORT`, from files of the operator.

    context = server_context(["/etc/hydragate/a.pem", "/etc/hydragate/b.pem"], client_ca=None)

TLS 1.2 and 1.3 with Python's own choice of ciphers. The certificate is chosen by the name the client asks for (SNI):
exact names before wildcards, which stand for one label; else the first.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class TlsProblem(Exception):
    """A sentence for the operator: which file, and what is wrong with it."""


def server_context(certificates: Sequence[str], client_ca: Path | None) -> ssl.SSLContext:
    """Raises TlsProblem."""
    if not certificates:
        raise TlsProblem("GATEWAY_TLS_PORT needs GATEWAY_TLS_CERTIFICATES: files with certificate and private key.")
    contexts = [_context(path, client_ca) for path in certificates]
    if len(contexts) > 1:
        by_name: dict[str, ssl.SSLContext] = {}
        for path, context in zip(certificates, contexts, strict=True):
            for name in names_of(Path(path).read_bytes()):
                by_name.setdefault(name, context)
        contexts[0].sni_callback = _chooser(by_name)
    return contexts[0]


def _context(path: str, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(path, password=_no_password)
    except OSError as error:  # ssl.SSLError is one
        raise TlsProblem(f"GATEWAY_TLS_CERTIFICATES: {path}: {_reason(error)}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise TlsProblem(f"GATEWAY_TLS_CLIENT_CA: {client_ca}: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    raise OSError(0, "its private key is encrypted; nobody is there to type a password")


def _reason(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return f"{error.strerror}."
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the private key is not that of the certificate."
    return "no certificate in PEM with its private key."


def names_of(pem: bytes) -> list[str]:
    """The names of the first certificate, in lower case."""
    x509 = importlib.import_module("cryptography.x509")
    certificate = x509.load_pem_x509_certificates(pem)[0]
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in others.get_values_for_type(x509.DNSName)]


def _chooser(by_name: dict[str, ssl.SSLContext]) -> Any:
    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked = (name or "").lower().rstrip(".")
        found = by_name.get(asked) or by_name.get("*." + asked.partition(".")[2])
        if found is not None:
            connection.context = found

    return choose
