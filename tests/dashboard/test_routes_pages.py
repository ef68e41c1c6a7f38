from __future__ import annotations

import json
from dataclasses import replace

import pytest
import redis
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.utils import timezone

from dashboard.shipping import ship
from gateway.plugins.purges import Purge, log, place
from gateway.proxy.sightings import Sighting
from keys.trail import Step, steps
from routes import health
from routes.models import ConfigVersion, PluginSetting, Route, RouteUpstream, Upstream
from routes.services import change
from tests.dashboard.configuring import configured, staff
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import finished, route
from tests.running import free_port

pytestmark = pytest.mark.usefixtures("committed")

LIST = "/dashboard/routes/"


@pytest.fixture
def operator(client):
    configured()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def names(response) -> list[str]:
    return [row.route.name for row in response.context["rows"]]


def detail(name: str = "users") -> str:
    return f"{LIST}{Route.objects.get(name=name).pk}/"


@pytest.fixture
def traffic(spool):
    """To call after `operator`: 3 answers and a failure on users, 1 answer on orders, all just now."""

    def send() -> None:
        now_s = timezone.now().timestamp()
        users, orders = (route(Route.objects.get(name=name).pk, name) for name in ("users", "orders"))
        exchanges = [finished(at_s=now_s - 60, route=users, id=f"ok-{n}") for n in range(3)]
        exchanges.append(finished(at_s=now_s - 60, route=users, status=502, outcome="upstream_error", id="failed"))
        exchanges.append(finished(at_s=now_s - 60, route=orders, id="other"))
        segment_write(spool.path, exchanges)
        ship(spool, "n1")

    return send


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["orders", "users"]),
        ("?q=api.example", ["users"]),
        ("?q=/orders", ["orders"]),
        ("?q=users+public", ["users"]),
        ("?tag=public", ["users"]),
        ("?upstream=users-next", ["users"]),
        ("?plugin=key-auth", ["users"]),
        ("?plugin=rate-limiting", ["orders", "users"]),
        ("?enabled=off", []),
        ("?sort=priority", ["orders", "users"]),
        ("?sort=nonsense&page=999", ["orders", "users"]),
    ],
)
def test_filters(operator, query, shown):
    assert names(operator.get(LIST + query)) == shown


def test_a_row_says_where_it_leads_and_which_setting_of_a_plugin_counts(operator):
    rows = {row.route.name: row for row in operator.get(LIST).context["rows"]}
    assert [(link.upstream.name, link.share) for link in rows["users"].links] == [("users", 0.9), ("users-next", 0.1)]
    assert [(s.name, s.scope) for s in rows["users"].plugins] == [("key-auth", "route"), ("rate-limiting", "route")]
    assert [(s.name, s.scope) for s in rows["orders"].plugins] == [("rate-limiting", "global")]


def test_a_row_shows_its_last_day_and_the_busiest_come_first(operator, traffic):
    traffic()
    response = operator.get(LIST + "?sort=requests")
    assert names(response) == ["users", "orders"]
    day = response.context["rows"][0].day
    assert (day.requests, day.server_errors, sum(day.hours)) == (4, 1, 4)


def test_five_hundred_routes_take_as_many_queries_as_two(operator, django_assert_max_num_queries):
    with change(author="test", source="api"):
        users = Upstream.objects.get(name="users")
        made = Route.objects.bulk_create(Route(name=f"r{n}", paths=[f"/r{n}/*"]) for n in range(500))
        RouteUpstream.objects.bulk_create(RouteUpstream(route=one, upstream=users) for one in made)
        PluginSetting.objects.bulk_create(PluginSetting(name="key-auth", route=one) for one in made)
    with django_assert_max_num_queries(12):
        response = operator.get(LIST + "?sort=errors&page=2")
    assert len(names(response)) == 50


def test_an_empty_gateway_says_the_next_step(client, db):
    client.force_login(User.objects.create_superuser("operator"))
    assert "No routes yet" in client.get(LIST).content.decode()


# --- the switch -------------------------------------------------------------------------------------------------------


def test_the_switch_makes_a_version_and_says_so(operator):
    url = detail() + "switch/"
    answer = operator.post(url, {}, headers={"HX-Request": "true"})
    assert not Route.objects.get(name="users").enabled
    live = ConfigVersion.objects.get(live=True)
    assert (live.number, live.author, live.source, live.comment) == (
        2,
        "operator",
        "dashboard",
        "Disabled route users.",
    )
    assert "checked" not in answer.content.decode()
    (toast,) = json.loads(answer["HX-Trigger"])["hg:toasts"]
    assert toast == {"text": "Version 2: live; no worker is running.", "kind": "info"}
    assert list(steps(LogEntry.objects.get())) == [Step("Changed.", [("enabled", "true", "false")])]

    assert operator.post(url, {"enabled": "on", "next": detail()}).url == detail()
    assert Route.objects.get(name="users").enabled
    assert operator.post(url, {"next": "https://elsewhere.example/"}).url == LIST


def test_a_switch_that_would_break_the_configuration_is_refused(operator):
    users = Route.objects.get(name="users")
    with change(author="test", source="api"):
        Route.objects.filter(pk=users.pk).update(enabled=False)
        twin = Route.objects.create(name="twin", hosts=users.hosts, paths=users.paths, methods=users.methods)
        RouteUpstream.objects.create(route=twin, upstream=Upstream.objects.get(name="users"))
    answer = operator.post(detail() + "switch/", {"enabled": "on"}, headers={"HX-Request": "true"})
    (toast,) = json.loads(answer["HX-Trigger"])["hg:toasts"]
    assert toast["kind"] == "error"
    assert "Matches the same requests" in toast["text"]
    assert not Route.objects.get(name="users").enabled
    assert not LogEntry.objects.exists()
    assert "would not go live" in operator.get(detail()).content.decode()


# --- one route --------------------------------------------------------------------------------------------------------


def test_the_flow_is_what_the_workers_serve(operator):
    page = operator.get(detail())
    drawn = page.context["flow"]
    (lane,) = drawn.lanes
    assert page.context["is_live"]
    assert [(step.setting.name, len(step.beats), len(step.others)) for step in drawn.steps] == [
        ("key-auth", 0, 0), ("rate-limiting", 1, 1),
    ]  # fmt: skip
    assert [branch.upstream.name for branch in lane.branches] == ["users", "users-next"]
    assert page.context["curl"] == "curl -i -H 'Host: api.example.com' -H 'apikey: YOUR_KEY' http://testserver/users/1"
    text = page.content.decode()
    assert "for alice" in text
    assert "style=" not in text


def test_the_flow_shows_what_the_nodes_know_of_the_targets(operator):
    sighting = Sighting("users", "10.0.0.1:80", "ejected", 60.0, 1, 7, 0, None, None)
    health.report("n1", [sighting, replace(sighting, address="10.0.0.2:80", state="up", failures=0)])
    page = operator.get(detail()).content.decode()
    [line] = [line for line in page.splitlines() if "<code>10.0.0.1:80</code>" in line]
    assert 'title="7 failures in a row"' in line
    assert "75 % ejected" in line.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_a_disabled_route_is_drawn_as_it_would_be(operator):
    operator.post(detail() + "switch/")
    page = operator.get(detail())
    assert not page.context["is_live"]
    assert "if the route were enabled" in page.content.decode()


def test_a_route_shows_its_latest_requests_and_figures(operator, traffic, django_assert_max_num_queries):
    traffic()
    operator.get(detail())  # compiles the live document
    with django_assert_max_num_queries(14):
        page = operator.get(detail())
    assert page.context["summary"].requests == 4
    assert page.context["error_share"] == 0.25
    assert {row.request_id for row in page.context["latest"]} == {"ok-0", "ok-1", "ok-2", "failed"}
    charts = page.context["charts"]
    assert [len(charts["classes"][5]), len(charts["latency"]["p95"])] == [len(charts["starts"])] * 2
    assert sum(charts["classes"][5]) > 0
    assert [version["number"] for version in charts["versions"]] == [1]


def test_no_such_route(operator):
    assert operator.get(LIST + "999999/").status_code == 404
    assert operator.post(LIST + "999999/switch/").status_code == 404


# --- who may ----------------------------------------------------------------------------------------------------------


def test_who_may_look_may_not_switch(client, traffic):
    configured()
    client.force_login(staff("routes.view_route"))
    page = client.get(LIST)
    assert " disabled" in page.content.decode()
    assert "latest-title" not in client.get(detail()).content.decode()
    assert client.post(detail() + "switch/").status_code == 403
    assert Route.objects.get(name="users").enabled


def test_others_see_nothing(client):
    configured()
    assert client.get(LIST).status_code == 302
    client.force_login(staff())
    for url in (LIST, detail()):
        assert client.get(url).status_code == 403


def test_a_switch_needs_its_csrf_token(operator):
    operator.handler.enforce_csrf_checks = True
    assert operator.post(detail() + "switch/").status_code == 403


# --- what a cache keeps -----------------------------------------------------------------------------------------------


def test_purge_is_offered_where_a_cache_is(operator):
    assert b"/purge/" not in operator.get(detail()).content
    with change(author="test", source="api"):
        PluginSetting.objects.create(name="response-cache", route=Route.objects.get(name="users"), config={})
    assert b"/purge/" in operator.get(detail()).content
    assert b"/purge/" not in operator.get(detail("orders")).content


def test_purge_tells_the_workers(operator, monkeypatch):
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(log(place(settings.SECRET_KEY)))
        page = operator.post(detail() + "purge/", follow=True)
        assert [str(message) for message in page.context["messages"]] == [
            "Kept answers of route users are no longer used."
        ]
        assert [Purge.read(text) for text in client.zrange(log(place(settings.SECRET_KEY)), 0, -1)] == [
            Purge("all", route=Route.objects.get(name="users").pk)
        ]
        client.delete(log(place(settings.SECRET_KEY)))
    newest = LogEntry.objects.latest("id")
    assert (newest.user.username, newest.object_repr) == ("operator", "users")
    assert next(iter(steps(newest))).words == "Purged kept answers."


def test_purge_without_redis_says_so(operator, settings):
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    page = operator.post(detail() + "purge/", follow=True)
    assert "Nothing was purged" in str(next(iter(page.context["messages"])))


def test_purge_is_for_those_who_may_change_routes(operator, client):
    client.force_login(staff("routes.view_route"))
    assert client.post(detail() + "purge/").status_code == 403


def test_a_dry_run_is_marked_on_the_way_of_a_request(operator):
    text = operator.get(detail()).content.decode()
    assert "It refuses nobody." not in text
    with change(author="test", source="test"):
        PluginSetting.objects.filter(name="key-auth").update(dry_run=True)
    assert "It refuses nobody." in operator.get(detail()).content.decode()
