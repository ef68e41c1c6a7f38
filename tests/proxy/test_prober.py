"""Probes on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.proxy.health import Probed
from gateway.proxy.prober import Prober, probe
from gateway.proxy.snapshot import ProbePolicy, TargetSpec, UpstreamSpec
from tests.proxy.gatewaying import target, upstream
from tests.running import free_port
from tests.upstream import OK, Wire, answering, serving, until

HTTP = ProbePolicy("http", "/up?deep=1", "", 0.05, 2.0, 2, 2, ((200, 399),), b"")
TCP = replace(HTTP, kind="tcp")


async def fault(port: int, policy: ProbePolicy = HTTP, host: str = "127.0.0.1") -> str:
    aim = target(port, host=host)
    return await probe(upstream("up", aim, probe=policy), aim, policy)


async def test_a_probe_is_a_get_with_the_host_asked_for_on_a_connection_of_its_own() -> None:
    async with serving(answering(OK)) as up:
        assert await fault(up.port) == ""
        assert await fault(up.port, replace(HTTP, host="users.test:81")) == ""
        first, second = up.heads
        assert first.startswith(b"GET /up?deep=1 HTTP/1.1\r\n")
        assert b"\r\nhost: 127.0.0.1:%d\r\n" % up.port in first
        assert b"\r\nconnection: close\r\n" in first
        assert b"\r\nhost: users.test:81\r\n" in second
        await until(lambda: up.connections == 2 and not up.live)


def said(status: int, body: bytes = b"all is well") -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "changes", "found"),
    [
        (said(204, b""), {}, ""),
        (said(500), {}, "Status 500."),
        (said(401), {"statuses": ((200, 299), (401, 401))}, ""),
        (said(302), {"statuses": ((200, 299),)}, "Status 302."),
        (said(200), {"body": b"is well"}, ""),
        (said(200), {"body": b"is bad"}, "Status 200, but the body lacks the expected text."),
        (said(200, b"x" * 70_000 + b"well"), {"body": b"well"}, "Status 200, but the body lacks the expected text."),
        (b"nonsense\r\n\r\n", {}, "The upstream sent an invalid answer."),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nwe", {"body": b"well"}, "The upstream closed the connection"),
    ],
)
async def test_what_an_answer_says_of_a_target(answer: bytes, changes: dict[str, object], found: str) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer)

    async with serving(script) as up:
        got = await fault(up.port, replace(HTTP, **changes))  # type: ignore[arg-type]
        assert got.startswith(found)
        assert bool(got) == bool(found)


async def test_silence_is_an_answer_too() -> None:
    async def silent(wire: Wire) -> None:
        await wire.left()

    async with serving(silent) as up:
        assert await fault(up.port, replace(HTTP, timeout_s=0.05)) == "No answer within 50 ms."


@pytest.mark.parametrize("policy", [HTTP, TCP])
async def test_a_refused_connection(policy: ProbePolicy) -> None:
    assert "Connection refused" in await fault(free_port(), policy)


async def test_a_name_that_does_not_exist() -> None:
    assert await fault(80, TCP, "nowhere.invalid")


async def test_a_connection_is_enough_for_tcp(tmp_path: Path) -> None:
    async def silent(wire: Wire) -> None:
        await wire.left()

    async with serving(silent) as up:
        assert await fault(up.port, TCP) == ""
        await until(lambda: not up.live)
    path = str(tmp_path / "s")
    async with serving(silent, unix_path=path):
        assert await fault(0, TCP, f"unix:{path}") == ""
    async with serving(answering(OK), unix_path=path + "2"):
        assert await fault(0, HTTP, f"unix:{path}2") == ""


# --- the loops --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def probing(prober: Prober, *upstreams: UpstreamSpec) -> AsyncIterator[Prober]:
    prober.aim(upstreams)
    try:
        yield prober
    finally:
        await prober.aclose()


def of(aim: TargetSpec) -> tuple[str, str]:
    return "up", aim.address


async def test_a_target_goes_down_and_comes_back() -> None:
    aim = target(free_port())
    changes: list[bool] = []
    prober = Prober({}, lambda: changes.append(prober.probes[of(aim)].up))
    async with probing(prober, upstream("up", aim, probe=HTTP)):
        await until(lambda: changes == [False])
        assert "Connection refused" in prober.probes[of(aim)].fault
        async with serving(answering(OK), port=aim.port):
            await until(lambda: changes == [False, True])
            assert prober.probes[of(aim)].fault == ""


async def test_targets_are_probed_only_while_the_configuration_says_so() -> None:
    async with serving(answering(OK)) as one, serving(answering(OK)) as two:
        a, b = target(one.port), target(two.port, weight=0)
        up = upstream("up", a, b, probe=HTTP)
        async with probing(Prober({}), up) as prober:
            await until(
                lambda: set(prober.probes) == {of(a), of(b)}
            )  # a drained one too: who restores it wants to know
            prober.aim([replace(up, targets=(a,))])
            assert set(prober.probes) == {of(a)}
            prober.aim([replace(up, probe=None)])
            await asyncio.sleep(0)
            assert prober.probes == {}
            assert not prober._loops


async def test_an_equal_configuration_disturbs_no_loop_and_a_changed_one_keeps_what_is_known() -> None:
    async with serving(answering(OK)) as one:
        a = target(one.port)
        up = upstream("up", a, probe=HTTP)
        down = Probed(up=False, since_s=5.0)
        async with probing(Prober({of(a): down, ("gone", "x"): down}), up) as prober:
            assert prober.probes == {of(a): down}
            loop = prober._loops[of(a)][1]
            prober.aim([replace(up, retries=7)])
            assert prober._loops[of(a)][1] is loop
            prober.aim([replace(up, probe=replace(HTTP, healthy_after=1000))])
            assert prober._loops[of(a)][1] is not loop
            await until(lambda: prober.probes[of(a)].streak > 2)
            assert not prober.probes[of(a)].up


async def test_probes_keep_their_interval_whatever_they_take() -> None:
    moments: list[float] = []

    async def slow(wire: Wire) -> None:
        while await wire.head():
            moments.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.03)
            await wire.send(OK)

    async with serving(slow) as one, probing(Prober({}), upstream("up", target(one.port), probe=HTTP)):
        await until(lambda: len(moments) >= 6)
    assert moments[5] - moments[0] >= 0.24


async def test_a_target_that_is_down_may_be_asked_more_often() -> None:
    moments: list[float] = []

    async def ill(wire: Wire) -> None:
        while await wire.head():
            moments.append(asyncio.get_running_loop().time())
            await wire.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n")

    policy = replace(HTTP, interval_s=0.5, down_interval_s=0.02, unhealthy_after=1)
    async with serving(ill) as one, probing(Prober({}), upstream("up", target(one.port), probe=policy)):
        await until(lambda: len(moments) >= 11)
    assert moments[10] - moments[0] < 4  # not ten times half a second
