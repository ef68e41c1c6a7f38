"""Hashing and sessions behind two real workers: the same target, whichever worker answers, and after it is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.e2e.gateway import Gateway, wait_until
from tests.hazards.targets import ask_anew, configure, named, target

GATEWAY_WORKERS = 2
NAMES = ("red", "green", "blue")


@contextmanager
def three() -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(target(named(name))) for name in NAMES}


def homes(gateway: Gateway, keys: range) -> dict[int, str]:
    found = {}
    for key in keys:
        bodies = {body for _, body, _ in ask_anew(gateway.port, 2, 2, {"X-User": str(key)})}
        assert len(bodies) == 1, f"key {key} went to {bodies}"
        found[key] = bodies.pop()
    return found


def test_a_key_has_one_home_and_only_those_of_a_removed_target_move(gateway: Gateway) -> None:
    with three() as ports:
        fields = {"balancing": "consistent-hashing", "hash_on": "header", "hash_on_header": "X-User"}
        configure(gateway, *ports.values(), **fields)
        before = homes(gateway, range(60))
        assert set(before.values()) == set(NAMES)
        configure(gateway, ports["red"], ports["blue"], **fields)
        after = homes(gateway, range(60))
        moved = {key for key in before if before[key] != after[key]}
        assert moved == {key for key, home in before.items() if home == "green"}
        assert {after[key] for key in moved} == {"red", "blue"}


def test_a_session_stays_with_its_target_when_workers_are_replaced_and_leaves_a_dead_one(gateway: Gateway) -> None:
    with ExitStack() as stack:
        alive = {name: stack.enter_context(ExitStack()) for name in NAMES}
        ports = {name: alive[name].enter_context(target(named(name))) for name in NAMES}
        configure(gateway, *ports.values(), sticky_cookie="node", sticky_max_age_s=60, eject_base_ms=60_000)
        [(status, home, fields)] = ask_anew(gateway.port, 1, 1)
        assert status == 200
        cookie, _, attributes = fields["set-cookie"].partition("; ")
        assert attributes == "Path=/; Max-Age=60; HttpOnly"
        session = {"Cookie": f"a=b; {cookie}"}

        def stays() -> None:
            answers = ask_anew(gateway.port, 20, headers=session)
            assert {body for _, body, _ in answers} == {home}
            assert not any("set-cookie" in found for _, _, found in answers)

        stays()
        before = set(gateway.pids("worker"))
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(gateway.pids("worker")) - before) == 2 and gateway.is_ready(), 30)
        stays()
        alive[home].close()
        [(status, other, fields)] = ask_anew(gateway.port, 1, 1, session)
        assert (status, other != home) == (200, True)
        session = {"Cookie": fields["set-cookie"].partition(";")[0]}
        assert {body for _, body, _ in ask_anew(gateway.port, 20, headers=session)} == {other}
