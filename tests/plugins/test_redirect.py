from __future__ import annotations

import pytest

from gateway.plugins.redirect import Redirect, RedirectConfig
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import BadRequest, PluginFailed
from gateway.proxy.headers import get
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, answering, serving

PLACE = {"host": "shop.test", "authority": b"shop.test:8080"}


@pytest.mark.parametrize(
    ("config", "request_", "location"),
    [
        ({"location": "https://{host}{path}"}, ("/a%2Fb//c", b"x=1&y"), b"https://shop.test/a%2Fb//c?x=1&y"),
        ({"location": "https://{host}{path}", "keep_query": False}, ("/a", b"x=1"), b"https://shop.test/a"),
        ({"location": "https://new.test/v2{tail}"}, ("/v1/a", b""), b"https://new.test/v2/a"),
        ({"location": "http://new.test/?from={host}"}, ("/", b"x=1"),
         b"http://new.test/?from=shop.test&x=1"),
        ({"location": "/login?next={path}%3F{query}", "keep_query": False}, ("/a&b", b"x=1"),
         b"/login?next=%2Fa%26b%3Fx%3D1"),
        ({"location": "/accounts/{id}"}, ("/users/7", b""), b"/accounts/a%2Fb%3F"),
        ({"location": "{path}/"}, ("/docs", b""), b"/docs/"),
    ],
)  # fmt: skip
def test_a_location_is_filled_in(make, exchange_of, config, request_, location) -> None:
    exchange = exchange_of("GET", *request_, path_tail="/a", path_params={"id": "a/b?"}, **PLACE)
    answer = make("redirect", config).access(exchange)
    assert (answer.status, answer.headers, answer.body) == (301, [(b"location", location)], b"")


@pytest.mark.parametrize("path", ["//evil.example/x", "///evil.example", "/\\evil.example", "/\\/evil.example"])
def test_a_path_never_leads_to_another_site(make, exchange_of, path) -> None:
    answer = make("redirect", {"location": "{path}/", "status_code": 302}).access(exchange_of(path=path, **PLACE))
    location = get(answer.headers, b"location")
    assert location.startswith(b"/evil.example")
    absolute = make("redirect", {"location": "https://{host}{path}"}).access(exchange_of(path=path, **PLACE))
    assert get(absolute.headers, b"location").startswith(b"https://shop.test/")


@pytest.mark.parametrize(
    ("config", "attributes"),
    [
        ({"location": "https://{host}{path}"}, {"scheme": "https"}),
        ({"location": "https://shop.test:8080{path}"}, {"scheme": "https"}),
        ({"location": "http://{host}{path}"}, {"authority": b"SHOP.test"}),
        ({"location": "{path}"}, {}),
        ({"location": "/a"}, {}),
    ],
)
def test_whoever_is_there_already_goes_on(make, exchange_of, config, attributes) -> None:
    assert make("redirect", config).access(exchange_of(path="/a", query=b"x=1", **PLACE | attributes)) is None


def test_a_request_without_a_host_cannot_be_sent_to_its_host(make, exchange_of) -> None:
    with pytest.raises(BadRequest):
        make("redirect", {"location": "https://{host}{path}"}).access(exchange_of())


def test_a_parameter_nobody_gives_is_a_mistake_of_the_setting(make, exchange_of) -> None:
    exchange = exchange_of(**PLACE)
    with pytest.raises(PluginFailed):
        make("redirect", {"location": "/a/{id}"}).access(exchange)
    assert exchange.detail == "redirect: the route's path has no parameter 'id'"


async def test_the_upstream_is_asked_by_those_who_came_over_https_only() -> None:
    settings = [setting(Redirect, config=RedirectConfig(location="https://{host}{path}", status_code=308))]
    async with serving(answering(OK)) as up:
        routing = table([route("r", "/*")], [upstream("up", target(up.port))], [Redirect], settings)
        async with Bench(routing) as bench:
            sent, body = await bench.get("/a?x=1", method="POST", body=[b"x"], length=1)
            exchange, _ = await bench.get("/a")
    assert (sent.status, sent.outcome, body) == (308, "answered", b"")
    assert get(sent.response_headers or [], b"location") == b"https://api.test/a?x=1"
    assert get(exchange.response_headers or [], b"content-length") == b"0"
    assert not up.heads


@pytest.mark.parametrize("location", [
    "", "new.test", "//new.test", "/\\new.test", "ftp://new.test", "https://", "https:///x", "javascript:alert(1)",
    "/a b", "/a\r\nx: y", "/é", "/a#b", "/{id", "/{a-b}", "/}", "{host}/", "{tail}",
])  # fmt: skip
def test_what_leads_nowhere_is_refused(registry, location) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("redirect", {"location": location})


def test_a_status_that_is_no_redirect_is_refused(registry) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("redirect", {"location": "/", "status_code": 304})
