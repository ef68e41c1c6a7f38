from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from gateway.proxy.health import Probed
from gateway.proxy.sightings import Sighting
from routes.health import Healths, report, together
from routes.models import Target, TargetReport, Upstream

UP = Sighting("users", "10.0.0.1:80", "up", 0.0, 0, 0, 2, 10.0, None)
DOWN = replace(UP, state="down", since_s=60.0, probe=Probed(up=False, at_s=90.0, fault="Status 500."))


@pytest.fixture
def target(db) -> Target:
    upstream = Upstream.objects.create(name="users")
    return Target.objects.create(upstream=upstream, host="10.0.0.1", port=80)


def test_what_nodes_report_comes_together_in_one_query(target, django_assert_num_queries):
    report("one", [UP])
    report("one", [replace(UP, in_flight=5)])
    report("two", [DOWN])
    with django_assert_num_queries(1):
        healths = Healths()
        found = healths.of(target.upstream, target)
    assert (found.state, found.on, found.nodes, found.in_flight, found.latency_ms) == ("down", 1, 2, 7, 10.0)
    assert found.since == datetime.fromtimestamp(60, UTC)
    assert found.probed_at == datetime.fromtimestamp(90, UTC)
    assert found.words == "on 1 of 2 nodes, probe: Status 500."


def test_a_node_that_is_gone_says_nothing(target):
    report("one", [DOWN])
    TargetReport.objects.update(seen_at=timezone.now() - timedelta(seconds=60))
    assert Healths().of(target.upstream, target).state == "unknown"


@pytest.mark.parametrize(
    ("change", "in_flight", "state"),
    [({"weight": 0}, 3, "draining"), ({"weight": 0}, 0, "drained"), ({"enabled": False}, 3, "disabled")],
)
def test_what_is_set_here_is_true_before_a_node_has_heard_of_it(target, change, in_flight, state):
    report("one", [replace(UP, in_flight=in_flight)])
    for name, value in change.items():
        setattr(target, name, value)
    assert Healths().of(target.upstream, target).state == state


def test_restored_here_and_still_draining_there_is_up(target):
    report("one", [replace(UP, state="draining")])
    assert Healths().of(target.upstream, target).state == "up"


@pytest.mark.parametrize(
    ("states", "state"),
    [([], "unknown"), (["up", "up"], "up"), (["up", "ejected"], "ejected"), (["ejected", "down", "up"], "down")],
)
def test_the_worst_word_wins(states, state):
    assert together([replace(UP, state=one) for one in states]).state == state


def test_who_sees_it_worst_says_why_the_latest_first():
    other = replace(DOWN, since_s=70.0, probe=Probed(up=False, at_s=95.0, fault="No answer within 50 ms."))
    found = together([DOWN, other, replace(UP, probe=Probed(at_s=99.0))])
    assert found.probe == other.probe
    assert (found.on, found.nodes) == (2, 3)
