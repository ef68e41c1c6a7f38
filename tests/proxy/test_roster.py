from __future__ import annotations

from typing import Any

import pytest

from gateway.proxy.exchange import Consumer, Exchange
from gateway.proxy.roster import TOLD_MAX, Roster
from tests.proxy.exchanges import ANN, finished, route

BOB = Consumer(id=6, username="bob")
TOKEN = Consumer(id=0, username="bob")  # known from a token only

Ended = list[tuple[str, int, str, str]]


@pytest.fixture
def ended() -> Ended:
    return []


@pytest.fixture
def roster(ended: Ended) -> Roster:
    """Four: ann and bob on `orders`, a bob of a token and somebody unknown on `chat`; a second after one another."""
    roster = Roster()
    chat = route(4, "chat")
    for number, (on, who) in enumerate([(None, ANN), (None, BOB), (chat, TOKEN), (chat, None)]):
        exchange = finished(consumer=who, **({"route": on} if on else {}))
        exchange.id = f"id{number}"
        entry = roster.enter(exchange, lambda *told, id_=exchange.id: ended.append((id_, *told)))  # type: ignore[misc]
        entry.opened_s = 100.0 + number
    return roster


def ids(roster: Roster, **about: Any) -> list[str]:
    return [told["id"] for told in roster.told(about)["items"]]


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, "3210"),
        ({"id": "id2"}, "2"),
        ({"id": "another"}, ""),
        ({"route": [3, "orders"]}, "10"),
        ({"route": [3, "renamed"]}, "10"),  # since they were opened
        ({"route": [0, "chat"]}, "32"),  # gone since
        ({"route": [9, "orders"]}, ""),  # another of this name
        ({"consumer": [6, "bob"]}, "1"),
        ({"consumer": [0, "bob"]}, "21"),
        ({"consumer": [5, "ann"], "route": [4, "chat"]}, ""),
        ({"limit": 2}, "32"),
        ({"limit": 2, "before": [102000, "id2"]}, "10"),
        ({"before": [101000, "id1x"]}, "10"),
    ],
)
def test_those_asked_for_newest_first(roster: Roster, about: dict[str, Any], expected: str) -> None:
    assert ids(roster, **about) == [f"id{digit}" for digit in expected]


def test_what_is_told_of_one(roster: Roster) -> None:
    exchange = finished(raw_path=b"/chat/1", consumer=None)
    entry = roster.enter(exchange, lambda *told: None)
    (told,) = roster.told({"id": exchange.id})["items"]
    assert (told["last_message_at"], told["consumer"], told["consumer_id"]) == (None, "", 0)
    entry.messages_in, entry.messages_out, exchange.bytes_in = 2, 1, 77
    (told,) = roster.told({"id": exchange.id})["items"]
    assert abs(told["last_message_at"] - told["opened_at"]) <= 1
    assert (told["messages_in"], told["messages_out"], told["bytes_in"], told["bytes_out"]) == (2, 1, 77, 0)
    assert (told["route"], told["upstream"], told["target"], told["client_ip"], told["path"]) == (
        "orders", "orders", "127.0.0.1:9000", "192.0.2.1", "/chat/1",
    )  # fmt: skip
    assert "secret" not in str(told)  # what stands in the query


def test_of_many_the_newest_are_told_and_all_are_counted() -> None:
    roster = Roster()
    for number in range(TOLD_MAX + 10):
        roster.enter(finished(), lambda *told: None).opened_s = number
    told = roster.told({})
    assert (told["count"], len(told["items"]), len(roster)) == (TOLD_MAX + 10, TOLD_MAX, TOLD_MAX + 10)
    assert told["items"][0]["opened_at"] == (TOLD_MAX + 9) * 1000


def test_closing_those_asked_for_and_nobody_else(roster: Roster, ended: Ended) -> None:
    closed = roster.closed({"consumer": [0, "bob"], "code": 1008, "reason": "enough", "by": "operator"})
    assert ended == [("id1", 1008, "enough", "operator"), ("id2", 1008, "enough", "operator")]
    assert (closed["count"], closed["routes"]) == (2, [[3, "orders", 1], [4, "chat", 1]])
    assert [told["consumer"] for told in closed["items"]] == ["bob", "bob"]


def test_who_left_is_not_there(roster: Roster) -> None:
    exchange: Exchange = finished()
    roster.enter(exchange, lambda *told: None)
    roster.leave(exchange)
    roster.leave(exchange)
    assert exchange.id not in ids(roster)
