from __future__ import annotations

from dataclasses import replace

from gateway.proxy.health import Probed
from gateway.proxy.sightings import Report, sightings
from tests.proxy.gatewaying import target, upstream

A, B, C = (target(port, number=port) for port in (1, 2, 3))
UP = upstream("up", A, B, C)
FINE = Report("up", A.address, in_flight=2, latency_ms=10.0, failures=0, ejected=False, since_s=0.0)


def test_every_target_of_the_configuration_is_there_in_its_order() -> None:
    found = sightings([UP, upstream("other", A)], [replace(FINE, address="gone:1")], {})
    assert [(one.upstream, one.address, one.state) for one in found] == [
        ("up", A.address, "up"), ("up", B.address, "up"), ("up", C.address, "up"), ("other", A.address, "up"),
    ]  # fmt: skip


def test_what_workers_say_is_put_together() -> None:
    reports = [
        FINE,
        replace(FINE, in_flight=3, latency_ms=20.0, failures=2),
        replace(FINE, in_flight=0, latency_ms=None),
    ]
    (one, two, _) = sightings([UP], reports, {})
    assert (one.in_flight, one.latency_ms, one.failures, one.since_s) == (5, 15.0, 2, 0.0)
    assert (two.in_flight, two.latency_ms, two.probe) == (0, None, None)


def test_ejected_by_some_is_ejected_since_the_first_of_them() -> None:
    out = replace(FINE, ejected=True, failures=5)
    one = sightings([UP], [FINE, replace(out, since_s=70.0), replace(out, since_s=60.0)], {})[0]
    assert (one.state, one.ejected_by, one.failures, one.since_s) == ("ejected", 2, 5, 60.0)


def test_a_probe_that_fails_beats_an_ejection_and_a_drain_beats_both() -> None:
    down = Probed(up=False, since_s=50.0, at_s=80.0, fault="Status 500.")
    key = ("up", A.address)
    one = sightings([UP], [replace(FINE, ejected=True)], {key: down})[0]
    assert (one.state, one.since_s, one.probe) == ("down", 50.0, down)
    drained = upstream("up", target(1, weight=0), B)
    assert sightings([drained], [FINE], {key: down})[0].state == "draining"


def test_up_since_the_last_one_let_it_back() -> None:
    reports = [replace(FINE, since_s=70.0), replace(FINE, since_s=90.0)]
    assert sightings([UP], reports, {("up", A.address): Probed(True, 80.0)})[0].since_s == 90.0
