"""Discovery against a real DNS server and a real HTTP source: what is found, what is kept, how often it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from gateway.proxy.balancer import Balancer
from gateway.proxy.board import Board
from gateway.proxy.calls import Calls
from gateway.proxy.discovery import Discovered, Discovery, Unusable, listed
from gateway.proxy.fence import Fence
from gateway.proxy.snapshot import DiscoveryPolicy, TargetSpec, UpstreamSpec
from gateway.proxy.transport import transport_key
from tests.dns import DnsServer
from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.running import Stopwatch
from tests.upstream import OK, Wire, answering, serving

NAME = "app.test"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


@asynccontextmanager
async def following(
    *upstreams: UpstreamSpec, fence: Fence | None = None, kept: tuple[Discovered, ...] = ()
) -> AsyncIterator[Discovery]:
    fence = fence or Fence()
    calls = Calls(fence)
    discovery = Discovery(calls, fence)
    discovery.recall(kept)
    discovery.aim(upstreams)
    await discovery.settle(5)
    try:
        yield discovery
    finally:
        await discovery.aclose()
        await calls.aclose()


async def comes(condition: Callable[[], Any], timeout_s: float = 8.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def by_dns(server: DnsServer, *own: TargetSpec, kind: Any = "dns", port: int = 80, **fields: Any) -> UpstreamSpec:
    policy = DiscoveryPolicy(kind, fields.pop("name", NAME), port if kind == "dns" else 0, resolver=server.place)
    return upstream("up", *own, discovery=policy, **fields)


def by_http(port: int, interval_s: float = 0.05) -> UpstreamSpec:
    return upstream(
        "up", discovery=DiscoveryPolicy("http", url=f"http://127.0.0.1:{port}/targets", interval_s=interval_s)
    )


def addresses(discovery: Discovery, spec: UpstreamSpec) -> list[str]:
    return [one.address for one in discovery.applied(spec).targets]


def state(discovery: Discovery) -> Discovered:
    return next(discovery.shown())


# --- DNS


async def test_addresses_of_a_name_stand_beside_configured_targets(server: DnsServer) -> None:
    server.zone[f"{NAME}.", "A"] = 60, ["127.0.0.3", "127.0.0.2"]
    own = target(80, host="127.0.0.3")
    spec = by_dns(server, own)
    async with following(spec) as discovery:
        now = discovery.applied(spec)
        assert [one.address for one in now.targets] == ["127.0.0.3:80", "127.0.0.2:80"]
        assert now.targets[0] is own
        assert (now.targets[1].name, now.targets[1].authority) == (NAME, b"app.test")
        assert discovery.applied(now) is now
        assert state(discovery).state == "fresh"
        assert state(discovery).error == ""


async def test_ipv6_only_where_there_is_no_ipv4(server: DnsServer) -> None:
    server.zone[f"{NAME}.", "AAAA"] = 60, ["::1"]
    spec = by_dns(server)
    async with following(spec) as discovery:
        assert addresses(discovery, spec) == ["[::1]:80"]
    server.zone[f"{NAME}.", "A"] = 60, ["127.0.0.1"]
    async with following(spec) as discovery:
        assert addresses(discovery, spec) == ["127.0.0.1:80"]


async def test_a_change_is_followed_when_the_ttl_is_over_and_not_before(server: DnsServer) -> None:
    server.zone[f"{NAME}.", "A"] = 1, ["127.0.0.1"]
    spec = by_dns(server)
    async with following(spec) as discovery:
        server.zone[f"{NAME}.", "A"] = 60, ["127.0.0.2"]
        begun_s, watch = monotonic(), Stopwatch()
        await comes(lambda: addresses(discovery, spec) == ["127.0.0.2:80"])
        assert monotonic() - begun_s > 0.8
        assert watch.s < 1.6
    assert server.asked == [(f"{NAME}.", "A")] * 2


async def test_a_ttl_of_nothing_is_a_second(server: DnsServer) -> None:
    server.zone[f"{NAME}.", "A"] = 0, ["127.0.0.1"]
    async with following(by_dns(server)):
        begun_s = monotonic()
        await comes(lambda: len(server.asked) == 3)
        assert monotonic() - begun_s > 1.8


@pytest.mark.parametrize("manner", ["silent", "garbage", "servfail", "gone", "nothing of that kind"])
async def test_the_last_good_addresses_are_kept_and_that_is_said(server: DnsServer, manner: str) -> None:
    server.zone[f"{NAME}.", "A"] = 1, ["127.0.0.1"]
    spec = by_dns(server)
    async with following(spec) as discovery:
        before = state(discovery).refreshed_s
        if manner == "gone":
            server.zone.clear()
        elif manner == "nothing of that kind":
            server.zone = {(f"{NAME}.", "TXT"): (1, ["x"])}
        else:
            server.manner = manner
        await comes(lambda: state(discovery).error)
        assert (state(discovery).state, state(discovery).refreshed_s) == ("stale", before)
        assert addresses(discovery, spec) == ["127.0.0.1:80"]
        server.manner = "well"
        server.zone[f"{NAME}.", "A"] = 60, ["127.0.0.2"]
        await comes(lambda: state(discovery).state == "fresh")
        assert addresses(discovery, spec) == ["127.0.0.2:80"]


async def test_negative_answers_are_asked_for_again_with_growing_pauses(server: DnsServer) -> None:
    spec = by_dns(server)
    async with following(spec) as discovery:
        assert (state(discovery).state, state(discovery).targets) == ("failed", ())
        assert "does not exist" in state(discovery).error
        begun_s = monotonic()
        await comes(lambda: len({*enumerate(server.asked)}) >= 3)  # after one, then two seconds
        assert monotonic() - begun_s > 2.0


async def test_services_have_weights_priorities_and_names(server: DnsServer) -> None:
    server.zone |= {
        ("_http._tcp.app.test.", "SRV"): (
            60, ["1 5 81 a.test.", "1 0 82 b.test.", "2 9 83 c.test.", "1 1 84 gone.test."]
        ),
        ("a.test.", "A"): (60, ["127.0.0.1", "127.0.0.2"]), ("b.test.", "A"): (60, ["127.0.0.3"]),
        ("c.test.", "AAAA"): (60, ["::1"]),
    }  # fmt: skip
    spec = by_dns(server, kind="srv", name="_http._tcp.app.test")
    async with following(spec) as discovery:
        found = discovery.applied(spec).targets
    assert [(one.address, one.weight, one.priority, one.authority) for one in found] == [
        ("127.0.0.1:81", 5, 1, b"a.test:81"), ("127.0.0.2:81", 5, 1, b"a.test:81"),
        ("127.0.0.3:82", 1, 1, b"b.test:82"), ("[::1]:83", 9, 2, b"c.test:83"),
    ]  # fmt: skip


async def test_an_answer_too_long_for_udp_comes_by_tcp(server: DnsServer) -> None:
    server.zone[f"{NAME}.", "A"] = 60, [f"127.0.1.{number}" for number in range(1, 200)]
    spec = by_dns(server)
    async with following(spec) as discovery:
        assert len(addresses(discovery, spec)) == 199


def test_others_of_a_higher_priority_wait_until_none_of_the_lowest_is_well() -> None:
    first, second, spare = (TargetSpec(n, f"10.0.0.{n}", 80, 100, priority=n // 3) for n in (1, 2, 3))
    balancer, up = Balancer(), upstream("up", first, second, spare)

    def chosen() -> set[str]:
        return {balancer.pick(up).target.host for _ in range(10)}

    assert chosen() == {"10.0.0.1", "10.0.0.2"}
    balancer.mark(frozenset({("up", first.address)}))
    assert chosen() == {"10.0.0.2"}
    assert balancer.pick(up, {second.address}).target is spare  # tried, and no other of its kind is left
    balancer.mark(frozenset({("up", first.address), ("up", second.address)}))
    assert chosen() == {"10.0.0.3"}
    balancer.mark(frozenset())
    assert chosen() == {"10.0.0.1", "10.0.0.2"}


# --- JSON over HTTP


async def test_a_list_is_fetched_again_and_again_and_kept_while_the_source_is_ill() -> None:
    said: list[bytes] = [
        json.dumps([{"host": "127.0.0.1", "port": 81, "weight": 7}, {"host": "b.test", "port": 82}]).encode()
    ]

    async def script(wire: Wire) -> None:
        while await wire.head():
            await wire.send(said[0] if said[0].startswith(b"HTTP") else ok(said[0]))

    async with serving(script) as source, following(spec := by_http(source.port)) as discovery:
        assert addresses(discovery, spec) == ["127.0.0.1:81", "b.test:82"]
        assert [one.weight for one in discovery.applied(spec).targets] == [7, 100]
        for ill in (b"[]", b"no json", b'[{"host": "x"}]', b"HTTP/1.1 503 Oh\r\ncontent-length: 0\r\n\r\n"):
            said[0] = ill
            await comes(lambda: state(discovery).state == "stale")
            assert len(addresses(discovery, spec)) == 2
            said[0] = b'[{"host": "127.0.0.1", "port": 81}, {"host": "127.0.0.2", "port": 81}]'
            await comes(lambda: state(discovery).state == "fresh")
    assert all(head.startswith(b"GET /targets HTTP/1.1\r\n") for head in source.heads)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "no list"),
        (b'[{"host": "a", "port": "80"}]', "at 0/port"),
        (b'[{"host": "a", "port": 80}, {"host": "a", "port": 0}]', "at 1/port"),
        (b'[{"host": "a b", "port": 80}]', "neither an address nor"),
        (b'[{"host": "unix:/run/x", "port": 80}]', "neither an address nor"),
        (b'[{"host": "*.a", "port": 80}]', "neither an address nor"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(body: bytes, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        listed(body)


# --- the fence, the disk, the requests


async def test_what_is_found_where_no_upstream_may_be_is_left_out(server: DnsServer) -> None:
    server.zone[f"{NAME}.", "A"] = 1, ["127.0.0.1", "169.254.169.254"]
    spec = by_dns(server)
    async with following(spec) as discovery:
        assert addresses(discovery, spec) == ["127.0.0.1:80"]
        server.zone[f"{NAME}.", "A"] = 1, ["169.254.169.254"]  # rebound as a whole
        await comes(lambda: state(discovery).state == "stale")
        assert addresses(discovery, spec) == ["127.0.0.1:80"]
        assert "metadata service" in state(discovery).error


async def test_a_source_where_nothing_may_be_asked_is_not_asked(server: DnsServer) -> None:
    async with serving(answering(OK)) as source:
        fence = Fence(deny=["127.0.0.1"])
        async with following(replace(by_http(source.port), name="h"), by_dns(server), fence=fence) as discovery:
            assert {one.state for one in discovery.shown()} == {"failed"}
        assert (source.connections, server.asked) == (0, [])


async def test_a_worker_begins_with_what_was_kept_on_disk(server: DnsServer, tmp_path: Path) -> None:
    server.zone[f"{NAME}.", "A"] = 60, ["127.0.0.1"]
    spec, board = by_dns(server), Board(tmp_path)
    async with following(spec) as discovery:
        board.post_discovered(discovery.shown())
    kept = tuple(Board(tmp_path, clock=lambda: 0.0).discovered())  # after a restart of the machine
    server.manner = "silent"
    calls = Calls()
    discovery = Discovery(calls, Fence())
    discovery.recall(kept)
    discovery.aim([spec])
    assert addresses(discovery, spec) == ["127.0.0.1:80"]
    assert state(discovery).state == "stale"
    await discovery.aclose()
    other = by_dns(server, name="other.test")  # not what was kept
    discovery.recall(kept)
    discovery.aim([other])
    assert addresses(discovery, other) == []
    await discovery.aclose()
    await calls.aclose()


async def test_a_swap_leaves_requests_under_way_alone_and_keeps_what_is_known_of_those_that_stay() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(wire: Wire) -> None:
        while await wire.head():
            begun.set()
            await go.wait()
            await wire.send(OK)

    async with serving(slow) as one, serving(answering(OK)) as other:
        leaving, staying = (replace(target(up.port), discovered=True) for up in (one, other))
        spec = upstream("up", leaving, staying)
        async with Bench(table([route("all", "/*")], [spec])) as bench:
            assert bench.pipeline.table is not None
            balancer = bench.forwarder.balancer
            tasks = [asyncio.ensure_future(bench.get("/x")) for _ in range(2)]
            await begun.wait()
            before = balancer.state(spec, staying)
            before.failed("status 500")
            pool = bench.forwarder.transports.get(spec, staying)

            def now(upstream: UpstreamSpec) -> UpstreamSpec:
                return replace(upstream, targets=(staying,))

            bench.pipeline.table.retarget(now)
            bench.forwarder.retain(list(bench.pipeline.table.snapshot.upstreams.values()))
            assert [(await bench.get("/x"))[0].target for _ in range(4)] == [staying.address] * 4
            assert balancer.state(spec, staying) is before
            assert bench.forwarder.transports.get(spec, staying) is pool
            go.set()
            answers = [(await task)[0] for task in tasks]
            assert [answer.status for answer in answers] == [200, 200]
            assert {answer.target for answer in answers} == {leaving.address, staying.address}
    assert transport_key(spec, staying) != transport_key(spec, replace(staying, name="other"))
