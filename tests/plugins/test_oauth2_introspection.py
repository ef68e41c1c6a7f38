"""A real service in the issuer's place: it sees what it would see, and answers over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from gateway.plugins.endpoints import AuthorizationUnavailable
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer
from tests.upstream import Wire, serving


class Issuer:
    """`says` is the body of its answers, or raw bytes of one; while `gate` is closed nobody is answered."""

    def __init__(self) -> None:
        self.says: Any = {"active": True, "sub": "ann", "scope": "orders:read profile"}
        self.asked: list[dict[str, list[str]]] = []
        self.authorization: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0

    async def script(self, wire: Wire) -> None:
        while head := await wire.head():
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            form = await wire.body(int(fields[b"content-length"]))
            self.asked.append(parse_qs(form.decode()))
            self.authorization += [
                line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")
            ]
            await self.gate.wait()
            if isinstance(self.says, bytes):
                await wire.send(self.says)
                continue
            body = json.dumps(self.says).encode()
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def config(self, **more: Any) -> dict[str, Any]:
        return {
            "introspection_url": f"http://127.0.0.1:{self.port}/introspect", "client_id": "gate way",
            "client_secret": "s:e", "timeout_ms": 500, **more,
        }  # fmt: skip


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    async with serving(issuer.script) as service:
        issuer.port = service.port
        yield issuer


def bearer(token: bytes = b"opaque-1") -> headers.Pairs:
    return [(b"authorization", b"Bearer " + token)]


async def refusal(plugin: Any, exchange: Any) -> Reject:
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    assert exchange.consumer is None
    return caught.value


async def test_an_active_token_passes_and_says_who_calls(make, exchange_of, issuer) -> None:
    exchange = exchange_of(headers=bearer())
    await make("oauth2-introspection", issuer.config()).access(exchange)
    assert issuer.asked == [{"token": ["opaque-1"], "token_type_hint": ["access_token"]}]
    assert base64.b64decode(issuer.authorization[0].removeprefix(b"Basic ")) == b"gate+way:s%3Ae"
    assert (exchange.consumer.username, exchange.credential.hint) == ("ann", "ann")
    assert exchange.credential.scopes == {"orders:read", "profile"}
    assert headers.get(exchange.headers, b"x-credential-identifier") == b"ann"


async def test_the_gateway_may_show_its_secret_in_the_body(make, exchange_of, issuer) -> None:
    plugin = make("oauth2-introspection", issuer.config(client_auth="client_secret_post", hide_credentials=True))
    exchange = exchange_of(headers=bearer())
    await plugin.access(exchange)
    assert (issuer.asked[0]["client_id"], issuer.asked[0]["client_secret"]) == (["gate way"], ["s:e"])
    assert not issuer.authorization
    assert headers.get(exchange.headers, b"authorization") is None


@pytest.mark.parametrize("says", [
    {"active": False}, {"active": True, "exp": 1}, {"active": True, "exp": "never"}, {"active": True, "sub": 1.5},
    {"active": True, "nbf": 9_999_999_999}, {"active": True, "aud": "others"}, {"active": True, "aud": 7},
])  # fmt: skip
async def test_what_is_not_active_for_us_is_refused(make, exchange_of, issuer, says) -> None:
    issuer.says = says
    plugin = make("oauth2-introspection", issuer.config(audience=["orders"]))
    error = await refusal(plugin, exchange_of(headers=bearer()))
    assert (error.status, error.code) == (401, "token_invalid")
    assert dict(error.headers)[b"www-authenticate"].startswith(b'Bearer realm="hydragate", error="invalid_token"')


async def test_scopes_are_all_needed(make, exchange_of, issuer) -> None:
    plugin = make("oauth2-introspection", issuer.config(scopes_required=["orders:read", "orders:write"]))
    error = await refusal(plugin, exchange_of(headers=bearer()))
    assert (error.status, error.code) == (403, "scope_missing")
    assert b'error="insufficient_scope", scope="orders:read orders:write"' in dict(error.headers)[b"www-authenticate"]


@pytest.mark.parametrize("says", [
    b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnot", [], {"sub": "ann"}, {"active": "true"},
])  # fmt: skip
async def test_an_issuer_that_gives_no_answer_is_no_401(make, exchange_of, issuer, says) -> None:
    issuer.says = says
    exchange = exchange_of(headers=bearer())
    with pytest.raises(AuthorizationUnavailable):
        await make("oauth2-introspection", issuer.config()).access(exchange)
    assert "did not tell" in exchange.detail


async def test_active_tokens_are_remembered_but_not_beyond_their_end(make, exchange_of, issuer, clock) -> None:
    plugin = make("oauth2-introspection", issuer.config(ttl_s=30))
    for token in (b"a", b"a", b"b"):
        await plugin.access(exchange_of(headers=bearer(token)))
    assert len(issuer.asked) == 2
    clock.now_s += 30
    issuer.says |= {"exp": clock.now_s + 10}
    await plugin.access(exchange_of(headers=bearer(b"a")))
    clock.now_s += 9.9
    await plugin.access(exchange_of(headers=bearer(b"a")))
    assert len(issuer.asked) == 3
    clock.now_s += 0.1
    await refusal(plugin, exchange_of(headers=bearer(b"a")))


async def test_a_token_that_is_not_active_is_asked_about_again(make, exchange_of, issuer) -> None:
    plugin = make("oauth2-introspection", issuer.config())
    issuer.says = {"active": False}
    await refusal(plugin, exchange_of(headers=bearer()))
    issuer.says = {"active": True}
    await plugin.access(exchange_of(headers=bearer()))


async def test_many_with_one_new_token_cause_one_question(make, exchange_of, issuer) -> None:
    plugin = make("oauth2-introspection", issuer.config())
    issuer.gate.clear()
    tasks = [asyncio.create_task(plugin.access(exchange_of(headers=bearer()))) for _ in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # the one who asks leaves: another asks in its place
    await asyncio.sleep(0)
    issuer.gate.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [None] * 19
    assert len(issuer.asked) <= 2
    assert plugin._asking == {}


async def test_a_consumer_may_be_found_and_must_be_enabled(make, exchange_of, issuer, credentials) -> None:
    credentials.consumers["username", "ann"] = Consumer(5, "ann", groups=frozenset({"gold"}))
    config = issuer.config(consumer_by="username", consumer_required=True, groups_claim="scope")
    exchange = exchange_of(headers=bearer())
    await make("oauth2-introspection", config).access(exchange)
    assert (exchange.consumer.id, exchange.consumer.groups) == (5, {"gold", "orders:read", "profile"})
    credentials.consumers.clear()
    assert (await refusal(make("oauth2-introspection", config), exchange_of(headers=bearer()))).code == "token_invalid"


async def test_without_a_token_nobody_is_asked(make, exchange_of, issuer) -> None:
    plugin = make("oauth2-introspection", issuer.config())
    assert (await refusal(plugin, exchange_of())).code == "token_missing"
    assert (await refusal(plugin, exchange_of(headers=bearer(b"x" * 9000)))).code == "token_invalid"
    twice = exchange_of(headers=bearer(b"a") + bearer(b"b"))
    assert (await refusal(plugin, twice)).code == "token_invalid"
    assert issuer.asked == []


@pytest.mark.parametrize("change", [
    {"client_secret": ""}, {"client_id": ""}, {"introspection_url": "ftp://a"}, {"header_names": []},
    {"consumer_required": True}, {"scopes_required": ["a b"]},
])  # fmt: skip
def test_what_cannot_work_is_refused(registry, change) -> None:
    sound = {"introspection_url": "http://a/", "client_id": "a", "client_secret": "b"}
    registry.validate("oauth2-introspection", sound)
    with pytest.raises(ConfigProblems):
        registry.validate("oauth2-introspection", {**sound, **change})
