from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.proxy.balancer import Balancer
from gateway.proxy.exchange import Consumer, Exchange
from gateway.proxy.snapshot import HashPolicy, TargetSpec, UpstreamSpec
from tests.proxy.gatewaying import request, target, upstream

KEYS = 6_000


def hashed(*targets: TargetSpec, **fields: Any) -> UpstreamSpec:
    return upstream("up", *targets, balancing="consistent-hashing", **fields)


def chosen(balancer: Balancer, up: UpstreamSpec, keys: int = KEYS) -> list[int]:
    return [balancer.pick(up, (), request("/", peer=f"10.0.{n >> 8}.{n & 255}")).target.port for n in range(keys)]


@pytest.mark.parametrize("number", [3, 8, 20])
def test_removing_one_moves_its_own_keys_and_no_others(number: int) -> None:
    targets = [target(port) for port in range(1, number + 1)]
    before, after = chosen(Balancer(), hashed(*targets)), chosen(Balancer(), hashed(*targets[1:]))
    assert all(one == 1 for one, other in zip(before, after, strict=True) if one != other)
    assert before.count(1) / KEYS == pytest.approx(1 / number, rel=0.3)
    spread = Counter(other for one, other in zip(before, after, strict=True) if one == 1)
    assert len(spread) == number - 1  # not all to one neighbour


def test_a_change_of_weight_moves_only_what_it_must() -> None:
    light, heavy = (hashed(target(1), target(2), target(3, weight=weight)) for weight in (100, 200))
    before, after = chosen(Balancer(), light), chosen(Balancer(), heavy)
    assert all(other == 3 for one, other in zip(before, after, strict=True) if one != other)
    assert after.count(3) / KEYS == pytest.approx(0.5, rel=0.1)


def test_all_workers_choose_alike_whatever_the_order() -> None:
    one, two, three = (target(port) for port in (1, 2, 3))
    assert chosen(Balancer(), hashed(one, two, three), 500) == chosen(Balancer(), hashed(three, one, two), 500)


def test_keys_of_a_target_that_is_down_go_to_the_next_and_come_back() -> None:
    balancer, up = Balancer(), hashed(*(target(port) for port in (1, 2, 3)))
    before = chosen(balancer, up)
    balancer.mark(frozenset({("up", "127.0.0.1:1")}))
    down = chosen(balancer, up)
    assert all(one == 1 for one, other in zip(before, down, strict=True) if one != other)
    assert Counter(down).keys() == {2, 3}
    balancer.mark(frozenset())
    assert chosen(balancer, up) == before
    a_key = request("/", peer="10.0.0.1")
    first = balancer.pick(up, (), a_key).target.address
    assert balancer.pick(up, {first}, a_key).target.address != first


def test_with_many_down_the_few_left_are_found() -> None:
    balancer, up = Balancer(), hashed(*(target(port) for port in range(1, 21)))
    balancer.pick(up, (), request("/"))
    balancer.mark(frozenset(("up", f"127.0.0.1:{port}") for port in range(1, 20)))
    assert set(chosen(balancer, up, 200)) == {20}


def test_slow_start_hands_keys_back_bit_by_bit() -> None:
    now = [0.0]
    balancer, up = Balancer(lambda: now[0]), hashed(target(1), target(2), slow_start_s=10.0)
    full = chosen(balancer, up).count(1)
    balancer.mark(frozenset({("up", "127.0.0.1:1")}))
    balancer.mark(frozenset())
    early = chosen(balancer, up)
    now[0] = 5.0
    later = chosen(balancer, up)
    assert early.count(1) == pytest.approx(full * 0.1, rel=0.3)
    assert later.count(1) == pytest.approx(full * 0.5, rel=0.2)
    assert all(other == 1 for one, other in zip(early, later, strict=True) if one == 1)


def asking(headers: Sequence[tuple[bytes, bytes]] = (), path: str = "/a", who: Consumer | None = None) -> Exchange:
    exchange = request(path, headers=headers, peer="192.0.2.7")
    exchange.path, exchange.consumer = path, who
    return exchange


@pytest.mark.parametrize(
    ("policy", "one", "same", "other"),
    [
        (HashPolicy("header", b"x-user"), asking([(b"x-user", b"7")]), asking([(b"x-user", b"7")], "/b"), b"x-user"),
        (HashPolicy("cookie", b"sid"), asking([(b"cookie", b"a=1;sid=7")]), asking([(b"cookie", b"sid=7")]), b"cookie"),
        (HashPolicy("path"), asking(path="/a"), asking([(b"x", b"y")], "/a"), b""),
        (HashPolicy("consumer"), asking(who=Consumer(7, "u")), asking(path="/b", who=Consumer(7, "u")), b""),
    ],
)  # fmt: skip
def test_what_the_hash_is_made_of(policy: HashPolicy, one: Exchange, same: Exchange, other: bytes) -> None:
    balancer, up = Balancer(), hashed(*(target(port) for port in range(1, 60)), hashing=policy)
    port = balancer.pick(up, (), one).target.port
    assert balancer.pick(up, (), same).target.port == port
    varied = set()
    for number in range(40):
        value = b"sid=%d" % number if other == b"cookie" else b"%d" % number
        exchange = asking([(other or b"x", value)], f"/{number}", Consumer(number, "u"))
        varied.add(balancer.pick(up, (), exchange).target.port)
    assert len(varied) > 10


@pytest.mark.parametrize(
    "policy", [HashPolicy("header", b"x-user"), HashPolicy("cookie", b"s"), HashPolicy("consumer")]
)
def test_without_it_the_clients_address_decides(policy: HashPolicy) -> None:
    targets = [target(port) for port in range(1, 20)]
    assert chosen(Balancer(), hashed(*targets, hashing=policy), 200) == chosen(Balancer(), hashed(*targets), 200)
