"""Open WebSockets over the admin API: what the workers say is listed, and what is asked for is closed and told of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import override_settings

from gateway.proxy.exchange import Consumer as Caller_
from keys.models import Consumer
from keys.trail import steps
from routes.models import Route
from tests.api.caller import Caller
from tests.dashboard.answering import Answering, reported, worker
from tests.dashboard.configuring import configured
from tests.proxy.exchanges import finished, route

pytestmark = pytest.mark.django_db


@pytest.fixture
def workers(db: None) -> Iterator[tuple[Answering, Answering]]:
    """On two nodes: alice on `users` in the first; alice and a stranger on `orders` in the second."""
    configured()
    alice = Caller_(id=Consumer.objects.get(username="alice").pk, username="alice")
    users, orders = (route(Route.objects.get(name=name).pk, name) for name in ("users", "orders"))
    with worker("n1", 1) as first, worker("n2", 1) as second:
        first.open(finished(consumer=alice, route=users, id="a1"), 100.0)
        second.open(finished(consumer=alice, route=orders, id="a2"), 101.0)
        second.open(finished(consumer=None, route=orders, id="s2"), 102.0)
        yield first, second


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [item["id"] for item in answer.json()["items"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["s2", "a2", "a1"]),
        ("?route=orders", ["s2", "a2"]),
        ("?consumer=alice", ["a2", "a1"]),
        ("?consumer=alice&route=users", ["a1"]),
        ("?node=n1", ["a1"]),
        ("?node=n3", []),
        ("?route=nothing", []),
        ("?limit=2", ["s2", "a2"]),
    ],
)
def test_the_list_holds_what_all_workers_have_open(call: Caller, workers: Any, query: str, expected: list[str]) -> None:
    answer = call("GET", f"/websockets{query}")
    assert ids(answer) == expected
    assert answer.json()["silent"] == []


def test_rows_are_named_by_id_too(call: Caller, workers: Any) -> None:
    orders = Route.objects.get(name="orders")
    assert ids(call("GET", f"/websockets?route={orders.pk}")) == ["s2", "a2"]
    Route.objects.filter(pk=orders.pk).update(name="bills")  # they were opened under the old name
    assert ids(call("GET", "/websockets?route=bills")) == ["s2", "a2"]


def test_pages_lead_to_all_of_them(call: Caller, workers: Any) -> None:
    first = call("GET", "/websockets?limit=2")
    assert (ids(first), first.json()["count"]) == (["s2", "a2"], 3)
    assert first["Link"] == f'<{first.json()["next"]}>; rel="next"'
    rest = call("GET", first.json()["next"].partition("testserver")[2])
    assert (ids(rest), rest.json()["next"], rest.json()["count"]) == (["a1"], None, 3)
    assert call("GET", "/websockets?cursor=x").status_code == 400


def test_one_item_says_who_and_where(call: Caller, workers: Any) -> None:
    (item,) = call("GET", "/websockets?route=users").json()["items"]
    alice = Consumer.objects.get(username="alice")
    assert {
        "id": "a1", "node": "n1", "worker": 1, "route": "users", "consumer": "alice", "consumer_id": alice.pk,
        "client_ip": "192.0.2.1", "target": "127.0.0.1:9000", "opened_at": "1970-01-01T00:01:40Z",
        "last_message_at": None, "messages_in": 0,
    }.items() <= item.items()  # fmt: skip
    (stranger,) = call("GET", "/websockets?limit=1").json()["items"]
    assert (stranger["consumer"], stranger["consumer_id"]) == (None, None)


def test_a_worker_that_does_not_answer_is_named(call: Caller, workers: Any) -> None:
    reported("n9", 4)
    answer = call("GET", "/websockets")
    assert (ids(answer), answer.json()["silent"]) == (["s2", "a2", "a1"], ["n9/4"])
    assert call("GET", "/websockets?node=n1").json()["silent"] == []
    gone = call("POST", "/websockets/nobody/close", {})
    assert (gone.status_code, gone.json()["detail"]) == (
        404, "There is no open WebSocket with this id. No answer came from n9/4.",
    )  # fmt: skip


def test_one_is_closed_and_the_history_of_its_route_says_so(call: Caller, workers: Any, admin: Any) -> None:
    first, second = workers
    answer = call("POST", "/websockets/a2/close", {"code": 4001, "reason": "ende ✓"})
    assert (ids(answer), answer.json()["count"]) == (["a2"], 1)
    assert (first.ended, second.ended) == ([], [("a2", 4001, "ende ✓", "admin")])
    assert call("POST", "/websockets/a2/close", {}).status_code == 404
    (entry,) = LogEntry.objects.all()
    (step,) = steps(entry)
    assert (entry.user, entry.object_repr, step.words) == (admin, "orders", "Closed 1 WebSocket.")
    assert step.fields == [("closed", "", "1"), ("code", "", "4001"), ("reason", "", "ende ✓")]
    assert entry.object_id == str(Route.objects.get(name="orders").pk)


def test_all_of_a_consumer_are_closed_and_told_in_its_history_too(call: Caller, workers: Any) -> None:
    first, second = workers
    answer = call("POST", "/websockets/close", {"consumer": "alice"})
    assert sorted(ids(answer)) == ["a1", "a2"]
    assert [one[0] for one in first.ended + second.ended] == ["a1", "a2"]
    assert first.ended[0][1:] == (1001, "", "admin")
    told = {entry.object_repr: next(iter(steps(entry))).words for entry in LogEntry.objects.all()}
    assert told == {
        "users": "Closed 1 WebSocket of consumer alice.", "orders": "Closed 1 WebSocket of consumer alice.",
        "alice": "Closed 2 WebSockets.",
    }  # fmt: skip
    assert ids(call("GET", "/websockets")) == ["s2"]


def test_closing_none_tells_nothing(call: Caller, workers: Any) -> None:
    answer = call("POST", "/websockets/close", {"route": "users", "node": "n2"})
    assert answer.json() == {"count": 0, "items": [], "silent": []}
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/websockets/close", {}),
        ("/websockets/close", {"route": ""}),
        ("/websockets/close", {"route": 5}),
        ("/websockets/close", {"client": "x"}),
        ("/websockets/a1/close", {"code": 1005}),
        ("/websockets/a1/close", {"code": 1006}),
        ("/websockets/a1/close", {"code": 2999}),
        ("/websockets/a1/close", {"code": 5000}),
        ("/websockets/a1/close", {"code": "1001"}),
        ("/websockets/a1/close", {"reason": "ä" * 62}),
        ("/websockets/a1/close", {"route": "users"}),
    ],
)
def test_what_cannot_be_meant_closes_nothing(call: Caller, workers: Any, path: str, body: Any) -> None:
    assert call("POST", path, body).status_code == 422
    assert ids(call("GET", "/websockets")) == ["s2", "a2", "a1"]


def test_scope_and_permissions_decide(call_as: Callable[..., Caller], clerk: Callable[..., Any], workers: Any) -> None:
    looks = clerk("dashboard.view_usagerow")
    ends = clerk("dashboard.view_usagerow", "routes.change_route")
    assert call_as(clerk("routes.change_route"), "read")("GET", "/websockets").status_code == 403
    assert call_as(looks, "read")("GET", "/websockets").status_code == 200
    for caller in (call_as(looks, "write"), call_as(ends, "read")):
        assert caller("POST", "/websockets/a1/close", {}).status_code == 403
        assert caller("POST", "/websockets/close", {"route": "users"}).status_code == 403
    assert workers[0].ended == []
    assert call_as(ends, "write")("POST", "/websockets/a1/close", {}).status_code == 200
    assert Caller()("GET", "/websockets").status_code == 401


def test_without_redis_it_is_a_503_that_says_why(call: Caller) -> None:
    with override_settings(REDIS_URL="redis://127.0.0.1:1"):
        answer = call("GET", "/websockets")
        assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
        assert call("POST", "/websockets/a1/close", {}).status_code == 503
        assert call("GET", "/status").status_code == 200
