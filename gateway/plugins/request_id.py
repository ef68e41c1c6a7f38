"""request-id: gives every request one name that the client, the upstream, the logs and the usage row share.

Phases   access, response
Fails    never: an incoming id that is not sane is replaced, not refused
Compare  Kong's correlation-id (`header_name`, `generator`, `echo_downstream`)
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from itertools import count
from typing import Literal

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
    generator: Literal["hex", "uuid", "uuid#counter", "tracker"] = "hex"
    """What a fresh id looks like: 32 hexadecimal digits; a UUID (version 4); one UUID of the worker, `#` and a number;
    host, port, process, number and time. Only the first two cannot be guessed."""


class RequestId(Plugin):
    name = "request-id"
    Config = RequestIdConfig
    config: RequestIdConfig
    refuses = False

    def __init__(self, config: RequestIdConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._header = config.header_name.lower().encode()
        self._made = _generator(config.generator, resources.wall)

    def access(self, exchange: Exchange) -> None:
        if self.config.trust_downstream:
            sent = headers.get_all(exchange.headers, self._header)
            if len(sent) == 1 and _SANE.fullmatch(sent[0]):
                exchange.id = sent[0].decode()
                return
        if self._made is not None:
            exchange.id = self._made(exchange)
        headers.put(exchange.headers, self._header, exchange.id.encode())

    def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        headers.remove(exchange.response_headers, self._header)
        if self.config.echo_downstream:
            exchange.response_headers.append((self._header, exchange.id.encode()))


def _generator(kind: str, wall: Callable[[], float]) -> Callable[[Exchange], str] | None:
    """None: the id that every request has anyway, 32 hexadecimal digits from the system's randomness."""
    numbers = count(1)
    if kind == "uuid":
        return lambda exchange: uuid_of(exchange.id)
    if kind == "uuid#counter":
        own = uuid_of(os.urandom(16).hex())
        return lambda exchange: f"{own}#{next(numbers)}"
    if kind == "tracker":
        place = socket.gethostname()[:64]
        return lambda exchange: f"{place}-{exchange.port}-{os.getpid()}-{next(numbers)}-{wall():.3f}"
    return None


def uuid_of(digits: str) -> str:
    """Version 4 of 32 random hexadecimal digits (RFC 9562 §5.4), without asking for randomness again."""
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
