"""request-id: gives every request one name that the client, the upstream, the logs and the usage row share.

Phases   access, response
Fails    never: an incoming id that is not sane is replaced, not refused
Compare  Kong's correlation-id (`header_name`, `echo_downstream`)
"""

from __future__ import annotations

import re

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange

_SANE = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestIdConfig(PluginConfig):
    header_name: str = Field("X-Request-Id", max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    """The header that carries the id, both ways."""
    trust_downstream: bool = True
    """Take the client's own id if it is 1 to 128 visible ASCII characters and sent once. Off: always a fresh one."""
    echo_downstream: bool = True
    """Send the id back to the client."""


class RequestId(Plugin):
    name = "request-id"
    Config = RequestIdConfig
    config: RequestIdConfig

    def __init__(self, config: RequestIdConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._header = config.header_name.lower().encode()

    def access(self, exchange: Exchange) -> None:
        if self.config.trust_downstream:
            sent = headers.get_all(exchange.headers, self._header)
            if len(sent) == 1 and _SANE.fullmatch(sent[0]):
                exchange.id = sent[0].decode()
        headers.put(exchange.headers, self._header, exchange.id.encode())

    def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        headers.remove(exchange.response_headers, self._header)
        if self.config.echo_downstream:
            exchange.response_headers.append((self._header, exchange.id.encode()))
