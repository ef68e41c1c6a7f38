from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dashboard import latest
from dashboard.latest import Cursor, Wish, page
from dashboard.models import UsageRow
from dashboard.pages.requests import timings
from dashboard.partitions import partitions_keep
from dashboard.shipping import ship
from routes.models import Route
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import finished, route

pytestmark = pytest.mark.usefixtures("committed")

URL = "/dashboard/requests/"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def operator(client):
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def shipped(spool):
    """Rows as they come out of a worker and through the recorder."""

    def ship_them(*exchanges):
        segment_write(spool.path, list(exchanges))
        ship(spool, "n1")

    return ship_them


def ids(rows):
    return [row.request_id for row in rows]


# --- reading rows -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hour(shipped):
    """An hour from noon: one request each second minute `r0` … `r29`; every fifth a 503 and slow, on route 4."""
    at_s = NOON.timestamp()
    shipped(*[
        finished(
            at_s=at_s + 120 * n, id=f"r{n}", route=route(4, "users") if n % 5 == 0 else route(),
            status=503 if n % 5 == 0 else 200, outcome="no_target" if n % 5 == 0 else "ok",
            upstream_ms=None if n % 5 == 0 else 10.0, duration_ms=900.0 if n % 5 == 0 else 12.0,
            method="POST" if n % 10 == 0 else "GET", key_id=11 if n % 2 else None,
        )
        for n in range(30)
    ])  # fmt: skip
    return Wish(NOON, NOON + HOUR)


FIFTHS = [f"r{n}" for n in (25, 20, 15, 10, 5, 0)]
WISHES = [
    ({}, [f"r{n}" for n in reversed(range(30))]),
    ({"route_id": 4}, FIFTHS),
    ({"consumer_id": 5}, [f"r{n}" for n in reversed(range(1, 30, 2))]),
    ({"consumer_id": 5, "key_id": 12}, []),
    ({"status_class": 5}, FIFTHS),
    ({"outcome": "no_target"}, FIFTHS),
    ({"outcome": "no_target", "status_class": 2}, []),
    ({"slower_ms": 500.0}, FIFTHS),
    ({"slower_ms": 500.0, "route_id": 3}, []),
    ({"slower_ms": 500.0, "outcome": "ok"}, []),
    ({"method": "POST"}, ["r20", "r10", "r0"]),
    ({"method": "GET", "outcome": "no_target"}, ["r25", "r15", "r5"]),
    ({"status_class": 5, "consumer_id": 5}, ["r25", "r15", "r5"]),
    ({"refused": True}, FIFTHS),
]


@pytest.mark.parametrize(("wish", "wanted"), WISHES)
@pytest.mark.parametrize("size", [1, 4, 50])
def test_pages_from_new_to_old_hold_every_row_once_and_the_way_back_too(hour, wish, wanted, size):
    wish = Wish(hour.start, hour.end, **wish)
    forth, places, found = [], [], page(wish, size=size)
    while True:
        forth.append(ids(found.rows))
        places.append(found)
        if found.older is None:
            break
        found = page(wish, before=found.older, size=size)
    assert [id_ for rows in forth for id_ in rows] == wanted
    back = [forth[-1]]
    while places[-1].newer is not None and len(back) < len(forth):
        found = page(wish, after=found.newer, size=size)
        back.append(ids(found.rows))
        places.append(found)
    assert back == forth[::-1]


def test_the_newest_page_has_nothing_newer(hour):
    assert page(hour, size=5).newer is None
    assert page(hour, after=Cursor(NOON + HOUR, 0)).rows == []


@pytest.mark.parametrize("wish", [{"method": "POST"}, {"slower_ms": 500.0}, {"refused": True}])
def test_looking_stops_after_so_many_and_can_be_gone_on_with(hour, wish, monkeypatch):
    monkeypatch.setattr(latest, "SCAN_MAX", 7)
    monkeypatch.setattr(latest, "MINUTES_MAX", 2)
    wish = Wish(hour.start, hour.end, **wish)
    found, seen, steps = page(wish, size=50), [], 0
    while True:
        seen += ids(found.rows)
        if found.older is None:
            break
        assert found.searched_to is not None
        found, steps = page(wish, before=found.older, size=50), steps + 1
    assert steps >= 2
    assert seen == (["r20", "r10", "r0"] if wish.method else FIFTHS)


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "-1", "x-1", "1-x", "9" * 30 + "-1", "1-" + "9" * 30, "²-1"])
def test_what_is_no_cursor_is_none(text):
    assert Cursor.parse(text) is None


def test_a_cursor_survives_its_text():
    cursor = Cursor(datetime(2026, 11, 22, 12, 0, 0, 123457, tzinfo=UTC), 77)
    assert Cursor.parse(str(cursor)) == cursor


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture
def many():
    """60,000 rows over the last day, in their partitions, with their minutes; outcomes and slowness are rare."""
    today = timezone.now().date()
    partitions_keep(today, 2)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO usage_row (at, config_version, route_id, consumer_id, key_id, bytes_in, bytes_out,"
            " duration_ms, gateway_ms, status, tries, request_id, node, worker, method, host, path, outcome, detail,"
            " target, cache_status) SELECT now() - n * interval '1.4 s', 1, n %% 50, n %% 100, n %% 100, 0, 0,"
            " CASE WHEN n %% 20000 = 0 THEN 4000 ELSE 5 END, 1, CASE WHEN n %% 10000 = 0 THEN 503 ELSE 200 END, 1,"
            " 'id' || n, 'n', 'w', 'GET', 'h', '/p',"
            " CASE WHEN n %% 10000 = 0 THEN 'no_target' ELSE 'ok' END, '', '', ''"
            " FROM generate_series(1, 60000) AS n",
            [],
        )
        cursor.execute(
            "INSERT INTO usage_traffic SELECT 60, date_trunc('minute', at), -1, -1, status / 100, outcome, count(*),"
            " 0, 0, 0, 0 FROM usage_row GROUP BY 2, 5, 6"
        )
        cursor.execute("ANALYZE usage_row")
        cursor.execute("ANALYZE usage_traffic")


@pytest.mark.parametrize(
    ("wish", "rows_read"),
    [({}, 200), ({"route_id": 7}, 200), ({"consumer_id": 7}, 200), ({"outcome": "no_target"}, 3000),
     ({"method": "DELETE"}, latest.SCAN_MAX + 200)],
)  # fmt: skip
def test_no_view_reads_more_rows_than_it_must(many, wish, rows_read):
    end = timezone.now()
    wish = Wish(end - timedelta(days=1), end, **wish)
    with CaptureQueriesContext(connection) as queries:
        page(wish)
    statements = [query["sql"] for query in queries if "usage_row" in query["sql"]]
    assert statements
    for statement in statements:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement)
            (answer,) = cursor.fetchone()
        plan = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
        scans = [node for node in nodes(plan) if "Relation Name" in node]
        big = [node for node in scans if node["Node Type"] == "Seq Scan" and node["Actual Rows"] > 0]
        assert not big, f"reads {big[0]['Relation Name']} from end to end"
        read = sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans
        )
        assert read <= rows_read
    assert sum(float(query["time"]) for query in queries) < 0.3


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def recent(shipped):
    now_s = timezone.now().timestamp()
    shipped(
        finished(at_s=now_s - 60, id="fine"),
        finished(at_s=now_s - 90, id="slow", duration_ms=1500.0, method="POST"),
        finished(at_s=now_s - 120, id="gone", status=503, outcome="no_target", upstream_ms=None, key_id=None),
        finished(at_s=now_s - 7200, id="long-ago"),
    )


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["fine", "slow", "gone"]),
        ("?range=24h", ["fine", "slow", "gone", "long-ago"]),
        ("?class=5", ["gone"]),
        ("?outcome=no_target", ["gone"]),
        ("?method=post", ["slow"]),
        ("?slower=1000", ["slow"]),
        ("?consumer=5", ["fine", "slow"]),
        ("?key=11&range=24h", ["fine", "slow", "long-ago"]),
        ("?route=3&class=2", ["fine", "slow"]),
        ("?route=99", []),
        ("?class=9&outcome=nonsense&method=%00&slower=x&route=x&cursor=before-x", ["fine", "slow", "gone"]),
    ],
)
def test_the_list_is_narrowed_by_its_facets(operator, recent, query, shown):
    answer = operator.get(URL + query)
    assert answer.status_code == 200
    assert [line.row.request_id for line in answer.context["lines"]] == shown


def test_counts_are_those_a_click_would_show(operator, recent):
    context = operator.get(URL).context
    counted = {
        (facet.name, choice.value): choice.count
        for facet in context["facets"]
        for choice in facet.choices
        if choice.count is not None
    }
    assert counted["class", "5"] == 1
    assert counted["outcome", "ok"] == 2
    for (name, value), number in counted.items():
        assert len(operator.get(URL, {name: value}).context["lines"]) == number
    narrowed = operator.get(URL, {"method": "GET"}).context["facets"]
    assert all(choice.count is None for facet in narrowed for choice in facet.choices)


def test_a_request_id_leads_to_its_page(operator, recent):
    assert operator.get(URL, {"q": " slow "})["Location"] == f"{URL}slow/"
    assert "No request with the id" in operator.get(URL, {"q": "unknown"}).content.decode()


def test_the_list_takes_few_queries_however_long_it_is(operator, recent, shipped):
    operator.get(URL)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL)
    shipped(*[finished(route=route(n + 100, f"r{n}"), key_id=n) for n in range(60)])
    with CaptureQueriesContext(connection) as many:
        operator.get(URL)
    assert len(many) == len(few) <= 12


def test_nothing_says_the_next_step(operator):
    said = operator.get(URL).content.decode()
    assert "No requests in the last hour" in said
    assert "/dashboard/start/" in said
    assert "Nothing in the last hour matches." in operator.get(URL, {"class": "5"}).content.decode()


# --- one request ------------------------------------------------------------------------------------------------------


def test_a_request_says_what_it_was_and_links_on(operator, shipped):
    made = Route.objects.create(name="orders", paths=["/orders/*"])
    shipped(finished(id="one", route=route(made.pk), at_s=timezone.now().timestamp() - 5))
    page = operator.get(f"{URL}one/").content.decode()
    assert "the upstream (127.0.0.1:9000) answered 200 after 10 ms" in page or "answered 200 after 10 ms" in page
    assert f"/dashboard/routes/{made.pk}/" in page
    assert "curl -i" in page
    assert "/orders/1" in page
    assert "apikey: YOUR_KEY" in page
    part = operator.get(f"{URL}one/?drawer=1").content.decode()
    assert "<html" not in part
    assert "answered 200 after 10 ms" in part


@pytest.mark.parametrize("request_id", ["a/b", "a?b", "a%2Fb", "..", "ä".encode().hex(), "x#y", "q=1&r"])
def test_any_id_a_client_may_choose_has_its_page(operator, shipped, request_id):
    shipped(finished(id=request_id))
    url = operator.get(URL, {"q": request_id})["Location"]
    assert operator.get(url).context["row"].request_id == request_id


def test_several_requests_of_one_id_are_told_apart(operator, shipped):
    now_s = timezone.now().timestamp()
    shipped(finished(id="same", at_s=now_s - 9, status=404), finished(id="same", at_s=now_s - 5))
    older = UsageRow.objects.get(status=404)
    assert operator.get(f"{URL}same/").context["row"].status == 200
    context = operator.get(f"{URL}same/", {"row": older.pk}).context
    assert context["row"] == older
    assert len(context["twins"]) == 1


def test_an_unknown_request_is_not_found(operator):
    assert operator.get(f"{URL}unknown/").status_code == 404


@pytest.mark.parametrize(
    ("row", "widths"),
    [
        ({"duration_ms": 100.0, "gateway_ms": 10.0, "upstream_ms": 70.0}, [10, 70, 20]),
        ({"duration_ms": 100.0, "gateway_ms": 100.0, "upstream_ms": None}, [100]),
        ({"duration_ms": 0.0, "gateway_ms": 0.0, "upstream_ms": None}, [0]),
        ({"duration_ms": 10.0, "gateway_ms": 6.0, "upstream_ms": 6.0}, [60, 40]),
    ],
)
def test_timings_fill_the_whole_and_never_more(row, widths):
    assert [timing.width for timing in timings(UsageRow(**row))] == pytest.approx(widths)


def test_neighbours_are_of_the_same_route(operator, shipped):
    at_s = timezone.now().timestamp() - 60
    shipped(*[finished(id=f"n{n}", at_s=at_s + n) for n in range(9)], finished(id="other", route=None, at_s=at_s + 4))
    shown = ids(line.row for line in operator.get(f"{URL}n4/").context["neighbours"])
    assert shown == ["n7", "n6", "n5", "n4", "n3", "n2", "n1"]


# --- who may ----------------------------------------------------------------------------------------------------------


def test_requests_need_their_permission(client, recent):
    assert "/login/" in client.get(URL)["Location"]
    user = User.objects.create_user("somebody", is_staff=True)
    client.force_login(user)
    for url in (URL, f"{URL}fine/"):
        assert client.get(url).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_usagerow"))
    assert client.get(f"{URL}fine/").status_code == 200
    assert "/dashboard/consumers/" not in client.get(f"{URL}fine/").content.decode(), "no links to what is not theirs"
