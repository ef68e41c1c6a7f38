"""What each plugin adds to a request: the whole pipeline in one process, with it and without, and no network.

Counters and keys are this process' own memory: what Redis takes comes on top, shared by all requests that wait for it
at the same time (see the case `policies`). What calls out is not measured, for its time is somebody else's.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import sha256
from hmac import digest
from typing import Any

from gateway.environment import PLUGINS
from gateway.plugins.base import Refusal, Resources
from gateway.plugins.bodies import Whole
from gateway.plugins.registry import Registry
from gateway.proxy.balancer import Balancer
from gateway.proxy.downstream import Downstream
from gateway.proxy.exchange import Consumer, Credential, Exchange
from gateway.proxy.forward import Forwarder
from gateway.proxy.headers import Given
from gateway.proxy.limits import Limit, LimitState, LocalCounters
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.snapshot import PluginSpec, RouteSpec, Snapshot, TargetSpec, UpstreamSpec, WeightedUpstream
from gateway.proxy.table import RoutingTable
from gateway.proxy.transport import Transports

REQUESTS = 2000
ANNA = Credential("key", 1, "hg_live_x", Consumer(1, "anna", groups=frozenset({"staff"})))
SHARED = "what-they-both-know-32-bytes-or-more"
BODY = json.dumps({"name": "Anna", "tags": ["a", "b"], "text": "x" * 900}).encode()
Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A config and a request that gives the plugin its usual work. `first`: another plugin that must be there, and
    that is in the figure without it, too."""

    config: dict[str, Any] = field(default_factory=dict)
    headers: Fields | Callable[[], Fields] = field(default_factory=list)  # called when it begins: some hold for minutes
    body: bytes = b""
    answer: bytes = b"ok"
    first: str = ""


def _bearer() -> Fields:
    def part(value: Any) -> bytes:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256"}) + b"." + part({"sub": "anna", "exp": int(time.time()) + 3600})
    signature = urlsafe_b64encode(digest(SHARED.encode(), signed, sha256)).rstrip(b"=")
    return [(b"authorization", b"Bearer " + signed + b"." + signature)]


def _signed() -> Fields:
    date = formatdate(usegmt=True)
    signature = b64encode(digest(SHARED.encode(), f"date: {date}\nGET / HTTP/1.1".encode(), sha256)).decode()
    said = f'hmac username="anna", algorithm="hmac-sha256", headers="date request-line", signature="{signature}"'
    return [(b"date", date.encode()), (b"authorization", said.encode())]


JSON = [(b"content-type", b"application/json")]
ORIGIN = [(b"origin", b"https://app.example")]
KEY = [(b"apikey", b"hg_live_x_secret")]
SAMPLES: dict[str, Sample] = {
    "request-id": Sample(),
    "bandwidth-limiting": Sample({"bytes_per_second": 1 << 40}, answer=BODY),
    "opentelemetry": Sample({"endpoint": "http://127.0.0.1:9/v1/traces", "sampling_rate": 0}),
    "compression": Sample({"min_length": 100}, [(b"accept-encoding", b"gzip, zstd")], answer=BODY),
    "security-headers": Sample(),
    "cors": Sample({"origins": ["https://app.example"]}, ORIGIN),
    "bot-detection": Sample({"deny": ["curl"]}, [(b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64)")]),
    "redirect": Sample({"location": "https://elsewhere.example"}),
    "key-auth": Sample({}, KEY),
    "jwt": Sample({"secret": SHARED}, _bearer),
    "hmac-auth": Sample({"credentials": [{"username": "anna", "secret": SHARED}]}, _signed),
    "ip-restriction": Sample({"allow": ["192.0.2.0/24", "10.0.0.0/8"]}),
    "request-size-limiting": Sample({"allowed_payload_size": 1}, JSON, BODY),
    "acl": Sample({"allow": ["staff"]}, KEY, first="key-auth"),
    "concurrency-limiting": Sample({"max_in_flight": 100}),
    "rate-limiting": Sample({"limits": [{"limit": 1_000_000, "window": "1m", "algorithm": "token-bucket"}]}),
    "quota": Sample({"month": 1_000_000_000}),
    "request-validation": Sample(
        {"body_schema": '{"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}'},
        JSON,
        BODY,
    ),
    "fault-injection": Sample({"abort": {"status": 503, "percentage": 100}, "trigger": "X-Fail"}),
    "response-cache": Sample({}, answer=BODY),
    "request-transformer": Sample({"set": {"headers": ["X-Way: $(request.method)"]}, "remove": {"headers": ["X-A"]}}),
    "body-transformer": Sample({"request": {"set": [{"at": "/way", "value": "$(request.method)"}]}}, JSON, BODY),
    "request-termination": Sample({"status_code": 200, "body": "{}"}),
    "traffic-split": Sample({"weights": [{"upstream": "up"}]}, KEY),
    "upstream-timeout": Sample({"first_byte_timeout_ms": 1000}),
    "upstream-retry": Sample({"retry_statuses": [503]}),
    "response-transformer": Sample({"set": {"headers": ["X-Way: a"]}, "remove": {"headers": ["Server"]}}),
}
#: Why the others have no figure.
UNMEASURED = {
    "oauth2-introspection": "calls out",
    "forward-auth": "calls out",
    "basic-auth": "a password seen before costs what key-auth does",
    "http-log": "after the answer",
    "file-log": "after the answer",
    "syslog": "after the answer",
    "kafka-log": "after the answer",
    "opa": "calls out",
    "mtls-auth": "a certificate seen before costs what key-auth does",
    "openid-connect": "calls out; a session costs what opening its cookie does",
    "mirror": "what it costs is the copy, which nobody waits for",
    "websocket-limits": "not for requests",
}


class _Memory:
    """Keys and counters without Redis."""

    def __init__(self) -> None:
        self._counters = LocalCounters()

    async def check(self, limits: Sequence[tuple[str, Limit]], cost: int = 1) -> list[LimitState]:
        return self.check_local(limits, cost)

    def check_local(self, limits: Sequence[tuple[str, Limit]], cost: int = 1) -> list[LimitState]:
        return self._counters.check(limits, int(time.time() * 1000), cost)

    def find_key(self, digest: bytes) -> Credential | Refusal:
        return ANNA

    def find_login(self, username: str) -> Credential | Refusal:
        return ANNA

    def find_consumer(self, by: str, value: str) -> Credential | Refusal:
        return ANNA


def table(registry: Registry, plugins: Sequence[tuple[str, dict[str, Any]]]) -> RoutingTable:
    memory: Any = _Memory()
    upstream = UpstreamSpec(
        id=1, name="up", protocol="http", balancing="round-robin", connect_timeout_s=1, first_byte_timeout_s=1,
        idle_timeout_s=1, total_timeout_s=0, retries=0, max_connections=1, targets=(TargetSpec(1, "127.0.0.1", 9, 1),),
    )  # fmt: skip
    route = RouteSpec(1, "all", (), ("/*",), frozenset(), (), (), (WeightedUpstream("up", 100),))
    specs = tuple(
        PluginSpec(number, name, "global", "", "", 0, registry.validate(name, config))
        for number, (name, config) in enumerate(plugins, 1)
    )
    snapshot = Snapshot(1, "", {"up": upstream}, (route,), specs)
    return RoutingTable(snapshot, registry, Resources(memory, memory, memory, time.monotonic, time.time))


async def cost_us(routing: RoutingTable, sample: Sample, requests: int = REQUESTS) -> float:
    """CPU of one request, the best of five turns. Raises ValueError if it is not answered well."""

    async def forward(exchange: Exchange) -> None:
        if exchange.body is not None:
            async for _ in exchange.body:
                pass
        exchange.status = 200
        exchange.response_headers = [*JSON, (b"server", b"up"), (b"content-length", b"%d" % len(sample.answer))]
        exchange.answer_body = sample.answer

    pipeline = Pipeline(Forwarder(Transports(), Balancer(), 0), Downstream(()), lambda exchange: None)
    pipeline.table = routing
    statuses = set()
    fields = _fields(sample)
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(requests):
            exchange = _request(sample, fields)
            await pipeline.handle(exchange, forward)
            if not isinstance(exchange.answer_body, bytes):
                async for _ in exchange.answer_body:
                    pass
            await pipeline.finish(exchange, "ok")
            statuses.add(exchange.status)
        best = min(best, (time.process_time() - begun) / requests * 1e6)
    if not statuses <= {200, 301, 302, 307, 308}:
        raise ValueError(f"answered {statuses}")
    return best


def _fields(sample: Sample) -> Given:
    """As over a connection that sends them again and again."""
    fields = [(b"host", b"api.test"), (b"user-agent", b"bench"), (b"accept", b"*/*")]
    fields += sample.headers if isinstance(sample.headers, list) else sample.headers()
    return Given([*fields, (b"content-length", b"%d" % len(sample.body))] if sample.body else fields)


def _request(sample: Sample, fields: Given) -> Exchange:
    exchange = Exchange(
        method="POST" if sample.body else "GET", raw_path=b"/", query=b"", headers=fields, scheme="http",
        peer_ip="192.0.2.7", port=80, started_s=time.perf_counter(), wall_s=time.time(),
    )  # fmt: skip
    if sample.body:
        exchange.body, exchange.content_length = Whole(sample.body), len(sample.body)
    return exchange


def measured(requests: int = REQUESTS) -> dict[str, float]:
    """Microseconds that each plugin adds."""
    registry = Registry.load(PLUGINS)

    async def all_() -> dict[str, float]:
        found = {}
        for name, sample in SAMPLES.items():
            before = [(sample.first, {})] if sample.first else []
            without = await cost_us(table(registry, before), sample, requests)
            found[name] = await cost_us(table(registry, [*before, (name, sample.config)]), sample, requests) - without
        return found

    return asyncio.run(all_())


def lines(found: dict[str, float]) -> list[str]:
    """A table in Markdown."""
    rows = [f"| {name} | {added:.1f} |" for name, added in found.items()]
    return ["| plugin | adds, µs |", "|---|---|", *rows, *(f"| {name} | {why} |" for name, why in UNMEASURED.items())]
