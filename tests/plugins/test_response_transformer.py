"""What the edits do to headers is in test_edits.py."""

from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems


def test_repeated_fields_that_no_edit_names_stay_repeated_and_in_order(make, exchange_of) -> None:
    cookies = [(b"set-cookie", b"a=1"), (b"server", b"x"), (b"set-cookie", b"b=2")]
    exchange = exchange_of(answer=cookies)
    make("response-transformer", {"remove": {"headers": ["Server"]}}).response(exchange)
    assert exchange.response_headers == [cookies[0], cookies[2]]


def test_append_adds_a_second_cookie(make, exchange_of) -> None:
    exchange = exchange_of(answer=[(b"set-cookie", b"a=1")])
    make("response-transformer", {"append": {"headers": ["Set-Cookie: b=2; Path=/"]}}).response(exchange)
    assert exchange.response_headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2; Path=/")]


def test_the_request_is_not_touched(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"server", b"x")])
    make("response-transformer", {"remove": {"headers": ["Server"]}}).response(exchange)
    assert exchange.headers == [(b"server", b"x")]


@pytest.mark.parametrize("config", [{"set": {"headers": ["Host:x"]}}, {"set": {"querystring": ["a:b"]}}, {"path": "/"}])
def test_words_of_the_request_are_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("response-transformer", config)
