from __future__ import annotations

from dataclasses import replace

import pytest
from django.contrib import admin as django_admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dashboard import admin
from dashboard.models import UsageRow
from dashboard.shipping import ship
from keys.models import Consumer
from routes.models import Route
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import ANN, ORDERS_ROUTE, finished

pytestmark = pytest.mark.usefixtures("committed")

URL = "/admin/dashboard/usagerow/"


@pytest.fixture
def operator(client):
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def rows(spool):
    now_s = timezone.now().timestamp()
    exchanges = [
        finished(at_s=now_s - 60, id="recent-one"),
        finished(at_s=now_s - 7200, id="hours-ago", status=503, outcome="no_target"),
        finished(at_s=now_s - 3 * 86_400, id="days-ago"),
    ]
    segment_write(spool.path, exchanges)
    ship(spool, "n1")


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", {"recent-one", "hours-ago"}),
        ("?when=hour", {"recent-one"}),
        ("?when=all", {"recent-one", "hours-ago", "days-ago"}),
        ("?outcome=no_target", {"hours-ago"}),
        ("?class=5", {"hours-ago"}),
        ("?class=2", {"recent-one"}),
        ("?class=3", set()),
        ("?when=all&q=days-ago", {"days-ago"}),
        ("?route_id=99", set()),
        ("?route_id=3&key_id=11&consumer_id=5", {"recent-one", "hours-ago"}),
    ],
)
def test_filters(operator, rows, query, shown):
    response = operator.get(URL + query)
    assert response.status_code == 200
    assert {row.request_id for row in response.context["cl"].result_list} == shown


def test_one_row_can_be_read_and_not_changed(operator, rows):
    url = f"{URL}{UsageRow.objects.get(request_id='hours-ago').pk}/change/"
    page = operator.get(url).content.decode()
    assert "no_target" in page
    assert operator.post(url, {"status": 200}).status_code == 403
    assert operator.get(f"{URL}add/").status_code == 403
    assert operator.post(url.replace("change", "delete")).status_code == 403


def test_the_list_counts_no_further_than_it_shows(rows, monkeypatch):
    monkeypatch.setattr(admin, "SHOWN_MAX", 2)
    paginator = admin.CappedPaginator(UsageRow.objects.all(), 50)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert paginator.count == 2
    assert "LIMIT 2" in queries[0]["sql"]


def test_rows_need_their_permission(client, rows):
    model_admin = django_admin.site._registry[UsageRow]
    request = RequestFactory().get(URL)
    request.user = User.objects.create_user("nobody", is_staff=True)
    assert not model_admin.has_view_permission(request)


def test_rows_have_names_and_links_at_one_query_for_each_kind_of_thing(operator, spool):
    routes = [Route.objects.create(name=f"route-{number}") for number in range(6)]
    consumers = [Consumer.objects.create(username=f"caller-{number}") for number in range(6)]
    now_s = timezone.now().timestamp()
    pairs = list(zip(routes, consumers, strict=True))
    known = [
        finished(at_s=now_s - 60, id=f"r{r.pk}", route=replace(ORDERS_ROUTE, id=r.pk), consumer=replace(ANN, id=c.pk))
        for r, c in pairs
    ]
    segment_write(spool.path, [*known, finished(at_s=now_s, id="orphan", route=replace(ORDERS_ROUTE, id=10**9))])
    ship(spool, "n1")
    with CaptureQueriesContext(connection) as queries:
        page = operator.get(URL).content.decode()
    asked = [query["sql"] for query in queries if '"routes_route"' in query["sql"] or '"keys_' in query["sql"]]
    assert len(asked) == 3  # routes, consumers, keys
    for route, consumer in pairs:
        assert f'href="{reverse("dashboard:route", args=[route.pk])}">{route.name}</a>' in page
        assert f'href="{reverse("dashboard:consumer", args=[consumer.pk])}">{consumer.username}</a>' in page
    assert f"{10**9} (deleted)" in page
