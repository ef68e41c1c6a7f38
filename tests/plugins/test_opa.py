"""A real HTTP service in the agent's place: its answers are those of the Data API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.plugins.endpoints import AuthorizationUnavailable
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer
from tests.upstream import Upstream, Wire, answering, serving


def answer(document: Any) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def config(service: Upstream, **more: Any) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{service.port}/v1/data/httpapi/authz", "timeout_ms": 500, **more}


async def test_the_policy_sees_the_request_and_who_sends_it(make, exchange_of) -> None:
    asked: list[Any] = []

    async def agent(wire: Wire) -> None:
        while head := await wire.head():
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            asked.append(json.loads(await wire.body(length)))
            await wire.send(answer({"result": True}))

    async with serving(agent) as service:
        plugin = make("opa", config(service, include_headers=["X-Tenant"], include_route=True))
        exchange = exchange_of(
            "PUT", "/orders/7", b"full=1&full=2&e=", headers=[(b"x-tenant", b"acme"), (b"cookie", b"secret")],
            host="api.example.com", consumer=Consumer(5, "ann", groups=frozenset({"b", "a"})), path_params={"id": "7"},
        )  # fmt: skip
        assert await plugin.access(exchange) is None
    assert asked == [{"input": {
        "request": {"http": {
            "method": "PUT", "path": "/orders/7", "query": {"full": ["1", "2"], "e": [""]}, "host": "api.example.com",
            "scheme": "http", "client_ip": "192.0.2.7", "headers": {"x-tenant": "acme"},
        }},
        "consumer": {"username": "ann", "custom_id": "", "groups": ["a", "b"]},
        "route": {"name": "r", "tags": [], "params": {"id": "7"}},
    }}]  # fmt: skip


@pytest.mark.parametrize(
    ("result", "status", "message"),
    [
        (False, 403, "You may not call this."),
        ({"allow": False}, 403, "You may not call this."),
        ({"allow": False, "status": 451, "message": "Not here."}, 451, "Not here."),
    ],
)
async def test_a_no_is_refused_as_the_policy_says(make, exchange_of, result, status, message) -> None:
    async with serving(answering(answer({"result": result}))) as service:
        with pytest.raises(Reject) as caught:
            await make("opa", config(service)).access(exchange_of())
    assert (caught.value.status, caught.value.code, caught.value.detail) == (status, "policy_denied", message)


async def test_headers_of_a_yes_go_upstream(make, exchange_of) -> None:
    said = {"result": {"allow": True, "headers": {"X-Tier": "gold"}}}
    async with serving(answering(answer(said))) as service:
        exchange = exchange_of(headers=[(b"x-tier", b"platinum")])
        await make("opa", config(service)).access(exchange)
    assert exchange.headers == [(b"x-tier", b"gold")]


@pytest.mark.parametrize("said", [
    {}, {"result": None}, {"result": "true"}, {"result": {"allow": "yes"}}, {"result": {"allow": False, "status": 200}},
    {"result": {"allow": True, "headers": {"X-A": "b\r\nX-C: d"}}},
    {"result": {"allow": True, "headers": {"Content-Length": 1}}},
    [], b"not json", b"[" * 5000,
])  # fmt: skip
async def test_what_is_no_decision_is_neither_yes_nor_no(make, exchange_of, said) -> None:
    async with serving(answering(answer(said))) as service:
        exchange = exchange_of()
        with pytest.raises(AuthorizationUnavailable):
            await make("opa", config(service)).access(exchange)
        assert exchange.detail.startswith("opa: no decision from 127.0.0.1:")
        assert await make("opa", config(service, on_error="allow")).access(exchange_of()) is None


async def test_an_agent_that_is_away_or_fails(make, exchange_of) -> None:
    failing = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(failing)) as service:
        with pytest.raises(AuthorizationUnavailable):
            await make("opa", config(service)).access(exchange_of())
    with pytest.raises(AuthorizationUnavailable):  # it listens no more
        await make("opa", config(service)).access(exchange_of())


async def test_decisions_are_remembered_for_a_while_by_all_of_the_input(make, exchange_of, clock) -> None:
    async with serving(answering(answer({"result": True}))) as service:
        plugin = make("opa", config(service, cache_ttl_s=5))
        for path in ("/a", "/a", "/b", "/a"):
            await plugin.access(exchange_of(path=path))
        assert len(service.heads) == 2
        clock.now_s += 5
        await plugin.access(exchange_of(path="/a"))
        assert len(service.heads) == 3


async def test_what_is_no_decision_is_not_remembered(make, exchange_of) -> None:
    async with serving(answering(answer({}), answer({"result": True}))) as service:
        plugin = make("opa", config(service, cache_ttl_s=5))
        with pytest.raises(AuthorizationUnavailable):
            await plugin.access(exchange_of())
        assert await plugin.access(exchange_of()) is None
