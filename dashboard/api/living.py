"""What the admin API answers about what only workers know: open WebSockets, traces, how targets stand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from dashboard.api.shapes import Answer
from dashboard.traces import REQUESTS, SECONDS
from dashboard.websockets import GOING_AWAY, REASON_BYTES
from gateway.proxy.tracing import MAX_REQUESTS, MAX_SECONDS
from keys.api.shapes import Given, Text

# --- WebSockets -------------------------------------------------------------------------------------------------------


class WebSocket(Answer):
    """One that is open. Bytes are those of messages."""

    id: str
    """The request id of its handshake; its usage row, written when it ends, has the same."""
    node: str
    worker: int
    route_id: int
    route: str
    """As it was called at the handshake, like the other names."""
    consumer_id: int | None
    """null: nobody was identified, or only by a token."""
    consumer: str | None
    client_ip: str | None
    host: str
    path: str
    """Without its query."""
    upstream_id: int
    upstream: str
    target: str
    opened_at: datetime
    last_message_at: datetime | None
    """In either direction; null: none yet."""
    messages_in: int
    """From the client."""
    messages_out: int
    bytes_in: int
    bytes_out: int


class WebSocketPage(Answer):
    items: list[WebSocket]
    next: str | None
    """URL of the next page, of those opened earlier."""
    count: int
    """All that fit the filters, on all pages."""
    silent: list[str]
    """Workers (node/worker) that did not answer in time: what they have open is missing here."""


def _short(reason: str) -> str:
    if len(reason.encode()) > REASON_BYTES:
        raise ValueError(f"A reason has at most {REASON_BYTES} bytes in UTF-8.")
    return reason


Reason = Annotated[
    str, StringConstraints(pattern=r"^[^\x00]*$", max_length=REASON_BYTES), AfterValidator(_short)
]  # fmt: skip
Code = Literal[1000, 1001, 1008, 1011, 1012, 1013] | Annotated[int, Field(ge=3000, le=4999)]


class WebSocketClose(Given):
    code: Code = GOING_AWAY
    """Close code for both sides (RFC 6455 §7.4); from 3000 on what the application understands."""
    reason: Reason = ""


class WebSocketsClose(WebSocketClose):
    """At least one of route, consumer and node."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}
                for name in ("route", "consumer", "node")
            ]
        }
    )
    route: Text = ""
    """By name or id."""
    consumer: Text = ""
    """By name or id."""
    node: Text = ""

    @model_validator(mode="after")
    def _narrowed(self) -> WebSocketsClose:
        if not (self.route or self.consumer or self.node):
            raise ValueError("Name a route, a consumer or a node: all WebSockets at once are closed by a roll.")
        return self


class WebSocketsClosed(Answer):
    count: int
    items: list[WebSocket]
    """As they were. Of many, not all."""
    silent: list[str]
    """Workers (node/worker) that did not answer in time: what they have open may be open still."""


# --- traces -----------------------------------------------------------------------------------------------------------


class TraceWrite(Given):
    """What is given has to hold together."""

    route: Annotated[Text, Field(max_length=100)] = ""
    """Of this route, by name or id. Empty: of any."""
    consumer: Annotated[Text, Field(max_length=150)] = ""
    """Of this consumer, by name or id. Empty: of anybody."""
    client_ip: Annotated[str, Field(max_length=45, pattern=r"^[0-9A-Fa-f:.]*$")] = ""
    """From this address. Empty: from anywhere."""
    requests: int = Field(REQUESTS, ge=1, le=MAX_REQUESTS)
    """So many, of each worker."""
    seconds: int = Field(SECONDS, ge=1, le=MAX_SECONDS)
    """For so long."""


class TraceBegun(Answer):
    id: str
    until: datetime
    workers: int
    """So many trace."""
    silent: list[str]
    """Workers (node/worker) that did not answer in time, and do not."""


class TraceStep(Answer):
    plugin: str
    setting: int
    """Id of the plugin setting."""
    phase: Literal["access", "response"]
    result: str
    """`passed`, `refused 403 acl_denied`, `answered 301`, `would refuse (…)` in a dry run, `not for this request`,
    `failed ValueError`, `left`."""
    us: float
    """Microseconds until it was done, waiting included."""


class TracedRequest(Answer):
    request_id: str
    """Its usage row has the same."""
    at: datetime
    node: str
    worker: int
    method: str
    host: str
    path: str
    """Without its query."""
    route_id: int
    route: str
    upstream: str | None
    target: str | None
    consumer: str | None
    status: int
    outcome: str
    detail: str
    duration_ms: float
    gateway_ms: float
    upstream_ms: float | None
    steps: list[TraceStep]
    """In the order in which they were done."""


class Trace(Answer):
    id: str
    running: bool
    """More may come."""
    items: list[TracedRequest]
    """The newest first."""
    silent: list[str]
    """Workers (node/worker) that did not answer in time: what they have is missing here."""


# --- status -----------------------------------------------------------------------------------------------------------


class LiveVersion(Answer):
    number: int
    """0: nothing was published yet."""
    digest: str


class WorkerStatus(Answer):
    node: str
    worker: int
    pid: int
    role: str
    version: int
    current: bool
    """Serves the live version."""
    applied_at: datetime
    apply_ms: float
    seen_at: datetime
    error: str


class Degraded(Answer):
    part: str
    detail: str


class ProbeStatus(Answer):
    at: datetime | None
    fault: str
    """Why the target did not pass; empty: it did."""
    took_ms: float
    streak: int
    """Probes in a row that disagree with the state."""


class TargetStatus(Answer):
    id: int
    """0: discovered."""
    address: str
    weight: int
    enabled: bool
    state: Literal["up", "draining", "drained", "down", "ejected", "disabled", "unknown"]
    """As the node sees it that sees it worst. `drained`: its last request is over. `unknown`: no node reports."""
    since: datetime | None
    """null: since the nodes started, or before."""
    nodes: int
    """So many nodes report it."""
    nodes_agreeing: int
    """And so many of them see that state."""
    failures: int
    """In a row, in the worker that saw most."""
    fault: str
    """The last of them; empty: none since the last good answer."""
    in_flight: int
    """Requests under way, on all nodes."""
    latency_ms: float | None
    """Moving average of the time until an answer begins; null: none yet."""
    probe: ProbeStatus | None
    """The last one; null: not probed."""


class GuardStatus(Answer):
    """Of all workers that have it in use; each has its own circuit and its own ceiling."""

    circuit: Literal["closed", "half-open", "open"] | None
    """The worst of all workers; null: this upstream has no circuit breaker."""
    workers: int
    workers_open: int
    """So many of them have their circuit open, or try it."""
    under_way: int
    """Requests and open WebSockets below the ceiling."""
    waiting: int
    """Requests that wait for a place."""


class UpstreamStatus(Answer):
    id: int
    name: str
    balancing: str
    guard: GuardStatus | None
    """null: it has neither circuit breaker nor ceiling, no worker has used it yet, or none can be asked."""
    requests: int
    server_errors: int
    error_share: float | None
    """0 to 1; null: no requests."""
    targets: list[TargetStatus]


class GatewayStatus(Answer):
    version: LiveVersion
    workers: list[WorkerStatus]
    degraded: list[Degraded]
    window_s: int
    """The requests and errors of upstreams are those of so many last seconds."""
    upstreams: list[UpstreamStatus]
