"""A real service decides, over real connections."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.plugins.endpoints import AuthorizationUnavailable
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Answer, Consumer
from tests.upstream import OK, Wire, answering, serving


def config(port: int, **more: Any) -> dict[str, Any]:
    return {"uri": f"http://127.0.0.1:{port}/check?v=1", "timeout_ms": 500, **more}


def said(head: bytes) -> dict[str, str]:
    first, *fields = head.decode().split("\r\n")
    return {
        "": first,
        **{name.lower(): value for name, _, value in (field.partition(": ") for field in fields if field)},
    }


async def test_the_service_is_told_of_the_request_and_not_of_its_body(make, exchange_of) -> None:
    async with serving(answering(OK)) as service:
        exchange = exchange_of(
            "POST", "/a%20b", b"x=1", headers=[(b"authorization", b"Basic eDp5"), (b"x-secret", b"s")],
            authority=b"api.example.com", content_length=5,
        )  # fmt: skip
        assert await make("forward-auth", config(service.port)).access(exchange) is None
    seen = said(service.heads[0])
    assert seen[""] == "GET /check?v=1 HTTP/1.1"
    assert seen["host"] == f"127.0.0.1:{service.port}"
    assert (seen["x-forwarded-method"], seen["x-forwarded-uri"]) == ("POST", "/a%20b?x=1")
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("http", "api.example.com")
    assert (seen["x-forwarded-for"], seen["authorization"]) == ("192.0.2.7", "Basic eDp5")
    assert not {"x-secret", "content-length", "transfer-encoding"} & seen.keys()


async def test_a_refusal_is_the_clients_answer(make, exchange_of) -> None:
    refusal = (
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Inner: secret\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nlogin"
    )
    async with serving(answering(refusal)) as service:
        exchange = exchange_of()
        answer = await make("forward-auth", config(service.port)).access(exchange)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body, exchange.outcome) == (302, b"login", "rejected")
    assert answer.headers == [
        (b"location", b"/login"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-type", b"text/plain"),
    ]  # fmt: skip


async def test_only_the_service_says_who_it_is(make, exchange_of) -> None:
    passed = b"HTTP/1.1 204 No Content\r\nX-User: ann\r\nX-Other: no\r\n\r\n"
    async with serving(answering(passed)) as service:
        exchange = exchange_of(headers=[(b"x-user", b"root"), (b"x_user", b"root"), (b"accept", b"*/*")])
        await make("forward-auth", config(service.port, upstream_headers=["X-User"])).access(exchange)
    assert exchange.headers == [(b"accept", b"*/*"), (b"x-user", b"ann")]


@pytest.mark.parametrize("remembers", [True, False])
async def test_the_service_may_name_a_consumer(make, exchange_of, credentials, remembers) -> None:
    credentials.remembers = remembers
    credentials.consumers["username", "ann"] = Consumer(5, "ann", groups=frozenset({"gold"}))
    passed = b"HTTP/1.1 200 OK\r\nX-Who: ann\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(passed)) as service:
        exchange = exchange_of()
        await make("forward-auth", config(service.port, consumer_header="X-Who")).access(exchange)
        assert exchange.consumer.username == "ann"
        assert headers.get(exchange.headers, b"x-consumer-groups") == b"gold"
        credentials.consumers.clear()
        with pytest.raises(Reject) as caught:
            await make("forward-auth", config(service.port, consumer_header="X-Who")).access(exchange_of())
    assert (caught.value.status, caught.value.code) == (403, "acl_denied")


async def silent(wire: Wire) -> None:
    await wire.head()
    await wire.left()


async def broken(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")


ENDLESS = answering(b"HTTP/1.1 403 No\r\ncontent-length: 70000\r\n\r\n" + b"x" * 70_000)


@pytest.mark.parametrize("script", [silent, broken, ENDLESS], ids=["silent", "broken", "endless"])
async def test_a_service_that_fails_fails_closed_or_as_configured(make, exchange_of, script) -> None:
    async with serving(script) as service:
        exchange = exchange_of()
        with pytest.raises(AuthorizationUnavailable) as caught:
            await make("forward-auth", config(service.port, timeout_ms=100)).access(exchange)
        assert (caught.value.status, caught.value.outcome) == (503, "credentials_unavailable")
        assert "could not be asked" in exchange.detail
        open_ = config(service.port, timeout_ms=100, on_error="allow", upstream_headers=["x-user"])
        let = exchange_of(headers=[(b"x-user", b"root")])
        assert await make("forward-auth", open_).access(let) is None
        assert let.headers == []


async def test_preflights_may_pass_unasked(make, exchange_of) -> None:
    preflight = exchange_of("OPTIONS", headers=[(b"access-control-request-method", b"PUT")])
    assert await make("forward-auth", config(9, run_on_preflight=False)).access(preflight) is None


@pytest.mark.parametrize("uri", [
    "", "auth:9000", "ftp://a/", "http://", "http://u:p@a/", "http://a/#x", "http://a b/", "http://a:0/", "http://a:99999/",
])  # fmt: skip
def test_a_url_that_cannot_work_is_refused(registry, uri) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("forward-auth", {"uri": uri})
