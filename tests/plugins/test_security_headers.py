from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.plugins.security_headers import SecurityHeaders, SecurityHeadersConfig
from gateway.proxy.headers import get, get_all
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import answering, serving

DEFAULT = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
]
EVERY = {
    "hsts_max_age_s": 63_072_000, "hsts_include_subdomains": True, "hsts_preload": True, "x_frame_options": "DENY",
    "referrer_policy": "no-referrer", "permissions_policy": "camera=()",
    "content_security_policy": "default-src 'self'",
    "content_security_policy_report_only": "default-src 'none'", "cross_origin_opener_policy": "same-origin",
    "cross_origin_embedder_policy": "require-corp", "cross_origin_resource_policy": "same-site",
}  # fmt: skip
NONE = {"hsts_max_age_s": None, "nosniff": False, "x_frame_options": "", "referrer_policy": ""}


@pytest.mark.parametrize(
    ("config", "scheme", "fields"),
    [
        ({}, "http", DEFAULT),
        ({}, "https", [*DEFAULT, (b"strict-transport-security", b"max-age=31536000")]),
        ({"hsts_max_age_s": 0}, "https", [*DEFAULT, (b"strict-transport-security", b"max-age=0")]),
        (NONE, "https", []),
        (EVERY, "https", [
            (b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"), (b"permissions-policy", b"camera=()"),
            (b"content-security-policy", b"default-src 'self'"),
            (b"content-security-policy-report-only", b"default-src 'none'"),
            (b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-embedder-policy", b"require-corp"),
            (b"cross-origin-resource-policy", b"same-site"),
            (b"strict-transport-security", b"max-age=63072000; includeSubDomains; preload"),
        ]),
    ],
)  # fmt: skip
def test_what_is_sent(make, exchange_of, config, scheme, fields) -> None:
    exchange = exchange_of(scheme=scheme)
    make("security-headers", config).response(exchange)
    assert exchange.response_headers == fields


OWN = [(b"content-security-policy", b"a"), (b"content-security-policy", b"b"), (b"x-frame-options", b"DENY")]


def test_the_upstreams_own_word_counts(make, exchange_of) -> None:
    exchange = exchange_of(answer=OWN)
    make("security-headers", {"content_security_policy": "c"}).response(exchange)
    assert exchange.response_headers[:3] == OWN
    assert get_all(exchange.response_headers, b"content-security-policy") == [b"a", b"b"]
    assert get_all(exchange.response_headers, b"x-frame-options") == [b"DENY"]


def test_override_replaces_what_is_sent_and_nothing_else(make, exchange_of) -> None:
    exchange = exchange_of(answer=[*OWN, (b"permissions-policy", b"camera=()")])
    make("security-headers", {"content_security_policy": "c", "override": True}).response(exchange)
    assert get_all(exchange.response_headers, b"content-security-policy") == [b"c"]
    assert get_all(exchange.response_headers, b"x-frame-options") == [b"SAMEORIGIN"]
    assert get_all(exchange.response_headers, b"permissions-policy") == [b"camera=()"]


async def test_names_of_the_server_go_and_errors_are_covered() -> None:
    answer = b"HTTP/1.1 200 OK\r\nserver: Apache\r\nx-powered-by: PHP\r\nset-cookie: a=1\r\ncontent-length: 0\r\n\r\n"
    settings = [setting(SecurityHeaders, config=SecurityHeadersConfig())]
    async with serving(answering(answer)) as up:
        both = [upstream("up", target(up.port)), upstream("dead", target(1), id=2, retries=0)]
        routes = [route("r", "/r"), route("d", "/d", to=(("dead", 1),), id=2)]
        async with Bench(table(routes, both, [SecurityHeaders], settings)) as bench:
            exchange, _ = await bench.get("/r")
            failed, _ = await bench.get("/d")
    fields = exchange.response_headers or []
    assert (get(fields, b"server"), get(fields, b"x-powered-by"), get(fields, b"set-cookie")) == (None, None, b"a=1")
    for answered in (exchange, failed):
        assert get(answered.response_headers or [], b"x-content-type-options") == b"nosniff"
    assert failed.status == 502


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hsts_preload": True}, "hsts_preload needs"),
        ({"hsts_preload": True, "hsts_include_subdomains": True, "hsts_max_age_s": 60}, "hsts_preload needs"),
        ({"hsts_max_age_s": None, "hsts_include_subdomains": True}, "needs hsts_max_age_s"),
        ({"content_security_policy": "a\r\nset-cookie: b"}, "pattern"),
        ({"permissions_policy": "camera=(é)"}, "pattern"),
        ({"permissions_policy": " camera=()"}, "pattern"),
        ({"x_frame_options": "ALLOW-FROM https://a.test"}, "DENY"),
        ({"remove": ["X-Frame-Options"]}, "cannot be removed: X-Frame-Options"),
        ({"remove": ["Content-Length"]}, "framing"),
        ({"remove": ["a b"]}, "no header name"),
    ],
)
def test_what_no_browser_understands_is_refused(registry, config, said) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("security-headers", config)
    assert said in str(caught.value)
