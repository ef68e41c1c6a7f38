"""syslog: sends what requests left to a syslog server, in messages of RFC 5424, some time after they were answered.

Phases   batch
Fails    never a request. What the server does not take within `retry_for_s` is lost and counted
         (`hydragate_plugin_records_dropped_total`)
Compare  Kong's syslog (same field names; that one writes to the machine's own syslog only, without structured data)
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.attempts import until_taken
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.deliveries import delivered
from gateway.plugins.rfc5424 import SEVERITIES, Writer, counted
from gateway.plugins.secured import ServerTls
from gateway.proxy.errors import UpstreamForbidden
from gateway.proxy.record import Record, members

PORTS = {"udp": 514, "tcp": 514, "tls": 6514}
PAUSE_EVERY, PAUSE_S = 20, 0.001  # datagrams: rsyslog lost one of eight of 200 that came at once
Severity = Literal["debug", "info", "notice", "warning", "err", "crit", "alert", "emerg"]
Facility = Literal[
    "auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip
_PLAIN = re.compile(r"[!-~]+")
#: Names without a number are those that the IANA gave (RFC 5424 §6.3.2).
_VALUES_ID = r"^[!#-<>?A-\\^-~]{1,20}@[0-9]{1,10}(\.[0-9]{1,10})*$"


def _server(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    local = parts.scheme == "unix"
    if local and (parts.netloc or not parts.path.startswith("/") or len(parts.path) > 107):
        raise ValueError(
            "A socket of this machine is written `unix:/dev/log`, with at most 107 characters in its path."
        )
    remote = parts.scheme in PORTS and parts.hostname and port != 0 and not parts.path and "@" not in parts.netloc
    if not _PLAIN.fullmatch(url) or not (local or remote) or parts.query or parts.fragment:
        raise ValueError(f"'{url}' is no server such as tls://logs.internal:6514, tcp://…, udp://… or unix:/dev/log.")
    return url


class SyslogConfig(PluginConfig):
    server: Annotated[str, StringConstraints(max_length=300), AfterValidator(_server)]
    """`tls://host:6514`, `tcp://host:514`, `udp://host:514`, or a datagram socket of this machine: `unix:/dev/log`."""
    tls: ServerTls = ServerTls()
    """For `tls`."""
    facility: Facility = "user"
    """What kind of program it comes from."""
    log_level: Severity = "info"
    """Requests of a lower severity leave no message."""
    successful_severity: Severity = "info"
    """Of requests that were answered with less than 400."""
    client_errors_severity: Severity = "info"
    """Of those answered with 400 to 499, and of clients that left."""
    server_errors_severity: Severity = "info"
    """Of those answered with 500 or more, and of upstreams that failed."""
    app_name: str = Field("hydragate", max_length=48, pattern=r"^[!-~]+$")
    """APP-NAME of the messages."""
    values_id: str = Field("request@32473", max_length=32, pattern=_VALUES_ID)
    """SD-ID of the structured data: a name and your organisation's enterprise number. 32473 is that of examples."""
    message: Literal["line", "json"] = "line"
    """The text behind the structured data. `line`: `GET /orders/7 200 ok 12.3 ms`. `json`: the whole record."""
    max_message_bytes: int = Field(2_048, ge=1_024, le=65_000)
    """Longest message. Values that do not fit are left out, the least important ones first."""
    timeout_ms: int = Field(5_000, ge=10, le=60_000)
    """For one attempt."""
    batch_max: int = Field(500, ge=1, le=1_000)
    """Messages over one connection at most."""
    delay_ms: int = Field(1_000, ge=0, le=60_000)
    """How long a record waits for others."""
    retry_for_s: int = Field(60, ge=0, le=3_600)
    """How long a batch that is not taken is sent again, with growing pauses. 0: sent once."""

    @model_validator(mode="after")
    def _has_tls(self) -> SyslogConfig:
        if self.tls != ServerTls() and not self.server.startswith("tls:"):
            raise ValueError("`tls` is for servers `tls://…`; this one would be spoken to in the clear.")
        return self


class Syslog(Plugin):
    name = "syslog"
    Config = SyslogConfig
    config: SyslogConfig

    def __init__(self, config: SyslogConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self.batch_max, self.batch_delay_s = config.batch_max, config.delay_ms / 1000
        parts = urlsplit(config.server)
        self._scheme, self._host, self._path = parts.scheme, parts.hostname or "", parts.path
        self._port = parts.port or PORTS.get(parts.scheme, 0)
        self._writer = Writer(
            config.facility, config.app_name, os.getpid(), resources.node, config.values_id,
            as_json=config.message == "json",
        )  # fmt: skip
        self._least = SEVERITIES.index(config.log_level)
        words = (config.successful_severity, config.client_errors_severity, config.server_errors_severity)
        self._successful, self._client_errors, self._server_errors = map(SEVERITIES.index, words)

    async def batch(self, records: Sequence[Record]) -> None:
        messages = [
            self._writer.message(severity, members(record, self.resources.node), self.config.max_message_bytes)
            for record in records
            if (severity := self._severity(record)) <= self._least
        ]
        if messages:
            await until_taken(lambda: self._refusal(messages), self.resources.clock, self.config.retry_for_s)

    def _severity(self, record: Record) -> int:
        if record.status >= 500 or record.outcome.startswith("upstream_"):
            return self._server_errors
        if record.status >= 400 or record.outcome == "client_closed":
            return self._client_errors
        return self._successful

    async def _refusal(self, messages: list[bytes]) -> str | None:
        try:
            async with asyncio.timeout(self.config.timeout_ms / 1000):
                await self._send(messages)
        except TimeoutError:
            return f"{self.config.server} did not take them within {self.config.timeout_ms} ms"
        except (UpstreamForbidden, OSError) as error:  # of TLS, too
            return f"{self.config.server}: {error}"
        return None

    async def _send(self, messages: list[bytes]) -> None:
        if self._scheme == "unix":
            await _datagrams(socket.AF_UNIX, self._path, messages)
            return
        *others, last = await self.resources.fence.addresses(self._host, self._port)
        for address in others:
            try:
                await self._send_to(address, messages)
            except OSError:
                continue
            return
        await self._send_to(last, messages)

    async def _send_to(self, address: str, messages: list[bytes]) -> None:
        if self._scheme == "udp":
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            await _datagrams(family, (address, self._port), messages)
        else:
            framed = b"".join(map(counted, messages))
            context = self.config.tls.context() if self._scheme == "tls" else None
            await delivered(framed, address, self._port, context, self.config.tls.server_name or self._host)


async def _datagrams(family: int, place: str | tuple[str, int], messages: list[bytes]) -> None:
    """Raises OSError also where the machine was told that nobody listens there, which it seldom is."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, place)
        for number, message in enumerate(messages):
            await loop.sock_sendall(sock, message)
            if number % PAUSE_EVERY == PAUSE_EVERY - 1:
                await asyncio.sleep(PAUSE_S)
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
