"""A real collector, over real connections."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.plugins.attempts import NotTaken
from gateway.plugins.opentelemetry import MAX_OPEN
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import UpstreamError
from gateway.proxy.record import Record, record_of
from gateway.proxy.snapshot import RouteSpec
from tests.upstream import Wire, serving

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
UNSAMPLED = f"00-{TRACE}-{SPAN}-00".encode()
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


class Collector:
    def __init__(self) -> None:
        self.status, self.port = 200, 0
        self.bodies: list[Any] = []
        self.heads: list[str] = []

    async def script(self, wire: Wire) -> None:
        while head := await wire.head():
            self.heads.append(head.decode())
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert length is not None
            self.bodies.append(json.loads(await wire.body(int(length[1]))))
            await wire.send(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % self.status)

    def config(self, **more: Any) -> dict[str, Any]:
        return {"endpoint": f"http://127.0.0.1:{self.port}/v1/traces", **more}

    def spans(self) -> list[dict[str, Any]]:
        return [span for body in self.bodies for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"]]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    async with serving(collector.script) as service:
        collector.port = service.port
        yield collector


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in attributes}


def seen(plugin: Any, exchange_of: Any, *fields: tuple[bytes, bytes], **more: Any) -> Any:
    """A request with its answer; its headers are those for the upstream."""
    route = RouteSpec(3, "users", (), ("/users/{id}",), frozenset(), (), (), ())
    defaults = {"id": f"r{id(fields)}", "host": "api.test", "client_ip": "192.0.2.7", "status": 200, "outcome": "ok"}
    exchange = exchange_of(path="/users/7", headers=list(fields), **{**defaults, **more})
    exchange.route = route
    plugin.access(exchange)
    exchange.target, exchange.tries = "10.0.0.1:8080", more.get("tries", 1)
    exchange.sent_s = exchange.started_s + 0.010
    exchange.upstream_head_s = exchange.sent_s + 0.030
    exchange.finished_s = exchange.started_s + 0.050
    plugin.log(exchange)
    return exchange


def sent_on(exchange: Any) -> tuple[str, str, str]:
    found = TRACEPARENT.fullmatch((headers.get(exchange.headers, b"traceparent") or b"").decode())
    assert found is not None
    return found[1], found[2], found[3]


async def test_a_trace_is_continued_and_told(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config(
        authorization="Bearer t", service_name="edge", resource_attributes=["deployment.environment.name: test"],
    ))  # fmt: skip
    exchange = seen(plugin, exchange_of, (b"traceparent", PARENT), (b"tracestate", b"a=b"), query=b"token=secret")
    trace, span, flags = sent_on(exchange)
    assert (trace, flags) == (TRACE, "01")
    assert headers.get(exchange.headers, b"tracestate") == b"a=b"
    await plugin.batch([record_of(exchange)])
    assert "authorization: Bearer t" in collector.heads[0]
    about = plain(collector.bodies[0]["resourceSpans"][0]["resource"]["attributes"])
    assert about == {"service.name": "edge", "deployment.environment.name": "test"}
    server, client = collector.spans()
    assert (server["traceId"], server["parentSpanId"], server["kind"], server["name"]) == (
        TRACE, SPAN, 2, "GET /users/{id}",
    )  # fmt: skip
    assert (client["traceId"], client["spanId"], client["parentSpanId"], client["kind"]) == (
        TRACE, span, server["spanId"], 3,
    )  # fmt: skip
    begun = int(server["startTimeUnixNano"])
    assert abs(int(server["endTimeUnixNano"]) - begun - 50_000_000) < 1000
    assert abs(int(client["startTimeUnixNano"]) - begun - 10_000_000) < 1000
    assert abs(int(client["endTimeUnixNano"]) - begun - 40_000_000) < 1000
    said = plain(server["attributes"])
    assert (said["http.request.method"], said["http.response.status_code"], said["url.path"], said["http.route"]) == (
        "GET", "200", "/users/7", "/users/{id}",
    )  # fmt: skip
    assert (said["hydragate.route"], said["client.address"], said["server.address"]) == (
        "users", "192.0.2.7", "api.test",
    )  # fmt: skip
    assert plain(client["attributes"])["server.port"] == "8080"
    assert "secret" not in json.dumps(collector.bodies)
    assert "status" not in server


async def test_the_parent_decides_also_against_it(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config())
    exchange = seen(plugin, exchange_of, (b"traceparent", UNSAMPLED))
    assert sent_on(exchange)[::2] == (TRACE, "00")
    await plugin.batch([record_of(exchange)])
    assert collector.bodies == []
    never = make("opentelemetry", collector.config(sampling_rate=0))
    assert sent_on(seen(never, exchange_of, (b"traceparent", PARENT)))[2] == "01"
    assert sent_on(seen(never, exchange_of))[2] == "00"


def test_a_rate_is_a_share_of_the_traces_that_begin_here(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config(sampling_rate=0.25))
    found = [sent_on(seen(plugin, exchange_of)) for _ in range(4000)]
    assert 850 < sum(flags == "01" for _, _, flags in found) < 1150
    assert len({trace for trace, _, _ in found}) == 4000
    for trace, _, flags in found:
        assert (int(trace[16:], 16) < 0.25 * 2**64) == (flags == "01")


@pytest.mark.parametrize("value", [
    b"", b"x", PARENT + b"-x", b"ff" + PARENT[2:], b"00-" + b"0" * 32 + PARENT[35:], PARENT.upper(),
    PARENT[:36] + b"0" * 16 + b"-01", PARENT[:-1],
])  # fmt: skip
def test_what_is_no_parent_begins_a_new_trace(make, exchange_of, collector: Collector, value: bytes) -> None:
    plugin = make("opentelemetry", collector.config())
    exchange = seen(plugin, exchange_of, (b"traceparent", value), (b"tracestate", b"a=b"))
    assert sent_on(exchange)[0] != TRACE
    assert headers.get(exchange.headers, b"tracestate") is None


def test_later_versions_are_continued_as_ours_and_two_parents_are_none(make, exchange_of, collector) -> None:
    plugin = make("opentelemetry", collector.config())
    assert sent_on(seen(plugin, exchange_of, (b"traceparent", b"01" + PARENT[2:] + b"-more")))[0] == TRACE
    assert sent_on(seen(plugin, exchange_of, (b"traceparent", PARENT), (b"traceparent", PARENT)))[0] != TRACE


@pytest.mark.parametrize(("incoming", "trusted", "continued"), [
    ("continue", False, True), ("trusted", True, True), ("trusted", False, False), ("restart", True, False),
])  # fmt: skip
def test_who_may_say_which_trace_it_is(make, exchange_of, collector, incoming, trusted, continued) -> None:
    plugin = make("opentelemetry", collector.config(incoming=incoming))
    exchange = seen(plugin, exchange_of, (b"traceparent", PARENT), peer_trusted=trusted)
    assert (sent_on(exchange)[0] == TRACE) == continued


async def test_errors_are_told_as_such(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config())
    failed = seen(plugin, exchange_of, id="a", status=502, outcome="upstream_broke", detail="It broke.", tries=3)
    refused = seen(plugin, exchange_of, id="b", status=401, outcome="key_missing")
    refused.sent_s = 0.0
    missing = seen(plugin, exchange_of, id="c", status=404)
    await plugin.batch([record_of(failed), record_of(refused), record_of(missing)])
    first, attempt, second, third, other = collector.spans()
    assert first["status"] == {"code": 2, "message": "It broke."}
    assert attempt["status"] == {"code": 2}
    assert plain(attempt["attributes"])["http.request.resend_count"] == "2"
    assert "http.response.status_code" not in plain(attempt["attributes"])
    assert "status" not in second
    assert "parentSpanId" not in second
    assert "status" not in third
    assert other["status"] == {"code": 2}


async def test_a_collector_that_does_not_take_them_is_told_of(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config())
    collector.status = 503
    with pytest.raises(NotTaken, match="503"):
        await plugin.batch([record_of(seen(plugin, exchange_of))])
    away = make("opentelemetry", {"endpoint": "http://127.0.0.1:1/v1/traces"})
    with pytest.raises(UpstreamError):
        await away.batch([record_of(seen(away, exchange_of))])


async def test_what_never_comes_back_is_forgotten(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config())
    first: Record | None = None
    for number in range(MAX_OPEN + 1):
        exchange = seen(plugin, exchange_of, id=f"r{number}")
        first = first or record_of(exchange)
    assert first is not None
    await plugin.batch([first])
    assert collector.bodies == []
    assert len(plugin._open) == MAX_OPEN


def test_a_request_that_ends_before_it_was_seen_leaves_nothing(make, exchange_of, collector: Collector) -> None:
    plugin = make("opentelemetry", collector.config())
    plugin.log(exchange_of())
    assert not plugin._open


@pytest.mark.parametrize("config", [
    {}, {"endpoint": "collector:4318"}, {"sampling_rate": 1.1}, {"resource_attributes": ["x"]}, {"incoming": "never"},
    {"authorization": "a\nb"}, {"service_name": ""},
])  # fmt: skip
def test_what_cannot_work_is_refused(registry, config) -> None:
    good = {"endpoint": "http://collector:4318/v1/traces"} if config else {}
    with pytest.raises(ConfigProblems):
        registry.validate("opentelemetry", {**good, **config})
