from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers

PAGE = b"https://app.example.com"
EXACT = {"origins": ["https://app.example.com", "http://localhost:3000"]}


def preflight(exchange_of, origin: bytes = PAGE, *more: tuple[bytes, bytes]):
    asked = [(b"origin", origin), (b"access-control-request-method", b"PUT"), *more]
    return exchange_of("OPTIONS", headers=asked)


def answered(plugin, exchange) -> dict[bytes, bytes]:
    """A preflight as the pipeline handles it: answered in access, then through the response hook."""
    answer = plugin.access(exchange)
    assert (answer.status, answer.body) == (204, b"")
    exchange.response_headers = answer.headers
    plugin.response(exchange)
    assert len(dict(exchange.response_headers)) == len(exchange.response_headers)
    return dict(exchange.response_headers)


def test_a_preflight_is_answered_without_the_upstream(make, exchange_of) -> None:
    plugin = make("cors", {**EXACT, "credentials": True, "max_age": 600, "methods": ["GET", "PUT"]})
    exchange = preflight(exchange_of, PAGE, (b"access-control-request-headers", b"x-a, x-b"))
    assert answered(plugin, exchange) == {
        b"access-control-allow-origin": PAGE,
        b"access-control-allow-credentials": b"true",
        b"access-control-allow-methods": b"GET, PUT",
        b"access-control-allow-headers": b"x-a, x-b",
        b"access-control-max-age": b"600",
        b"vary": b"Origin, Access-Control-Request-Headers",
    }


def test_a_strangers_preflight_gets_no_permission(make, exchange_of) -> None:
    fields = answered(make("cors", EXACT), preflight(exchange_of, b"https://evil.example"))
    assert fields == {b"vary": b"Origin, Access-Control-Request-Headers"}


def test_named_headers_are_allowed_whatever_is_asked(make, exchange_of) -> None:
    plugin = make("cors", {"headers": ["X-A"], "private_network": True})
    asked = [(b"access-control-request-headers", b"x-b"), (b"access-control-request-private-network", b"true")]
    fields = answered(plugin, preflight(exchange_of, PAGE, *asked))
    assert fields[b"access-control-allow-headers"] == b"X-A"
    assert fields[b"access-control-allow-private-network"] == b"true"
    assert fields[b"access-control-allow-origin"] == b"*"
    assert fields[b"vary"] == b"Access-Control-Request-Private-Network"


@pytest.mark.parametrize(
    "sent", [[], [(b"origin", PAGE)], [(b"access-control-request-method", b"PUT")]]
)  # fmt: skip
def test_an_options_request_that_is_no_preflight_goes_upstream(make, exchange_of, sent) -> None:
    assert make("cors").access(exchange_of("OPTIONS", headers=sent)) is None


def test_a_continued_preflight_keeps_the_upstreams_answer(make, exchange_of) -> None:
    plugin, exchange = make("cors", {"preflight_continue": True}), preflight(exchange_of)
    exchange.response_headers = [(b"access-control-allow-methods", b"LOCK")]
    assert plugin.access(exchange) is None
    plugin.response(exchange)
    assert exchange.response_headers == [(b"access-control-allow-methods", b"LOCK")]


def test_the_upstreams_fields_are_replaced(make, exchange_of) -> None:
    theirs = [(b"access-control-allow-origin", b"*"), (b"access-control-allow-credentials", b"true"), (b"etag", b"1")]
    plugin = make("cors", {**EXACT, "exposed_headers": ["X-Total", "ETag"]})
    exchange = exchange_of(headers=[(b"origin", PAGE)], answer=theirs)
    plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.response_headers == [
        (b"etag", b"1"),
        (b"access-control-allow-origin", PAGE),
        (b"access-control-expose-headers", b"X-Total, ETag"),
        (b"vary", b"Origin"),
    ]


@pytest.mark.parametrize("origin", [None, b"https://evil.example", b"https://app.example.com.evil.example", b"null"])
def test_strangers_get_the_answer_without_permission_but_with_vary(make, exchange_of, origin) -> None:
    plugin, exchange = make("cors", EXACT), exchange_of(headers=[(b"origin", origin)] if origin else [])
    plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.response_headers == [(b"vary", b"Origin")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([b"Accept-Encoding"], [b"Accept-Encoding, Origin"]),
        ([b"accept, ORIGIN"], [b"accept, ORIGIN"]),
        ([b"*"], [b"*"]),
        ([b"a", b"b"], [b"a, b, Origin"]),
    ],
)
def test_vary_is_joined_and_said_once(make, exchange_of, before, after) -> None:
    plugin, exchange = make("cors", EXACT), exchange_of(answer=[(b"vary", value) for value in before])
    plugin.access(exchange)
    plugin.response(exchange)
    assert headers.get_all(exchange.response_headers, b"vary") == after


def test_a_public_answer_is_one_for_all_caches(make, exchange_of) -> None:
    plugin, exchange = make("cors"), exchange_of()
    plugin.access(exchange)
    plugin.response(exchange)
    assert exchange.response_headers == [(b"access-control-allow-origin", b"*")]


def test_a_later_plugin_that_drops_origin_does_not_take_the_permission(make, exchange_of) -> None:
    plugin, exchange = make("cors", EXACT), exchange_of(headers=[(b"origin", PAGE)])
    plugin.access(exchange)
    exchange.headers.clear()
    plugin.response(exchange)
    assert headers.get(exchange.response_headers, b"access-control-allow-origin") == PAGE


@pytest.mark.parametrize(
    ("named", "origin", "allowed"),
    [
        ("https://*.example.com", b"https://app.example.com", True),
        ("https://*.example.com", b"https://A.b.Example.com", True),
        ("https://*.example.com", b"https://example.com", False),
        ("https://*.example.com", b"http://app.example.com", False),
        ("https://*.example.com", b"https://app.example.com:8443", False),
        ("https://*.example.com", b"https://app.example.com.evil.example", False),
        ("https://*.example.com", b"https://evil.example/.example.com", False),
        ("https://*.example.com", b"https://app.exampleXcom", False),
        ("http://localhost:*", b"http://localhost:3000", True),
        ("http://localhost:*", b"http://localhost", True),
        ("http://localhost:*", b"http://localhost:3000.evil.example", False),
        (r"^https://(a|b)\.example\.com", b"https://b.example.com", True),
        (r"^https://(a|b)\.example\.com", b"https://b.example.com.evil.example", False),
        (r"^https://(a|b)\.example\.com", b"https://c.example.com", False),
        (r"^https://(a|b)\.example\.com", b"\xff", False),
    ],
)
def test_wildcards_and_regular_expressions_fit_the_whole_origin(make, exchange_of, named, origin, allowed) -> None:
    plugin = make("cors", {"origins": ["https://other.example", named], "credentials": True})
    exchange = exchange_of(headers=[(b"origin", origin)])
    plugin.access(exchange)
    plugin.response(exchange)
    said = headers.get(exchange.response_headers, b"access-control-allow-origin")
    assert said == (origin if allowed else None)
    assert headers.get(exchange.response_headers, b"vary") == b"Origin"
    assert (b"access-control-allow-methods" in answered(plugin, preflight(exchange_of, origin))) is allowed


def test_requests_without_an_origin_may_be_left_alone(make, exchange_of) -> None:
    plugin = make("cors", {"allow_origin_absent": False})
    for sent, fields in (
        ([], [(b"vary", b"Origin")]),
        ([(b"origin", PAGE)], [(b"access-control-allow-origin", b"*"), (b"vary", b"Origin")]),
    ):
        exchange = exchange_of(headers=sent)
        plugin.access(exchange)
        plugin.response(exchange)
        assert exchange.response_headers == fields


@pytest.mark.parametrize(
    "config",
    [
        {"origins": ["^.*$"], "credentials": True},
        {"origins": ["^https?://.*"], "credentials": True},
        {"origins": ["^("]},
        {"origins": ["^(?=a)b"]},
        {"origins": ["https://*"]},
        {"origins": ["https://a.*.example"]},
        {"origins": ["https://*example.com"]},
        {"credentials": True},
        {"origins": ["*", "https://a.example"]},
        {"origins": []},
        {"origins": ["https://a.example/"]},
        {"origins": ["a.example"]},
        {"origins": ["https://a.example\n"]},
        {"origins": ["null"]},
        {"methods": ["FETCH"]},
        {"headers": ["X-A\r\nX-B"]},
        {"max_age": -1},
    ],
)
def test_what_would_be_unsafe_or_meaningless_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("cors", config)
