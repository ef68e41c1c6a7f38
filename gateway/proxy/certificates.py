"""TLS to upstreams: whom to trust and who we are, from PEM texts to a context; and what is wrong with such texts."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

from .snapshot import TlsSpec

Part = Literal["ca", "certificate", "key"]

#: Contexts and verdicts remembered, by content. A context costs up to 20 ms: the system's authorities are many.
REMEMBERED = 1024

NO_CERTIFICATE = "This is not a certificate in PEM: it has lines from -----BEGIN CERTIFICATE----- to its end."
KEY_ELSEWHERE = "There is a private key in it, which would be shown to everybody. Keys have a field of their own."
NO_KEY = "This is not a private key in PEM, or it has a passphrase. Write it without one."
KEY_MISSING = "A client certificate needs its private key."
CERTIFICATE_MISSING = "A private key needs its certificate."
MISFIT = "This key is not that of the client certificate, the first one there."
_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})


@lru_cache(maxsize=REMEMBERED)
def tls_context(tls: TlsSpec, *, http2: bool = False, http: bool = True) -> ssl.SSLContext:
    """Shared by all connections of this content. `http` False: for another protocol. Raises ssl.SSLError for what has
    `faults`."""
    context = ssl.create_default_context(cadata=tls.ca or None)
    if http:
        context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate:
        _load(context, tls.certificate, tls.key)
    return context


@lru_cache(maxsize=REMEMBERED)
def faults(ca: str, certificate: str, key: str) -> tuple[tuple[Part, str], ...]:
    """What is wrong, and with which of them. Empty ones are none. Whether they are expired is not asked: what once was
    sound can be published again."""
    found: list[tuple[Part, str]] = []
    texts: tuple[tuple[Part, str], ...] = (("ca", ca), ("certificate", certificate))
    for part, text in texts:
        if text and (fault := _certificate_fault(text)):
            found.append((part, fault))
    if certificate and not key:
        found.append(("key", KEY_MISSING))
    elif key and not certificate:
        found.append(("certificate", CERTIFICATE_MISSING))
    elif key and not any(part == "certificate" for part, _ in found):
        found += _pair_faults(certificate, key)
    return tuple(found)


def _certificate_fault(text: str) -> str:
    if "PRIVATE KEY" in text:
        return KEY_ELSEWHERE
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError):  # the latter two: empty, not ASCII
        return NO_CERTIFICATE
    return ""


def _pair_faults(certificate: str, key: str) -> list[tuple[Part, str]]:
    if "PRIVATE KEY-----" not in key:
        return [("key", NO_KEY)]
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)
    except ssl.SSLError as error:
        if error.reason in _WEAK:
            return [("certificate", f"OpenSSL finds it too weak: {error.reason}.")]
        return [("key", MISFIT if error.reason == "KEY_VALUES_MISMATCH" else NO_KEY)]
    return []


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    with _file(f"{certificate}\n{key}\n") as path:
        context.load_cert_chain(path, password=lambda: b"")  # asked for a passphrase, OpenSSL would ask the terminal


@contextmanager
def _file(text: str) -> Iterator[str]:
    """Python hands OpenSSL a certificate of ours only by file. Where the system can, one that is on no disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        path, temporary = f"/proc/self/fd/{descriptor}", False
    else:
        (descriptor, path), temporary = tempfile.mkstemp(), True
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            yield path
    finally:
        if temporary:
            os.unlink(path)
