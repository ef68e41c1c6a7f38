from __future__ import annotations

import re
from dataclasses import replace

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from dashboard.shipping import ship
from gateway.proxy.discovery import Discovered
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Sighting
from gateway.proxy.snapshot import UpstreamSpec
from routes import health
from routes.models import ConfigVersion, Target, Upstream
from tests.dashboard.configuring import configured, staff
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import ORDERS, finished, route

pytestmark = pytest.mark.usefixtures("committed")

LIST = "/dashboard/upstreams/"


@pytest.fixture
def operator(client):
    configured()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def detail(name: str = "users") -> str:
    return f"{LIST}{Upstream.objects.get(name=name).pk}/"


def weight_url(host: str = "10.0.0.1") -> str:
    return f"{LIST}targets/{Target.objects.get(host=host).pk}/weight/"


def users_spec() -> UpstreamSpec:
    from dataclasses import replace

    return replace(ORDERS, id=Upstream.objects.get(name="users").pk, name="users")


@pytest.fixture
def traffic(spool):
    def send() -> None:
        now_s, users = timezone.now().timestamp(), Upstream.objects.get(name="users")
        leading = route(users.branches.first().route_id, "users")
        exchanges = [
            finished(at_s=now_s - 60, route=leading, upstream=users_spec(), target=target, status=status)
            for target, status in (("10.0.0.1:80", 200), ("10.0.0.1:80", 502), ("10.9.9.9:80", 200))
        ]
        segment_write(spool.path, exchanges)
        ship(spool, "n1")

    return send


def test_the_list_counts_what_serves(operator, traffic, django_assert_max_num_queries):
    traffic()
    with django_assert_max_num_queries(9):
        page = operator.get(LIST)
    rows = {row.upstream.name: row for row in page.context["rows"]}
    assert (rows["users"].serving, len(rows["users"].aims), rows["users"].routes) == (2, 3, 2)
    assert (rows["users"].day.requests, rows["users"].day.server_errors) == (3, 1)
    assert [row.upstream.name for row in operator.get(LIST + "?q=10.0.1").context["rows"]] == ["users-next"]


def test_targets_with_their_state_share_and_figures(operator, traffic, django_assert_max_num_queries):
    traffic()
    with django_assert_max_num_queries(14):
        page = operator.get(detail())
    assert [(aim.address, aim.state, aim.share, aim.usage and aim.usage.requests) for aim in page.context["aims"]] == [
        ("10.0.0.1:80", "unknown", 0.75, 2), ("10.0.0.2:80", "unknown", 0.25, None),
        ("10.0.0.3:80", "disabled", 0, None),
    ]  # fmt: skip
    assert list(page.context["gone"]) == ["10.9.9.9:80"]
    assert page.context["summary"].requests == 3
    assert [branch.route.name for branch in page.context["branches"]] == ["orders", "users"]


def test_what_the_nodes_know_of_each_target(operator, django_assert_max_num_queries):
    probe = Probed(up=False, since_s=60.0, at_s=timezone.now().timestamp(), fault="Status 500.", took_ms=3.0)
    up = Sighting("users", "10.0.0.2:80", "ejected", 60.0, 2, 7, 321, 17.0, None)
    health.report("n1", [Sighting("users", "10.0.0.1:80", "down", 60.0, 0, 0, 3, 12.5, probe), up])
    with django_assert_max_num_queries(14):
        page = operator.get(detail())
    assert [aim.state for aim in page.context["aims"]] == ["down", "ejected", "disabled"]
    text = page.content.decode()
    for shown in ("probe: Status 500.", "7 failures in a row", "17 ms", ">321<", "3.00 ms"):
        assert shown in text, shown
    [row] = [row for row in operator.get(LIST).context["rows"] if row.upstream.name == "users"]
    assert row.serving == 0


def test_draining_and_restoring_give_the_weight_back(operator):
    assert operator.post(weight_url(), {"weight": "0"}).url == detail()
    assert ConfigVersion.objects.get(live=True).comment == "Drained 10.0.0.1:80 in upstream users."
    aim = operator.get(detail()).context["aims"][0]
    assert (aim.state, aim.share, aim.former) == ("drained", 0, 75)

    operator.post(weight_url(), {"weight": str(aim.former)})
    assert Target.objects.get(host="10.0.0.1").weight == 75
    assert ConfigVersion.objects.get(live=True).number == 3


@pytest.mark.parametrize("weight", ["", "-1", "70000", "many", "\u0661"])
def test_a_weight_is_a_number_within_bounds(operator, weight):
    page = operator.post(weight_url(), {"weight": weight}, follow=True)
    assert "A weight is a whole number" in page.content.decode()
    assert Target.objects.get(host="10.0.0.1").weight == 75


def test_who_may_look_may_not_drain(client):
    configured()
    client.force_login(staff("routes.view_upstream"))
    assert "Drain" not in client.get(detail()).content.decode()
    assert client.post(weight_url(), {"weight": "0"}).status_code == 403
    assert client.get(weight_url()).status_code == 405


def test_others_see_nothing(client):
    configured()
    client.force_login(staff())
    for url in (LIST, detail()):
        assert client.get(url).status_code == 403


def test_what_discovery_found_and_when(operator, traffic):
    Upstream.objects.filter(name="users").update(discovery="dns", discovery_name="users.test", discovery_port=80)
    page = operator.get(detail())
    assert page.context["discovery"].state == "unknown"
    up = Sighting("users", "10.9.9.9:80", "up", 60.0, 0, 0, 42, 17.0, None)
    refreshed_s = timezone.now().timestamp() - 3
    found = Discovered(
        "users", "dns", "users.test:80", "fresh", "", refreshed_s, (("10.9.9.9", 80, 100, "users.test", 0),)
    )
    health.report("n1", [up], [found])
    traffic()
    text = operator.get(detail()).content.decode()
    assert re.search(r"discovered from <code>users.test:80</code>, refreshed <time[^>]*>\d s ago", text)
    for shown in ("10.9.9.9:80", ">42<", "discovered</span>"):
        assert shown in text, shown
    [row] = [row for row in operator.get(LIST).context["rows"] if row.upstream.name == "users"]
    assert [aim.address for aim in row.aims][-1] == "10.9.9.9:80"
    health.report("n2", [up], [replace(found, state="stale", error="No answer.")])
    page = operator.get(detail())
    assert (page.context["discovery"].state, page.context["discovery"].nodes) == ("stale", 2)
    assert "The targets known before are used." in page.content.decode()
