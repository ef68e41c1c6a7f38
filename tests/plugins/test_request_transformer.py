"""Query, path and Host; what headers do is in test_edits.py."""

from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import PluginFailed


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({"remove": ["a"]}, b"a=1&b=%7e+%2F&a&A=2&&x", b"b=%7e+%2F&A=2&&x"),
        ({"remove": ["a b"]}, b"a+b=1&a%20b=2&c", b"c"),
        ({"remove": ["a"]}, b"a=1", b""),
        ({"rename": ["a:ä b"]}, b"x=%2f&a=%2f+&a&b=1", b"x=%2f&%C3%A4%20b=%2f+&%C3%A4%20b&b=1"),
        ({"rename": ["a:b"]}, b"b=old&a=1", b"b=1"),
        ({"rename": ["a:b"]}, b"b=1", None),
        ({"replace": ["a:x"]}, b"a=1&b=%7e&a=2", b"b=%7e&a=x"),
        ({"replace": ["a:x"]}, b"b=1", None),
        ({"set": ["a:x&y=z"]}, b"b=%7e", b"b=%7e&a=x%26y%3Dz"),
        ({"set": ["a:x"]}, b"", b"a=x"),
        ({"add": ["a:x"]}, b"%61=1", None),
        ({"add": ["a:x"]}, b"b=1", b"b=1&a=x"),
        ({"append": ["a:x", "b:"]}, b"a=1", b"a=1&a=x&b="),
    ],
)
def test_query_edits_leave_the_other_bytes_alone(make, exchange_of, config, before, after) -> None:
    plugin = make("request-transformer", {word: {"querystring": edits} for word, edits in config.items()})
    exchange = exchange_of(query=before)
    plugin.access(exchange)
    assert exchange.upstream_query == after
    assert exchange.query == before


def test_what_an_earlier_plugin_took_out_stays_out(make, exchange_of) -> None:
    exchange = exchange_of(query=b"apikey=secret&a=1", upstream_query=b"a=1")
    make("request-transformer", {"add": {"querystring": ["b:2"]}}).access(exchange)
    assert exchange.upstream_query == b"a=1&b=2"


@pytest.mark.parametrize(
    ("template", "params", "tail", "path"),
    [
        ("/v2/users", {}, "", b"/v2/users"),
        ("/v2/{id}/x", {"id": "7"}, "", b"/v2/7/x"),
        ("/{a}-{b}", {"a": "x y", "b": "ü"}, "", b"/x%20y-%C3%BC"),
        ("/files/{name}", {"name": "a/../b?c#d%2f"}, "", b"/files/a%2F..%2Fb%3Fc%23d%252f"),
        ("/bytes/{raw}", {"raw": "\udcff"}, "", b"/bytes/%FF"),
        ("/ü/%2F", {}, "", b"/%C3%BC/%2F"),
        ("/v2/*", {}, "/a%2Fb/c", b"/v2/a%2Fb/c"),
        ("/v2/{id}/*", {"id": "7"}, "", b"/v2/7"),
        ("/*", {}, "/a", b"/a"),
        ("/*", {}, "", b"/"),
    ],
)
def test_the_path_is_filled_and_encoded(make, exchange_of, template, params, tail, path) -> None:
    exchange = exchange_of(path_params=params, path_tail=tail)
    make("request-transformer", {"path": template}).access(exchange)
    assert exchange.upstream_path == path


def test_a_parameter_the_route_does_not_have_fails_closed_and_says_so(make, exchange_of) -> None:
    exchange = exchange_of(path_params={"id": "7"})
    with pytest.raises(PluginFailed):
        make("request-transformer", {"path": "/{user}"}).access(exchange)
    assert "'user'" in exchange.detail


def test_without_a_path_the_routes_own_stays(make, exchange_of) -> None:
    exchange = exchange_of()
    make("request-transformer", {"add": {"headers": ["a:b"]}}).access(exchange)
    assert (exchange.upstream_path, exchange.upstream_query) == (None, None)


def test_set_may_change_the_host(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"host", b"gateway.example")])
    make("request-transformer", {"set": {"headers": ["Host: api.internal:8080"]}}).access(exchange)
    assert headers.get_all(exchange.headers, b"host") == [b"api.internal:8080"]


@pytest.mark.parametrize(
    "config",
    [
        {"path": "v2"},
        {"path": "/a b"},
        {"path": "/a?b=1"},
        {"path": "/a#b"},
        {"path": "/{}"},
        {"path": "/{a"},
        {"path": "/a}"},
        {"path": "/{1a}"},
        {"path": "/*/a"},
        {"path": "/%zz"},
        {"path": "/a\n"},
        {"set": {"querystring": ["novalue"]}},
        {"set": {"querystring": [":x"]}},
        {"rename": {"querystring": ["a:"]}},
    ],
)
def test_a_setting_that_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("request-transformer", config)
