from __future__ import annotations

import pytest

from gateway.proxy import headers

NAME = b"x-request-id"


def test_a_sane_incoming_id_is_kept_and_sent_both_ways(make, exchange_of) -> None:
    plugin, exchange = make("request-id"), exchange_of(headers=[(NAME, b"abc-123")])
    plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.id == "abc-123"
    assert headers.get_all(exchange.headers, NAME) == [b"abc-123"]
    assert headers.get_all(exchange.response_headers, NAME) == [b"abc-123"]


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [b""],
        [b"a b"],
        [b"a\x00"],
        [b"a\nb"],
        [b"a\n"],
        ["é".encode()],
        [b"x" * 129],
        [b"one", b"two"],
    ],
)
def test_any_other_id_is_replaced_by_the_fresh_one(make, exchange_of, sent: list[bytes]) -> None:
    plugin, exchange = make("request-id"), exchange_of(headers=[(NAME, value) for value in sent])
    plugin.access(exchange)
    assert exchange.id == "fresh-id"
    assert headers.get_all(exchange.headers, NAME) == [b"fresh-id"]


def test_without_trust_a_clients_id_is_never_taken(make, exchange_of) -> None:
    plugin, exchange = make("request-id", {"trust_downstream": False}), exchange_of(headers=[(NAME, b"abc")])
    plugin.access(exchange)
    assert headers.get_all(exchange.headers, NAME) == [b"fresh-id"]


def test_the_header_can_have_another_name_and_stay_inside(make, exchange_of) -> None:
    plugin = make("request-id", {"header_name": "Correlation-Id", "echo_downstream": False})
    exchange = exchange_of(headers=[(b"correlation-id", b"abc")], answer=[(b"correlation-id", b"of the upstream")])
    plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.id == "abc"
    assert exchange.response_headers == []


def test_the_upstreams_own_id_does_not_reach_the_client(make, exchange_of) -> None:
    plugin, exchange = make("request-id"), exchange_of(answer=[(NAME, b"theirs")])
    plugin.access(exchange)
    plugin.response(exchange)
    assert headers.get_all(exchange.response_headers, NAME) == [b"fresh-id"]
