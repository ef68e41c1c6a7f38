"""mtls-auth: lets in who has shown a client certificate, to us or to the proxy in front, and says who it is.

Phases   access
Fails    401 `certificate_missing`, `certificate_invalid`, `consumer_disabled`; 503 `credentials_unavailable` when a
         consumer cannot be looked up
Compare  Kong's mtls-auth and header-cert-auth (consumers by any name in the certificate; no revocation lists, but
         denied serials)

The certificate is the one of the TLS connection (GATEWAY_TLS_CLIENT_CA), or comes in a header field of the proxy in
front, which has seen that the client holds its key. Only a peer of GATEWAY_TRUSTED_PROXIES is believed; from anybody
else the field is taken away, and counts for nothing.
A certificate that was verified is remembered for some minutes, at most until its end.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections import OrderedDict
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, Field, StringConstraints

from gateway.plugins import certificates
from gateway.plugins.anonymous import admit_anonymous
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import check_name
from gateway.plugins.identity import ConsumerDisabled, Identity, IdentityConfig, Who
from gateway.plugins.tokens import BadToken
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange

REMEMBER_S, MAX_REMEMBERED = 300.0, 10_000
MAX_BYTES, MAX_CHAIN = 32_768, 8
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")
Hex = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9A-Fa-f:]+$", max_length=191)]


def _authorities(text: str) -> str:
    certificates.Verifier(text)
    return text


class CertificateConfig(PluginConfig):
    ca_certificates: Annotated[str, StringConstraints(max_length=262_144), AfterValidator(_authorities)]
    """Who may have issued certificates: one or more in PEM."""
    certificate_header_name: Annotated[str, StringConstraints(max_length=128), AfterValidator(check_name)] = (
        "Client-Cert"
    )
    """The field in which the proxy in front hands the certificate over."""
    certificate_header_format: Literal["rfc9440", "url_encoded", "base64"] = "rfc9440"
    """`rfc9440`: `:base64:`; `url_encoded`: PEM, as nginx' `$ssl_client_escaped_cert`; `base64`: DER, as Traefik's
    `X-Forwarded-Tls-Client-Cert`, which may have the whole chain with commas."""
    allowed_fingerprints: tuple[Hex, ...] = Field((), max_length=1000)
    """SHA-256 of certificates that may pass, with or without colons. Empty: all that are valid."""
    denied_serials: tuple[Hex, ...] = Field((), max_length=10_000)
    """Serial numbers in hexadecimal of certificates that may not, although they are valid."""
    forward_certificate: bool = False
    """Let the upstream see the field, too."""
    anonymous: str = Field("", max_length=100)
    """The username of the consumer that requests without a certificate count as. Empty: they are refused."""
    run_on_preflight: bool = True
    """Ask for a certificate on CORS preflights too. Browsers may not send any with them."""


class MtlsAuthConfig(IdentityConfig, CertificateConfig):
    pass


class MtlsAuth(Plugin):
    name = "mtls-auth"
    Config = MtlsAuthConfig
    config: MtlsAuthConfig
    identifies = True

    def __init__(self, config: MtlsAuthConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._field = config.certificate_header_name.lower().encode()
        self._verifier = certificates.Verifier(config.ca_certificates)
        self._fingerprints = frozenset(text.replace(":", "") for text in config.allowed_fingerprints)
        self._serials = frozenset(int(text.replace(":", ""), 16) for text in config.denied_serials if text.strip(":"))
        self._identity = Identity(config, "mtls", resources.credentials)
        self.owned = self._identity.owned
        self._known: OrderedDict[bytes, tuple[float, Who]] = OrderedDict()  # by hash: until when, and who

    async def access(self, exchange: Exchange) -> None:
        if not exchange.peer_trusted:
            headers.remove(exchange.headers, self._field)
        if not self.config.run_on_preflight and headers.is_preflight(exchange.method, exchange.headers):
            self._identity.drop(exchange)
            return
        anonymous = self.config.anonymous
        if not (anonymous and exchange.credential is not None):
            await self._identify(exchange, anonymous)
        else:
            self._identity.drop(exchange)
        if not self.config.forward_certificate:
            headers.remove(exchange.headers, self._field)

    async def _identify(self, exchange: Exchange, anonymous: str) -> None:
        values = [exchange.certificate] if exchange.certificate else headers.get_all(exchange.headers, self._field)
        if not any(values):
            if not anonymous:
                raise self._refused(
                    exchange, "certificate_missing", "No client certificate has come with this connection. Show one."
                )
            self._identity.drop(exchange)
            await admit_anonymous(exchange, self.resources, anonymous)
            return
        try:
            if len(values) > 1:
                raise BadToken("The certificate came twice.")
            waiting = self._identity.admit(exchange, self._who(values[0], bool(exchange.certificate)))
            if waiting is not None:
                await waiting
        except ConsumerDisabled as error:
            raise self._refused(exchange, "consumer_disabled", "The owner of this certificate is disabled.") from error
        except BadToken as error:
            raise self._refused(exchange, "certificate_invalid", str(error)) from error

    def _who(self, value: bytes, is_der: bool) -> Who:
        """Raises BadToken."""
        now_s, key = self.resources.wall(), hashlib.sha256(value).digest()
        ends_s, who = self._known.get(key, (0.0, None))
        if who is not None and now_s < ends_s:
            return who
        leaf, *chain = [value] if is_der else self._chain(value)
        said = self._verifier.said(leaf, chain, now_s)
        if self._fingerprints and said["fingerprint"] not in self._fingerprints:
            raise BadToken("This certificate is not among those allowed here.")
        if int(said["serial"], 16) in self._serials:
            raise BadToken("This certificate has been withdrawn.")
        who = self._identity.read(said)
        self._known[key] = min(now_s + REMEMBER_S, said["exp"]), who
        self._known.move_to_end(key)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return who

    def _chain(self, value: bytes) -> list[bytes]:
        """In DER, the client's own first. Raises BadToken."""
        try:
            if len(value) > MAX_BYTES:
                raise ValueError("too long")
            match self.config.certificate_header_format:
                case "rfc9440":
                    value = value.strip()
                    if len(value) < 3 or value[:1] != b":" or value[-1:] != b":":
                        raise ValueError("no byte sequence")
                    found = [b64decode(value[1:-1], validate=True)]
                case "url_encoded":
                    found = [b64decode(part, validate=False) for part in _PEM.findall(unquote_to_bytes(value))]
                case _:
                    parts = unquote_to_bytes(value).split(b",")
                    found = [b64decode(part.strip(), validate=True) for part in parts]
        except ValueError as error:
            raise BadToken("The proxy in front has handed over something that is no certificate.") from error
        if not 0 < len(found) <= MAX_CHAIN:
            raise BadToken("The proxy in front has handed over no certificate, or too many.")
        return found

    def _refused(self, exchange: Exchange, code: str, detail: str) -> Reject:
        if code == "certificate_missing" and not exchange.peer_trusted:
            exchange.detail = "mtls-auth: no certificate with TLS here, and the peer is none of GATEWAY_TRUSTED_PROXIES"
        return Reject(401, code, detail)
