from __future__ import annotations

from typing import Any

import pytest

from gateway.proxy import headers as fields
from gateway.proxy.balancer import Balancer
from gateway.proxy.exchange import Exchange
from gateway.proxy.snapshot import CarePolicy, StickyPolicy, UpstreamSpec
from tests.proxy.gatewaying import Bench, request, route, table, target, upstream
from tests.upstream import OK, Wire, serving

SECRET = b"s" * 50
PATHS = ("/", "/fails")
POLICY = StickyPolicy(b"node")
TARGETS = [target(port) for port in (1, 2, 3)]


def sticky(*, policy: StickyPolicy = POLICY, **changes: Any) -> UpstreamSpec:
    return upstream("up", *TARGETS, sticky=policy, **changes)


def asking(value: bytes = b"", peer: str = "192.0.2.1") -> Exchange:
    return request("/", headers=[(b"cookie", b"a=b; node=" + value)] if value else [], peer=peer)


def first(balancer: Balancer, up: UpstreamSpec, exchange: Exchange) -> tuple[int, bytes]:
    state = balancer.pick(up, (), exchange)
    field = balancer.cookie(up, state, exchange)
    assert field is not None
    return state.target.port, field[1].partition(b";")[0].partition(b"=")[2]


@pytest.mark.parametrize("balancing", ["round-robin", "least-connections", "ewma", "consistent-hashing"])
def test_the_cookie_leads_back_whatever_the_balancing(balancing: str) -> None:
    balancer, up = Balancer(secret=SECRET), sticky(balancing=balancing)
    port, value = first(balancer, up, asking())
    for number in range(20):
        again = asking(value, f"10.0.0.{number}")
        state = balancer.pick(up, (), again)
        assert state.target.port == port
        assert balancer.cookie(up, state, again) is None  # it has it


def test_other_workers_know_the_cookie_and_other_secrets_do_not() -> None:
    up = sticky()
    port, value = first(Balancer(secret=SECRET), up, asking())
    assert {Balancer(secret=SECRET).pick(up, (), asking(value)).target.port for _ in range(3)} == {port}
    stranger = Balancer(secret=b"other")
    assert {stranger.pick(up, (), asking(value)).target.port for _ in range(3)} == {1, 2, 3}
    assert b"127" not in value
    assert (
        first(Balancer(secret=SECRET), upstream("down", *TARGETS, sticky=StickyPolicy(b"node")), asking())[1] != value
    )


def test_a_dead_target_means_another_and_a_new_cookie() -> None:
    balancer, up = Balancer(secret=SECRET), sticky()
    port, value = first(balancer, up, asking())
    balancer.mark(frozenset({("up", f"127.0.0.1:{port}")}))
    other, new = first(balancer, up, asking(value))
    assert other != port
    assert new != value
    assert {balancer.pick(up, (), asking(new)).target.port for _ in range(6)} == {other}


def test_a_made_up_cookie_is_as_none() -> None:
    balancer, up = Balancer(secret=SECRET), sticky()
    for value in (b"127.0.0.1:1", b"", b"A" * 4000, b"\xff\x00"):
        first(balancer, up, asking(value))


@pytest.mark.parametrize(
    ("policy", "attributes"),
    [
        (StickyPolicy(b"node"), b"; Path=/; HttpOnly"),
        (StickyPolicy(b"node", 60, "/app", True, False, "none"), b"; Path=/app; Max-Age=60; Secure; SameSite=None"),
        (StickyPolicy(b"node", http_only=False, same_site="lax"), b"; Path=/; SameSite=Lax"),
    ],
)
def test_attributes(policy: StickyPolicy, attributes: bytes) -> None:
    balancer, up, exchange = Balancer(secret=SECRET), sticky(policy=policy), asking()
    field = balancer.cookie(up, balancer.pick(up, (), exchange), exchange)
    assert field is not None
    name, value = field
    assert (name, value[value.index(b";") :]) == (b"set-cookie", attributes)


@pytest.mark.parametrize("care", [None, CarePolicy(max_concurrency=5)])
async def test_who_answers_is_kept_and_who_fails_is_not(care: CarePolicy | None) -> None:
    async def moody(wire: Wire) -> None:
        while head := await wire.head():
            await wire.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n" if b"/fails" in head else OK)

    async with serving(moody) as one:
        up = upstream("up", target(one.port), sticky=POLICY, care=care)
        async with Bench(table([route("all", "/*")], [up])) as bench:
            found = [fields.get_all((await bench.get(path))[0].response_headers or [], b"set-cookie") for path in PATHS]
            assert [len(cookies) for cookies in found] == [1, 0]
            value = found[0][0].partition(b";")[0]
            again, _ = await bench.get("/", headers=[(b"cookie", value)])
            assert fields.get(again.response_headers or [], b"set-cookie") is None
