"""TLS to a service that speaks no HTTP, as fields of a plugin's config."""

from __future__ import annotations

import ssl
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, model_validator

from gateway.plugins.base import PluginConfig
from gateway.proxy import certificates
from gateway.proxy.snapshot import TlsSpec

Pem = Annotated[str, StringConstraints(max_length=262_144)]
_FIELDS = {"ca": "ca_certificates", "certificate": "certificate", "key": "key"}


class Tls(PluginConfig):
    verify: bool = True
    """Check whose certificate it is. Without, whoever is on the way can read and change what is sent."""
    ca_certificates: Pem = ""
    """Authorities to trust instead of the system's, in PEM."""
    certificate: Pem = ""
    """Our own certificate, its chain behind it, in PEM, for servers that ask for one."""
    key: SecretStr = Field(SecretStr(""), max_length=16_384)
    """Its private key, such as `${file:syslog-key.pem}`."""

    @model_validator(mode="after")
    def _sound(self) -> Tls:
        for part, fault in certificates.faults(self.ca_certificates, self.certificate, self.key.get_secret_value()):
            raise ValueError(f"{_FIELDS[part]}: {fault}")
        return self

    def context(self) -> ssl.SSLContext:
        key = self.key.get_secret_value()
        spec = TlsSpec(self.verify, "", self.ca_certificates, self.certificate, key)
        return certificates.tls_context(spec, http=False)


class ServerTls(Tls):
    """To one server."""

    server_name: str = Field("", max_length=253)
    """Name that the certificate must have. Empty: the server's own."""
