from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from dashboard.csp import ADMIN, STRICT
from dashboard.overview import change, overview
from dashboard.shipping import ship
from dashboard.timerange import TimeRange, parse
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Sighting
from routes import health
from routes.models import Route, Target, Upstream
from routes.services import change as config_change
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import finished

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def traffic(committed, spool):
    """In the hour before NOW 60 requests, six of them failed and three over a limit; in the hour before that 30."""
    at_s = NOW.timestamp()
    answers = [(503, "upstream_unreachable")] * 6 + [(429, "rate_limited")] * 3 + [(200, "ok")] * 51
    exchanges = [
        finished(at_s=at_s - 30 - 50 * n, status=status, outcome=outcome, duration_ms=20.0, upstream_ms=19.0)
        for n, (status, outcome) in enumerate(answers)
    ]
    exchanges += [
        finished(at_s=at_s - 3700 - 50 * n, status=200, outcome="ok", duration_ms=10.0, upstream_ms=9.0)
        for n in range(30)
    ]
    segment_write(spool.path, exchanges)
    ship(spool, "n1")


@pytest.fixture
def reader(db):
    user = User.objects.create_user("rita", password="only-for-tests", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_usagerow"))
    return user


# --- what it says -----------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_range_and_the_one_before(traffic):
    found = overview(TimeRange(NOW - HOUR, NOW))
    assert (found.now.requests, found.now.errors, found.limited, found.keys) == (60, 6, 3, 1)
    assert found.rate == pytest.approx(60 / 3600)
    assert found.rate_change is not None
    assert found.rate_change.share == pytest.approx(1.0)
    assert found.error_rate == pytest.approx(0.1)
    p95 = found.latencies[1]
    assert p95.total == pytest.approx(20, rel=0.05)
    assert p95.gateway == pytest.approx(0.5, rel=0.05)
    assert p95.change is not None
    assert not p95.change.better


def test_errors_are_listed_by_their_reason(traffic):
    found = overview(TimeRange(NOW - HOUR, NOW))
    assert [(row.name, row.requests) for row in found.outcomes] == [("upstream unreachable", 6), ("rate limited", 3)]
    assert "outcome=upstream_unreachable" in found.outcomes[0].url


def test_targets_in_trouble_are_named_first(traffic):
    for number, name in enumerate(("fine", "troubled"), 1):
        upstream = Upstream.objects.create(name=name)
        for host in (1, 2):
            Target.objects.create(upstream=upstream, host=f"10.0.{number}.{host}", port=80)
    probe = Probed(up=False, since_s=60.0, fault="Status 500.")
    down = Sighting("troubled", "10.0.2.1:80", "down", 60.0, 0, 0, 3, 12.5, probe)
    up = Sighting("troubled", "10.0.2.2:80", "up", 0.0, 0, 0, 0, None, None)
    health.report("n1", [down, up])
    found = overview(TimeRange(NOW - HOUR, NOW)).health
    assert [(one.upstream.name, one.state) for one in found] == [("troubled", "warn"), ("fine", "muted")]
    assert [aim.health.state for aim in found[0].targets] == ["down", "up"]
    assert found[0].targets[0].title == "10.0.2.1:80: down (probe: Status 500.), weight 100"
    health.report("n1", [down, replace(up, state="ejected")])
    assert overview(TimeRange(NOW - HOUR, NOW)).health[0].state == "bad"


def test_charts_add_up_to_the_figures(traffic):
    charts = overview(TimeRange(NOW - HOUR, NOW)).charts
    step_s = charts["step_s"]
    per_class = {name: sum(rates) * step_s for name, rates in charts["classes"].items()}
    assert per_class[5] == pytest.approx(6, rel=0.02)
    assert per_class[4] == pytest.approx(3, rel=0.02)
    assert len(charts["starts"]) == len(charts["latency"]["p95"])


def test_versions_of_the_range_are_marked(transactional_db):
    with config_change(author="ann", source="test", comment="first route"):
        Route.objects.create(name="one", paths=["/one"], enabled=False)
    now = timezone.now()
    (mark,) = overview(TimeRange(now - HOUR, now + HOUR)).charts["versions"]
    assert (mark["number"], mark["author"], mark["comment"]) == (1, "ann", "first route")
    assert overview(TimeRange(now - 2 * HOUR, now - HOUR)).charts["versions"] == []


@pytest.mark.parametrize(
    ("now", "before", "share", "better"),
    [(2, 1, 1.0, False), (1, 2, -0.5, True), (1.001, 1, 0.001, None)],
)
def test_a_change_says_whether_it_is_good(now, before, share, better):
    found = change(now, before, better=-1)
    assert found is not None
    assert found.share == pytest.approx(share)
    assert found.better is better


def test_nothing_compares_with_nothing():
    assert change(1, 0) is None
    assert change(None, 1) is None


# --- ranges -----------------------------------------------------------------------------------------------------------


def test_a_named_range_ends_now():
    found = parse({"range": "6h"}, NOW)
    assert (found.start, found.end, found.query) == (datetime(2026, 11, 22, 6, tzinfo=UTC), NOW, "range=6h")


def test_a_fixed_range_survives_its_own_link():
    found = parse({"from": "2026-11-20T10:00", "to": "2026-11-20T12:00"}, NOW)
    assert (found.end - found.start, found.name) == (2 * HOUR, "")
    assert found.query == "from=2026-11-20T10%3A00&to=2026-11-20T12%3A00"
    assert found.previous.end == found.start


@pytest.mark.parametrize(
    "query", [{}, {"range": "2y"}, {"from": "yesterday"}, {"from": "2026-11-23T10:00", "to": "2026-11-22T10:00"}]
)
def test_what_cannot_be_read_is_the_last_hour(query):
    assert parse(query, NOW).query == "range=1h"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_queries_do_not_grow_and_never_read_raw_rows(traffic, admin_client):
    def asked():
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert admin_client.get("/dashboard/?range=24h").status_code == 200
        return [query["sql"] for query in queries]

    few = asked()
    for n in range(40):
        Route.objects.create(name=f"route-{n}", paths=[f"/{n}"], enabled=False)
    many = asked()
    assert len(many) <= len(few) <= 34
    assert not [sql for sql in many if "usage_row" in sql]


def test_the_refresh_is_small_and_has_every_part(traffic, admin_client):
    answer = admin_client.get(reverse("dashboard:overview-data"), {"range": "30d"})
    assert len(answer.content) < 50_000
    found = json.loads(answer.content)
    assert set(found["parts"]) == {"stats", "tops", "state"}
    assert len(found["charts"]["starts"]) > 20


def test_while_empty_it_leads_to_the_first_steps(admin_client):
    page = admin_client.get("/dashboard/").content.decode()
    assert "Nothing passes through here yet" in page


# --- who may see, and under which policy ------------------------------------------------------------------------------


def test_strangers_are_sent_to_the_login(client, db):
    answer = client.get("/dashboard/?range=6h")
    assert answer.status_code == 302
    assert answer["Location"] == "/admin/login/?next=/dashboard/%3Frange%3D6h"


def test_staff_without_the_permission_see_nothing(client, reader):
    reader.user_permissions.clear()
    client.force_login(reader)
    assert client.get("/dashboard/").status_code == 403
    assert client.get("/dashboard/overview.json").status_code == 403


def test_who_may_see_usage_sees_no_entry_for_the_rest(client, reader):
    client.force_login(reader)
    page = client.get("/dashboard/").content.decode()
    assert 'href="/dashboard/requests/' in page
    assert 'href="/dashboard/keys/' not in page.split("</nav>")[0]


def _names(patterns, above=""):
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _names(pattern.url_patterns, above)
        elif isinstance(pattern, URLPattern) and pattern.name and not pattern.pattern.converters:
            yield pattern.name


def dashboard_urls():
    (resolver,) = [one for one in get_resolver().url_patterns if getattr(one, "namespace", "") == "dashboard"]
    return [reverse(f"dashboard:{name}") for name in _names(resolver.url_patterns)]


@pytest.mark.parametrize("url", dashboard_urls())
def test_every_page_has_the_strict_policy_and_keeps_to_it(url, admin_client):
    answer = admin_client.get(url)
    assert answer["Content-Security-Policy"] == STRICT
    page = answer.content.decode()
    if answer["Content-Type"].startswith("text/html"):
        assert " style=" not in page
        assert " onclick=" not in page
        assert "hx-on" not in page
        assert "<style" not in page
        for script in page.split("<script")[1:]:
            assert " src=" in script.split(">")[0] or 'type="application/json"' in script.split(">")[0]


def test_strangers_and_the_forbidden_get_the_policy_too(client, reader):
    assert client.get("/dashboard/")["Content-Security-Policy"] == STRICT
    reader.user_permissions.clear()
    client.force_login(reader)
    assert client.get("/dashboard/")["Content-Security-Policy"] == STRICT


def test_django_admin_may_evaluate_but_ask_no_other_host(admin_client):
    policy = admin_client.get("/admin/")["Content-Security-Policy"]
    assert policy == ADMIN
    assert "'unsafe-eval'" in policy
    assert "http" not in policy
