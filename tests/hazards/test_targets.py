"""Targets that fail, hang, refuse and die behind a real gateway, and come back: few clients notice."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.e2e.gateway import Gateway, route, wait_until
from tests.e2e.load import Load
from tests.hazards.targets import BAD, BROKEN, ask, configure, refusing, states, target
from tests.running import free_port
from tests.upstream import OK, Wire, answering

REQUESTS = 600


# --- ejection: from traffic alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fails", "hangs", "refuses"])
def test_one_of_three_fails_at_most_five_requests(gateway: Gateway, plain_upstream: int, kind: str) -> None:
    with BAD[kind]() as bad, target(answering(OK)) as other:
        configure(gateway, bad, plain_upstream, other, first_byte_timeout_ms=100)
        # Whoever waits for it already when the first time limit runs out fails as well.
        connections, times = (4, 5 * REQUESTS) if kind == "hangs" else (2, REQUESTS)
        statuses = ask(gateway.port, times, connections)
        failed = [number for number, status in enumerate(statuses) if status != 200]
        assert len(statuses) == times
        assert len(failed) <= (0 if kind == "refuses" else 5), failed  # who is refused goes on to the next
        after = statuses[failed[-1] + 1 :] if failed else statuses
        assert len(after) >= REQUESTS * 0.9
        assert states(gateway) == {bad: "ejected", plain_upstream: "up", other: "up"}


def test_one_that_begins_to_hang_keeps_few_clients_waiting(gateway: Gateway, plain_upstream: int) -> None:
    """Its time limit of a second would cost thirty of a hundred requests a second."""
    hangs = threading.Event()

    async def once_well(wire: Wire) -> None:
        while await wire.head():
            if hangs.is_set():
                await wire.left()
                return
            await wire.send(OK)

    with target(once_well) as bad, target(answering(OK)) as other:
        configure(gateway, bad, plain_upstream, other, first_byte_timeout_ms=1000)
        load = Load(gateway.port, "/x", threads=50, rate=2).start()  # many clients: few wait for their answer before
        wait_until(lambda: len(load.answers) > 100)
        hangs.set()
        wait_until(lambda: states(gateway)[bad] == "ejected", 30)
        begun = len(load.answers)
        wait_until(lambda: len(load.answers) > begun + 200, 30)
        load.stop()
        assert load.errors == []
        assert load.statuses()[504] <= 8, load.statuses()  # five; under noise what is usual is known less well
        assert {status for _, status, _ in load.answers[begun:]} == {200}


def test_it_comes_back_by_one_request_and_stays_when_it_is_well(gateway: Gateway, plain_upstream: int) -> None:
    well = threading.Event()
    seen: list[bool] = []

    async def moody(wire: Wire) -> None:
        while await wire.head():
            seen.append(well.is_set())
            await wire.send(OK if well.is_set() else BROKEN)

    with target(moody) as bad:
        configure(gateway, bad, plain_upstream, eject_base_ms=300, eject_max_ms=1000)
        load = Load(gateway.port, "/x", threads=2, rate=100).start()
        wait_until(lambda: len(seen) >= 7, what="two trials")  # 5 to be ejected, then one each time
        assert load.statuses()[500] <= 8
        well.set()
        wait_until(lambda: states(gateway)[bad] == "up")
        begun = len(load.answers)
        wait_until(lambda: len(load.answers) > begun + 100)
        load.stop()
        assert {status for _, status, _ in load.answers[begun:]} == {200}
        assert sum(seen) > 30
    assert load.errors == []


def test_clients_that_leave_and_bodies_that_are_too_large_hold_nothing_against_a_target(
    gateway: Gateway, plain_upstream: int
) -> None:
    async def slow(wire: Wire) -> None:
        while head := await wire.head():
            if b"/slow" in head or b"/small" in head:  # an answer before the body's end would be the client's
                await wire.left()
            await wire.send(OK)

    with target(slow) as one, target(slow) as two:
        up = {"name": "up", "targets": [{"host": "127.0.0.1", "port": port} for port in (one, two)]}
        routes = [route("all", "/*", "up"), route("small", "/small/*", "up", max_body_bytes=10)]
        gateway.configure({"format": 1, "upstreams": [up], "routes": routes})
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
                wait_until(lambda: gateway.get_json("/status")["requests_in_flight"] >= 1)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(b"POST /small/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n")
                client.sendall(b"x" * 20 + b"\r\n0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 413")
        assert states(gateway) == {one: "up", two: "up"}
        assert all(not each["failures"] for each in gateway.get_json("/status")["targets"])


def test_a_reload_forgets_nothing(gateway: Gateway, plain_upstream: int) -> None:
    with target(answering(BROKEN)) as bad:
        configure(gateway, bad, plain_upstream)
        ask(gateway.port, 30)
        assert states(gateway)[bad] == "ejected"
        configure(gateway, bad, plain_upstream, retries=3)
        assert states(gateway)[bad] == "ejected"
        assert set(ask(gateway.port, 30)) == {200}


# --- probes -----------------------------------------------------------------------------------------------------------

PROBED: dict[str, Any] = {
    "probe": "http", "probe_interval_ms": 100, "probe_timeout_ms": 1000, "probe_healthy_after": 2,
    "probe_unhealthy_after": 2,
}  # fmt: skip


def test_probes_bring_a_dead_target_down_and_back_up(gateway: Gateway, plain_upstream: int) -> None:
    port = free_port()
    load = Load(gateway.port, "/x", threads=2, rate=50)
    with target(answering(OK), port):
        configure(gateway, port, plain_upstream, **PROBED, eject_after=0)
        wait_until(lambda: all(one["probe"] for one in gateway.get_json("/status")["targets"]), what="first probes")
        load.start()
        wait_until(lambda: len(load.answers) > 50)  # its connections are open, none is just being accepted
    wait_until(lambda: states(gateway) == {port: "down", plain_upstream: "up"})
    [shown] = [one for one in gateway.get_json("/status")["targets"] if one["state"] == "down"]
    assert "Connection refused" in shown["probe"]["fault"]
    assert time.time() - 10 < shown["since_s"] <= time.time()
    with target(answering(OK), port):
        wait_until(lambda: states(gateway) == {port: "up", plain_upstream: "up"})
        begun = len(load.answers)
        wait_until(lambda: len(load.answers) > begun + 20)
        load.stop()
    assert load.errors == []
    assert set(load.statuses()) == {200}  # those that met a closed port went on to the other


def test_all_down_is_answered_at_once(gateway: Gateway) -> None:
    with refusing() as one, refusing() as two:
        configure(gateway, one, two, **{**PROBED, "probe_interval_ms": 1500})
        wait_until(lambda: set(states(gateway).values()) == {"down"}, 15)
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
        times_s: list[float] = []
        for _ in range(20):
            begun = time.perf_counter()
            connection.request("GET", "/x")
            answer = connection.getresponse()
            body = answer.read()
            times_s.append(time.perf_counter() - begun)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
            assert b'"code": "no_healthy_target"' in body
        connection.close()
    assert sorted(times_s)[10] < 0.05, times_s


def test_probes_come_once_per_node_and_outlive_the_recorder(gateway: Gateway, plain_upstream: int) -> None:
    agents: Counter[bytes] = Counter()

    async def counting(wire: Wire) -> None:
        while head := await wire.head():
            agents[b"probe" if b"hydragate-probe" in head else b"other"] += 1
            await wire.send(OK)

    with target(counting) as port, refusing() as dead:
        configure(gateway, port, dead, plain_upstream, **{**PROBED, "probe_interval_ms": 200})
        wait_until(lambda: states(gateway)[dead] == "down")
        begun, begun_s = agents[b"probe"], time.monotonic()
        wait_until(lambda: agents[b"probe"] >= begun + 10)
        assert time.monotonic() - begun_s > 1.7  # ten intervals of one prober, not of one per worker
        [recorder] = gateway.pids("recorder")
        os.kill(recorder, signal.SIGKILL)
        wait_until(lambda: set(gateway.pids("recorder")) - {recorder}, 20)
        begun = agents[b"probe"]
        wait_until(lambda: agents[b"probe"] > begun + 2, 20)
        assert states(gateway)[dead] == "down"
