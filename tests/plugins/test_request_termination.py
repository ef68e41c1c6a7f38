from __future__ import annotations

import json

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.plugins.request_termination import RequestTermination, RequestTerminationConfig
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer
from gateway.proxy.headers import get
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, answering, serving


@pytest.mark.parametrize(
    ("config", "status", "said"),
    [
        ({}, 503, "This is out of order at the moment."),
        ({"status_code": 410, "message": "Gone for good."}, 410, "Gone for good."),
    ],
)
def test_an_error_is_in_the_gateways_format(make, exchange_of, config, status, said) -> None:
    with pytest.raises(Reject) as caught:
        make("request-termination", config).access(exchange_of())
    assert (caught.value.status, caught.value.code, caught.value.detail) == (status, "request_terminated", said)


@pytest.mark.parametrize(
    ("config", "content_type", "body"),
    [
        ({"status_code": 200, "body": '{"a": 1}'}, b"application/json", b'{"a": 1}'),
        ({"status_code": 200, "body": "hello"}, b"text/plain; charset=utf-8", b"hello"),
        ({"status_code": 500, "body": "<p>", "content_type": "text/html; charset=utf-8"}, b"text/html; charset=utf-8",
         b"<p>"),
        ({"status_code": 200, "message": "Fine."}, b"application/json", b'{"message": "Fine."}'),
        ({"status_code": 204}, None, b""),
    ],
)  # fmt: skip
def test_a_mock_says_what_it_is_told(make, exchange_of, config, content_type, body) -> None:
    answer = make("request-termination", config).access(exchange_of())
    assert (answer.status, answer.body) == (config["status_code"], body)
    assert get(answer.headers, b"content-type") == content_type


@pytest.mark.parametrize(
    ("fields", "query", "ends"),
    [
        ([(b"x-stop", b"1")], b"", True),
        ([(b"x-stop", b"")], b"", True),
        ([], b"a=1&X-Stop", True),
        ([], b"a=1&X%2DStop=2", True),
        ([], b"x-stop=1", False),
        ([(b"x-go", b"X-Stop")], b"a=X-Stop", False),
    ],
)
def test_a_trigger_is_a_header_or_a_parameter(make, exchange_of, fields, query, ends) -> None:
    plugin = make("request-termination", {"trigger": "X-Stop", "status_code": 200})
    assert (plugin.access(exchange_of(headers=fields, query=query)) is not None) == ends


def test_an_echo_shows_what_would_go_upstream_and_no_credentials(make, exchange_of) -> None:
    exchange = exchange_of(
        "PUT", "/a", b"b=1",
        headers=[(b"x-a", b"1"), (b"x-a", b"caf\xe9"), (b"cookie", b"s=1"), (b"authorization", b"x")],
        upstream_path=b"/v2/a", host="api.test", consumer=Consumer(1, "ann"), path_params={"id": "7"},
    )  # fmt: skip
    answer = make("request-termination", {"echo": True, "status_code": 200}).access(exchange)
    assert json.loads(answer.body) == {
        "method": "PUT", "scheme": "http", "host": "api.test", "path": "/v2/a", "query": "b=1",
        "headers": [["x-a", "1"], ["x-a", "caf\u00e9"], ["cookie", "(hidden)"], ["authorization", "(hidden)"]],
        "client_ip": "192.0.2.7", "request_id": "fresh-id", "route": "r", "params": {"id": "7"}, "consumer": "ann",
    }  # fmt: skip


async def test_the_upstream_is_not_asked_and_a_head_has_no_body() -> None:
    config = RequestTerminationConfig(status_code=200, body="mock", trigger="mock")
    settings = [setting(RequestTermination, config=config)]
    async with serving(answering(OK)) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [RequestTermination], settings)
        async with Bench(routing) as bench:
            mocked, body = await bench.get("/?mock")
            head, nothing = await bench.get("/?mock", method="HEAD")
            passed, real = await bench.get("/")
    assert (mocked.status, mocked.outcome, body) == (200, "answered", b"mock")
    assert (get(head.response_headers or [], b"content-length"), nothing) == (b"4", b"")
    assert (passed.outcome, real, len(up.heads)) == ("ok", b"ok", 1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"message": "a", "body": "b"}, "message and body cannot be one answer"),
        ({"body": "b", "echo": True}, "body and echo cannot be one answer"),
        ({"status_code": 204, "body": "b"}, "has no body"),
        ({"content_type": "text/html"}, "goes with body"),
        ({"content_type": "text/html\r\nx: y", "body": "b"}, "pattern"),
        ({"content_type": "html", "body": "b"}, "pattern"),
        ({"status_code": 101}, "greater than or equal to 200"),
        ({"trigger": "x y"}, "pattern"),
    ],
)
def test_what_is_no_answer_is_refused(registry, config, said) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("request-termination", config)
    assert said in str(caught.value)
