"""Query, path and Host; what headers do is in test_edits.py."""

from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import BadRequest, PluginFailed
from gateway.proxy.exchange import Consumer


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
    ("template", "path"),
    [
        ("/t/$(consumer.username)/{id}", b"/t/ann%2F%20b/7"),
        ("/$(query_params.q)/*", b"/a%0D%0Ab/x%2Fy"),
        ('/$(headers["x-none"] or "all")', b"/all"),
    ],
)
def test_templates_in_the_path_are_encoded(make, exchange_of, template, path) -> None:
    exchange = exchange_of(
        query=b"q=a%0d%0ab", path_params={"id": "7"}, path_tail="/x%2Fy", consumer=Consumer(1, "ann/ b")
    )
    make("request-transformer", {"path": template}).access(exchange)
    assert exchange.upstream_path == path


@pytest.mark.parametrize(
    ("template", "query"),
    [
        ("/a/$(query_params.q)/b", b"q=.."), ("/a/.$(query_params.q)/b", b"q=."), ("/a/$(query_params.q)", b""),
        ("/a/$(query_params.q)", b"q="), ("/a/$(query_params.q)/b", b"q=..%2f.."),
    ],
)  # fmt: skip
def test_what_a_client_sends_cannot_leave_the_path_or_be_missing_in_it(make, exchange_of, template, query) -> None:
    with pytest.raises(BadRequest):
        make("request-transformer", {"path": template}).access(exchange_of(query=query))


def test_templates_read_what_the_edits_take_away(make, exchange_of) -> None:
    plugin = make("request-transformer", {
        "remove": {"headers": ["Authorization"], "querystring": ["t"]},
        "set": {"headers": ["X-Was: $(headers.authorization)", "X-T: <$(query_params.t)>"],
                "querystring": ["auth:$(headers.authorization)"]},
    })  # fmt: skip
    exchange = exchange_of(query=b"t=a%20b", headers=[(b"authorization", b"Basic x")])
    plugin.access(exchange)
    assert exchange.headers == [(b"x-was", b"Basic x"), (b"x-t", b"<a b>")]
    assert exchange.upstream_query == b"auth=Basic%20x"


@pytest.mark.parametrize("query", [b"", b"u=a%0d%0aX-Admin:%20yes", b"u=%00", b"u=a%7f"])
def test_no_value_or_a_dangerous_one_takes_the_field_away_also_the_clients_own(make, exchange_of, query) -> None:
    edits = {"set": {"headers": ["X-User:$(query_params.u)"]}, "append": {"headers": ["X-B:$(query_params.u)"]}}
    exchange = exchange_of(query=query, headers=[(b"x-user", b"forged")])
    make("request-transformer", edits).access(exchange)
    assert exchange.headers == []


@pytest.mark.parametrize(("sent", "upstream"), [("GET", "POST"), ("HEAD", "")])
def test_the_method_is_changed_upstream_and_stays_in_the_records(make, exchange_of, sent, upstream) -> None:
    exchange = exchange_of(sent)
    make("request-transformer", {"http_method": "POST"}).access(exchange)
    assert (exchange.method, exchange.upstream_method) == (sent, upstream)


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
        {"path": "/$(headers)"},
        {"path": "/$$(a)"},
        {"path": "/$(response_headers.etag)"},
        {"set": {"headers": ["a:$(claim.sub)"]}},
        {"set": {"querystring": ["a:$(headers.x"]}},
        {"http_method": "HEAD"},
        {"set": {"querystring": ["novalue"]}},
        {"set": {"querystring": [":x"]}},
        {"rename": {"querystring": ["a:"]}},
    ],
)
def test_a_setting_that_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("request-transformer", config)
