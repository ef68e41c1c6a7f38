from __future__ import annotations

import re
import uuid

import pytest

from gateway.plugins.registry import ConfigProblems
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


DIGITS = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("generator", "looks_like"),
    [
        ("hex", r"[0-9a-f]{32}"),
        ("uuid", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
        ("uuid#counter", r"[0-9a-f-]{36}#[0-9]+"),
        ("tracker", r"[!-~]+-80-[0-9]+-[0-9]+-1790000040\.000"),
    ],
)
def test_a_fresh_id_looks_as_asked_for(make, exchange_of, generator: str, looks_like: str) -> None:
    plugin, made = make("request-id", {"generator": generator}), set()
    for digits in (DIGITS, DIGITS[::-1]):
        exchange = exchange_of(id=digits)
        plugin.access(exchange)
        assert headers.get_all(exchange.headers, NAME) == [exchange.id.encode()]
        assert re.fullmatch(looks_like, exchange.id)
        made.add(exchange.id)
    assert len(made) == 2
    brought = exchange_of(headers=[(NAME, b"abc")])
    plugin.access(brought)
    assert brought.id == "abc"


@pytest.mark.parametrize("digit", "0123456789abcdef")
def test_a_uuid_is_of_version_4_and_keeps_the_random_digits(make, exchange_of, digit: str) -> None:
    exchange = exchange_of(id=digit * 32)
    make("request-id", {"generator": "uuid"}).access(exchange)
    made = uuid.UUID(exchange.id)
    assert (made.version, made.variant) == (4, uuid.RFC_4122)
    assert exchange.id.count(digit) >= 30


def test_another_generator_is_refused(registry) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("request-id", {"generator": "snowflake"})
