"""opentelemetry: continues or begins a trace for each request, and sends its spans to a collector in batches.

Phases   access, log, batch
Fails    never a request. Spans that the collector does not take are lost and counted
         (`hydragate_plugin_records_dropped_total`)
Compare  Kong's opentelemetry (traces only; W3C Trace Context; a server and a client span for each request, whose names
         and attributes are those of the HTTP semantic conventions)

Two spans: the request as the client sees it, and the last attempt at the upstream. They are made from the record that
every request leaves, as OTLP in JSON: a request that is not sampled costs a header field.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from random import SystemRandom
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from gateway.plugins.attempts import NotTaken
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.endpoints import Endpoint, FieldSecret, Url
from gateway.proxy import headers
from gateway.proxy.exchange import Exchange
from gateway.proxy.record import Record

MAX_OPEN = 20_000  # sampled requests whose records have not come yet; more than ever wait
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACEPARENT, _TRACESTATE = b"traceparent", b"tracestate"
_SERVER, _CLIENT, _ERROR = 2, 3, 2  # SpanKind and StatusCode of OTLP


def _attribute(pair: str) -> str:
    name, colon, _ = pair.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"'{pair}' must be `name:value`.")
    return pair


class OpentelemetryConfig(PluginConfig):
    endpoint: Url
    """Where the collector takes traces by OTLP over HTTP: `http://collector:4318/v1/traces`."""
    authorization: FieldSecret = SecretStr("")
    """The value of `Authorization`, such as `Bearer ${env:PLUGIN_OTLP_TOKEN}`. Empty: none."""
    service_name: str = Field("hydragate", min_length=1, max_length=128)
    """`service.name` of the spans."""
    resource_attributes: tuple[Annotated[str, StringConstraints(max_length=1024), AfterValidator(_attribute)], ...] = (
        Field((), max_length=32)
    )
    """More about this service, `deployment.environment.name:production`."""
    sampling_rate: float = Field(1.0, ge=0, le=1)
    """The share of traces that are sent, of those that begin here. A trace that comes from outside decides itself."""
    incoming: Literal["continue", "trusted", "restart"] = "continue"
    """A client's `traceparent`: `continue` it; only if the peer is in GATEWAY_TRUSTED_PROXIES (`trusted`); or begin a
    new trace in any case (`restart`), for whoever may send one can fill your collector."""
    timeout_ms: int = Field(5_000, ge=10, le=60_000)
    """How long the collector may take."""
    batch_max: int = Field(200, ge=1, le=1_000)
    """Requests in one call at most."""
    delay_ms: int = Field(1_000, ge=0, le=60_000)
    """How long a span waits for others."""


class Trace(NamedTuple):
    """Of a sampled request, until its record comes. Identifiers as hexadecimal text; `parent` "": it begins here."""

    id: str
    parent: str
    server_span: str
    client_span: str
    scheme: str
    pattern: str


class Opentelemetry(Plugin):
    name = "opentelemetry"
    Config = OpentelemetryConfig
    config: OpentelemetryConfig
    refuses = False

    def __init__(self, config: OpentelemetryConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self.batch_max, self.batch_delay_s = config.batch_max, config.delay_ms / 1000
        self._endpoint = Endpoint.of(config.endpoint, config.timeout_ms / 1000)
        self._fields = [(b"content-type", b"application/json")]
        if secret := config.authorization.get_secret_value():
            self._fields.append((b"authorization", secret.encode()))
        pairs = [pair.partition(":") for pair in config.resource_attributes]
        about = {"service.name": config.service_name, "host.name": resources.node}
        about |= {name.strip(): value.strip() for name, _, value in pairs}
        self._resource = {"attributes": _attributes({name: value for name, value in about.items() if value})}
        self._threshold = int(config.sampling_rate * (1 << 64))
        self._bits = SystemRandom().getrandbits
        self._open: OrderedDict[str, Trace] = OrderedDict()  # by request id

    def access(self, exchange: Exchange) -> None:
        trace_id, parent, sampled, flags = self._continued(exchange) or self._begun(exchange)
        client_span = f"{self._bits(64) or 1:016x}"
        headers.put(exchange.headers, _TRACEPARENT, f"00-{trace_id}-{client_span}-{flags}".encode())
        if sampled:
            server_span = f"{self._bits(64) or 1:016x}"
            route = exchange.route
            pattern = route.paths[0] if route is not None and len(route.paths) == 1 else ""
            exchange.notes[self] = Trace(trace_id, parent, server_span, client_span, exchange.scheme, pattern)

    def log(self, exchange: Exchange) -> None:
        trace: Trace | None = exchange.notes.pop(self, None)
        if trace is not None:
            self._open[exchange.id] = trace
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)

    async def batch(self, records: Sequence[Record]) -> None:
        spans = []
        for record in records:
            if (trace := self._open.pop(record.request_id, None)) is not None:
                spans += _spans(trace, record)
        if not spans:
            return
        scope = {"scope": {"name": "hydragate"}, "spans": spans}
        body = json.dumps({"resourceSpans": [{"resource": self._resource, "scopeSpans": [scope]}]}).encode()
        reply = await self.resources.caller.call(self._endpoint, "POST", self._fields, body)
        if not 200 <= reply.status < 300:
            raise NotTaken(f"{self.config.endpoint} answered {reply.status}")

    def _continued(self, exchange: Exchange) -> tuple[str, str, bool, str] | None:
        """Trace, parent, whether it is sampled, flags; None if there is nothing that may be continued."""
        values = headers.get_all(exchange.headers, _TRACEPARENT)
        if not values:
            return None
        trusted = self.config.incoming == "continue" or (self.config.incoming == "trusted" and exchange.peer_trusted)
        found = _PARENT.fullmatch(values[0].strip()) if trusted and len(values) == 1 else None
        if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]) or not int(found[2], 16):
            return None
        if not int(found[3], 16):
            return None
        sampled = bool(int(found[4], 16) & 1)
        return found[2].decode(), found[3].decode(), sampled, "01" if sampled else "00"

    def _begun(self, exchange: Exchange) -> tuple[str, str, bool, str]:
        headers.remove(exchange.headers, _TRACESTATE)  # it belongs to the trace that is not continued
        trace_id = self._bits(128) or 1
        sampled = (trace_id & 0xFFFF_FFFF_FFFF_FFFF) < self._threshold
        return f"{trace_id:032x}", "", sampled, "01" if sampled else "00"


def _spans(trace: Trace, record: Record) -> list[dict[str, Any]]:
    begun_ns = int(record.at_s * 1e9)
    about: dict[str, Any] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "url.scheme": trace.scheme,
        "url.path": record.path.decode("latin-1"),
        "server.address": record.host,
        "client.address": record.client_ip,
        "http.route": trace.pattern,
        "http.request.body.size": record.bytes_in,
        "http.response.body.size": record.bytes_out,
        "hydragate.route": record.route,
        "hydragate.outcome": record.outcome,
        "hydragate.consumer.id": record.consumer_id,
        "hydragate.cache.status": record.cache_status,
        "hydragate.request.id": record.request_id,
    }
    name = f"{record.method} {trace.pattern}".strip()
    server = _span(trace, trace.server_span, trace.parent, name, _SERVER, begun_ns, record.duration_ms, about)
    if record.status >= 500:
        server["status"] = {"code": _ERROR, "message": record.detail or record.outcome}
    if record.upstream_ms is None:
        return [server]
    host, _, port = record.target.rpartition(":")
    about = {
        "http.request.method": record.method,
        "http.response.status_code": record.status if record.outcome == "ok" else None,
        "server.address": host or record.target,
        "server.port": int(port) if port.isdecimal() else None,
        "http.request.resend_count": record.tries - 1 or None,
    }
    sent_ns = begun_ns + int(record.gateway_ms * 1e6)
    client = _span(
        trace, trace.client_span, trace.server_span, record.method, _CLIENT, sent_ns, record.upstream_ms, about
    )
    if record.status >= 400:
        client["status"] = {"code": _ERROR}
    return [server, client]


def _span(
    trace: Trace, span: str, parent: str, name: str, kind: int, begun_ns: int, took_ms: float, about: dict[str, Any]
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "traceId": trace.id, "spanId": span, "name": name, "kind": kind, "flags": 1,
        "startTimeUnixNano": str(begun_ns), "endTimeUnixNano": str(begun_ns + int(took_ms * 1e6)),
        "attributes": _attributes(about),
    }  # fmt: skip
    if parent:
        said["parentSpanId"] = parent
    return said


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
        if value is not None and value != ""
    ]
