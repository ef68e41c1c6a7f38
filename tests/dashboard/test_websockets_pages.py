from __future__ import annotations

import re
from dataclasses import replace

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import override_settings
from django.urls import reverse

from gateway.proxy.exchange import Consumer as Caller
from gateway.proxy.guard import Breaker
from gateway.proxy.snapshot import BreakerPolicy, CarePolicy
from keys.models import Consumer
from routes.models import Route, Upstream
from tests.dashboard.answering import reported, worker
from tests.dashboard.configuring import configured, staff
from tests.proxy.exchanges import ORDERS, finished, route

pytestmark = pytest.mark.django_db

LIST, CLOSE = "/dashboard/websockets/", "/dashboard/websockets/close/"


@pytest.fixture
def operator(client, db):
    configured()
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def answering(db):
    with worker("n1", 1) as one:
        yield one


@pytest.fixture
def opened(operator, answering):
    alice = Caller(id=Consumer.objects.get(username="alice").pk, username="alice")
    users, orders = (route(Route.objects.get(name=name).pk, name) for name in ("users", "orders"))
    answering.open(finished(consumer=alice, route=users, id="a1"), 100.0)
    answering.open(finished(consumer=None, route=orders, id="s2"), 101.0)
    return answering


def ids(page):
    return [item["id"] for item in page.context["found"].items]


def text_of(page):
    return page.content.decode()


def test_the_list_and_its_filters(operator, opened, django_assert_max_num_queries):
    with django_assert_max_num_queries(8):
        page = operator.get(LIST)
    assert ids(page) == ["s2", "a1"]
    assert all(words in text_of(page) for words in ("192.0.2.1", "127.0.0.1:9000", "n1/1", "none yet", "2 open"))
    assert "secret" not in text_of(page)  # what stands in a query
    for query, expected in (("?route=orders", ["s2"]), ("?consumer=alice", ["a1"]), ("?node=n1", ["s2", "a1"])):
        assert ids(operator.get(LIST + query)) == expected
    nothing = operator.get(LIST + "?consumer=bob")
    assert "No open WebSocket fits" in text_of(nothing)


def test_one_is_closed_by_its_button(operator, opened):
    form = re.search(r'value="s2">', text_of(operator.get(LIST + "?route=orders")))
    assert form
    answer = operator.post(CLOSE, {"id": "s2", "route": "orders"}, follow=True)
    assert answer.redirect_chain == [(f"{LIST}?route=orders", 302)]
    assert "Closed 1 WebSocket." in text_of(answer)
    assert opened.ended == [("s2", 1001, "", "operator")]
    assert LogEntry.objects.get().object_repr == "orders"
    again = operator.post(CLOSE, {"id": "s2"}, follow=True)
    assert "It has ended already." in text_of(again)


def test_those_of_a_search_are_closed_together(operator, opened):
    assert "Close these" not in text_of(operator.get(LIST))
    assert "Close these" in text_of(operator.get(LIST + "?consumer=alice"))
    operator.post(CLOSE, {"consumer": "alice"})
    assert [told[0] for told in opened.ended] == ["a1"]


def test_all_of_them_are_never_closed_at_once(operator, opened):
    answer = operator.post(CLOSE, {}, follow=True)
    assert "narrow the list" in text_of(answer)
    assert opened.ended == []


def test_nothing_open_says_the_next_step(operator, answering):
    page = text_of(operator.get(LIST))
    assert "No WebSocket is open" in page
    assert "python -m websockets ws://testserver/chat" in page


def test_a_worker_without_an_answer_is_named(operator, opened):
    reported("n9", 4)
    assert "No answer from worker n9/4" in text_of(operator.get(LIST))
    answer = operator.post(CLOSE, {"id": "s2"}, follow=True)
    assert "No answer from n9/4" in text_of(answer)


def test_without_redis_the_page_says_so(operator):
    with override_settings(REDIS_URL="redis://127.0.0.1:1"):
        page = operator.get(LIST)
        assert "Redis does not answer" in text_of(page)
        assert "Nothing was closed." in text_of(operator.post(CLOSE, {"id": "x"}, follow=True))


def test_who_may_look_may_not_close(client, operator, opened):
    client.force_login(staff("dashboard.view_usagerow"))
    page = text_of(client.get(LIST))
    assert "192.0.2.1" in page
    assert "data-confirm" not in page
    assert client.post(CLOSE, {"id": "s2"}).status_code == 403
    assert client.get(CLOSE).status_code == 405
    assert opened.ended == []


def test_others_see_nothing(client, operator):
    client.force_login(staff("routes.view_route"))
    assert client.get(LIST).status_code == 403
    assert LIST not in text_of(client.get(f"/dashboard/routes/{Route.objects.get(name='users').pk}/"))


def test_pages_of_a_route_and_of_a_consumer_lead_here(operator):
    page = text_of(operator.get(f"/dashboard/routes/{Route.objects.get(name='users').pk}/"))
    assert f'href="{LIST}?route=users"' in page
    consumer = Consumer.objects.get(username="alice")
    assert f'href="{LIST}?consumer=alice"' in text_of(operator.get(f"/dashboard/consumers/{consumer.pk}/"))


# --- circuits, which travel the same way ------------------------------------------------------------------------------


def guarded_upstream() -> Upstream:
    Upstream.objects.filter(name="users").update(breaker_error_percent=50, max_concurrency=20)
    return Upstream.objects.get(name="users")


def use(one, *, is_open: bool) -> None:
    policy = BreakerPolicy(error_share=0.5, slow_s=0.0, slow_share=0.5, min_requests=1, window_s=60.0, open_s=60.0)
    care = CarePolicy(breaker=policy, max_concurrency=20)
    guard = one.guards.of(replace(ORDERS, name="users", care=care), care)
    guard.ceiling.inside = 3
    assert isinstance(guard.breaker, Breaker)
    guard.breaker.settle(guard.breaker.admit(), is_open, 0.1)


def test_the_upstreams_page_tells_of_its_circuit_and_ceiling(operator, answering):
    upstream = guarded_upstream()
    url = reverse("dashboard:upstream", args=[upstream.pk])
    assert "circuit unused" in text_of(operator.get(url))
    use(answering, is_open=False)
    assert "circuit closed" in text_of(operator.get(url))
    with worker("n1", 2) as second:
        use(second, is_open=True)
        page, listed = text_of(operator.get(url)), text_of(operator.get(reverse("dashboard:upstreams")))
    assert "circuit open" in listed
    for words in ("circuit open", "in 1 of 2 workers", "6 under way", "of at most 20 per worker"):
        assert words in page, words
    other = Upstream.objects.get(name="users-next")
    assert "circuit" not in text_of(operator.get(reverse("dashboard:upstream", args=[other.pk])))


def test_status_tells_of_it_too(operator, answering):
    guarded_upstream()
    use(answering, is_open=True)
    told = {one["name"]: one["guard"] for one in operator.get("/admin/v1/status").json()["upstreams"]}
    assert told == {
        "users": {"circuit": "open", "workers": 1, "workers_open": 1, "under_way": 3, "waiting": 0},
        "users-next": None,
    }  # fmt: skip
