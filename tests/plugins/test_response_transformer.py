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


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({"status": 503}, 500, 503),
        ({"status": 503, "if_status": ["500-599", "404"]}, 404, 503),
        ({"status": 503, "if_status": ["500-599", "404"]}, 403, 403),
        *(({"status": 200}, status, status) for status in (204, 205, 304)),
    ],
)
def test_the_status(make, exchange_of, config, before, after) -> None:
    exchange = exchange_of(status=before)
    make("response-transformer", config).response(exchange)
    assert exchange.status == after


def test_edits_may_be_for_some_statuses_only(make, exchange_of) -> None:
    plugin = make("response-transformer", {"set": {"headers": ["x-a:b"]}, "if_status": ["404"]})
    for status, fields in ((404, [(b"x-a", b"b")]), (200, [])):
        exchange = exchange_of(status=status)
        plugin.response(exchange)
        assert exchange.response_headers == fields


def test_templates_read_request_and_answer(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"x-a", b"1")], answer=[(b"etag", b'"v"')], status=200)
    edits = {"headers": ["x-b:$(headers.x-a) $(response_headers.etag)", "x-c:$(response_headers.none)"]}
    make("response-transformer", {"set": edits}).response(exchange)
    assert exchange.response_headers == [(b"etag", b'"v"'), (b"x-b", b'1 "v"')]


@pytest.mark.parametrize("config", [
    {"status": 204}, {"status": 199}, {"if_status": ["500-400"], "status": 200}, {"if_status": ["4xx"], "status": 200},
    {"if_status": ["404"]}, {"set": {"headers": ["a:$(x.y)"]}},
])  # fmt: skip
def test_what_would_break_an_answer_or_do_nothing_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("response-transformer", config)


@pytest.mark.parametrize("config", [{"set": {"headers": ["Host:x"]}}, {"set": {"querystring": ["a:b"]}}, {"path": "/"}])
def test_words_of_the_request_are_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("response-transformer", config)
