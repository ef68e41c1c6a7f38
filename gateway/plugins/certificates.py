"""Client certificates (RFC 5280): whether an authority has issued one, and what it says, as claims.

| claim | is |
|---|---|
| `sub`, `cn` | the common name of the subject |
| `ou`, `o` | the subject's organisational units and organisations, as lists |
| `dn`, `iss` | subject and issuer as RFC 4514 texts |
| `email`, `dns`, `uri` | the alternative names, as lists |
| `serial`, `fingerprint` | in hexadecimal; the SHA-256 of the whole |
| `exp` | its end, in seconds since the epoch |

`cryptography` is loaded by the first setting that needs it.
"""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from typing import Any

from gateway.plugins.tokens import BadToken

MAX_AUTHORITIES = 100


class Verifier:
    """`authorities`: PEM. Raises ValueError with a sentence for the operator."""

    def __init__(self, authorities: str) -> None:
        self._x509: Any = importlib.import_module("cryptography.x509")
        self._lib: Any = importlib.import_module("cryptography.x509.verification")
        try:
            found = self._x509.load_pem_x509_certificates(authorities.encode())
        except ValueError as error:
            raise ValueError("These are no certificates in PEM (-----BEGIN CERTIFICATE-----).") from error
        if len(found) > MAX_AUTHORITIES:
            raise ValueError(f"At most {MAX_AUTHORITIES} authorities.")
        self._store = self._lib.Store(found)
        policies, agnostic = self._lib.ExtensionPolicy, self._lib.Criticality.AGNOSTIC
        # Authorities that people make with openssl lack what the public web's must have; that they are some they say.
        of_authorities = policies.permit_all().require_present(self._x509.BasicConstraints, agnostic, _is_authority)
        of_authorities = of_authorities.may_be_present(self._x509.KeyUsage, agnostic, _may_sign)
        of_clients = policies.permit_all().may_be_present(self._x509.ExtendedKeyUsage, agnostic, self._is_for_clients)
        self._builder = (
            self._lib.PolicyBuilder()
            .store(self._store)
            .extension_policies(ca_policy=of_authorities, ee_policy=of_clients)
        )

    def said(self, leaf: bytes, chain: list[bytes], now_s: float) -> dict[str, Any]:
        """DER. Raises BadToken for one that does not count now."""
        try:
            certificate, *others = (self._x509.load_der_x509_certificate(der) for der in (leaf, *chain))
            verifier = self._builder.time(datetime.fromtimestamp(now_s, UTC)).build_client_verifier()
            verifier.verify(certificate, others)
            return self._claims(certificate)
        except self._lib.VerificationError as error:
            raise BadToken("No authority known here has issued this certificate, or it is not valid now.") from error
        except (ValueError, TypeError, self._x509.DuplicateExtension, self._x509.UnsupportedGeneralNameType) as error:
            raise BadToken("The certificate cannot be read.") from error

    def _claims(self, certificate: Any) -> dict[str, Any]:
        names, oid = certificate.subject, importlib.import_module("cryptography.x509.oid").NameOID
        common = [str(one.value) for one in names.get_attributes_for_oid(oid.COMMON_NAME)]
        said: dict[str, Any] = {
            "ou": [str(one.value) for one in names.get_attributes_for_oid(oid.ORGANIZATIONAL_UNIT_NAME)],
            "o": [str(one.value) for one in names.get_attributes_for_oid(oid.ORGANIZATION_NAME)],
            "dn": names.rfc4514_string(),
            "iss": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            "fingerprint": certificate.fingerprint(_sha256()).hex(),
            "exp": certificate.not_valid_after_utc.timestamp(),
        }
        if len(common) == 1:
            said |= {"sub": common[0], "cn": common[0]}
        try:
            others = certificate.extensions.get_extension_for_class(self._x509.SubjectAlternativeName).value
        except self._x509.ExtensionNotFound:
            return said
        for name, kind in (("email", "RFC822Name"), ("dns", "DNSName"), ("uri", "UniformResourceIdentifier")):
            said[name] = others.get_values_for_type(getattr(self._x509, kind))
        return said

    def _is_for_clients(self, policy: Any, certificate: Any, usages: Any) -> None:
        oid = self._x509.oid.ExtendedKeyUsageOID
        if usages is not None and not {oid.CLIENT_AUTH, oid.ANY_EXTENDED_KEY_USAGE} & set(usages):
            raise ValueError("not for clients")


def _is_authority(policy: Any, certificate: Any, constraints: Any) -> None:
    if not constraints.ca:
        raise ValueError("no authority")


def _may_sign(policy: Any, certificate: Any, usage: Any) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("may not sign certificates")


def _sha256() -> Any:
    return importlib.import_module("cryptography.hazmat.primitives.hashes").SHA256()
