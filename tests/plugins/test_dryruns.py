"""`dry_run` of a setting: what its access hook would have refused is told, on the answer and the row, and not done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from gateway.environment import PLUGINS
from gateway.plugins.acl import Acl, AclConfig
from gateway.plugins.base import Plugin, PluginConfig
from gateway.plugins.bodies import Whole
from gateway.plugins.dryruns import DryRun, parted, tell
from gateway.plugins.hmac_auth import HmacAuth
from gateway.plugins.registry import Registry
from gateway.plugins.request_size_limiting import RequestSizeLimiting, RequestSizeLimitingConfig
from gateway.plugins.request_termination import RequestTermination, RequestTerminationConfig
from gateway.plugins.request_validation import RequestValidation, RequestValidationConfig
from gateway.proxy import headers
from gateway.proxy.errors import ClientClosed, RedisUnavailable, Reject
from gateway.proxy.exchange import Consumer, Exchange
from gateway.proxy.record import record_of
from gateway.proxy.snapshot import When
from tests.hazards.origin import Origin, Seen, origin
from tests.proxy.gatewaying import NOTHING, Bench, NoConfig, request, route, setting, table, target, upstream


class Known(Plugin):
    name = "known"
    Config = NoConfig
    identifies = True

    async def access(self, exchange: Exchange) -> None:
        await asyncio.sleep(0)
        if headers.get(exchange.headers, b"x-who") is None:
            raise Reject(401, "key_missing", "Say who you are.")
        exchange.consumer = Consumer(5, "ann", groups=frozenset({"gold"}))
        exchange.headers.append((b"x-known", b"ann"))


class Word(Plugin):
    """Raises, or gives, what it is told to."""

    name = "word"
    Config = NoConfig
    ends: Any = None

    def access(self, exchange: Exchange) -> Any:
        exchange.notes["word"] = True
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends


JSON = (b"content-type", b"application/json")
CONFIGS: list[tuple[type[Plugin], PluginConfig, dict[str, Any], str]] = [
    (Acl, AclConfig(allow=("gold",)), {}, "acl=refuse;status=403;code=acl_denied"),
    (RequestTermination, RequestTerminationConfig(status_code=204), {}, "request-termination=answer;status=204"),
    (RequestTermination, RequestTerminationConfig(), {},
     "request-termination=refuse;status=503;code=request_terminated"),
    (RequestValidation, RequestValidationConfig(body_schema="{type: object}"),
     {"method": "POST", "headers": [JSON, (b"content-length", b"3")], "body": [b"[1]"], "length": 3},
     "request-validation=refuse;status=400;code=request_invalid"),
    (RequestSizeLimiting, RequestSizeLimitingConfig(allowed_payload_size=2, size_unit="bytes"),
     {"method": "POST", "headers": [(b"content-length", b"3")], "body": [b"[1]"], "length": 3},
     "request-size-limiting=refuse;status=413;code=body_too_large"),
    (Word, NoConfig(), {}, "word=pass"),
]  # fmt: skip


@pytest.fixture(scope="module")
def up() -> Iterator[Origin]:
    with origin() as served:
        yield served


@pytest.fixture
def sent(up: Origin) -> Callable[..., Awaitable[tuple[Exchange, list[Seen]]]]:
    """A request through a gateway with these plugins, and what the upstream got."""

    async def send(plugins: list[type[Plugin]], settings: list[Any], path: str = "/", **fields: Any) -> Any:
        made = table([route("all", "/*")], [upstream("up", target(up.port))], plugins, settings)
        async with Bench(made) as bench:
            exchange, _ = await bench.get(path, **fields)
        return exchange, up.take()

    return send


def told(exchange: Exchange) -> str | None:
    assert exchange.response_headers is not None
    value = headers.get(exchange.response_headers, b"x-dry-run")
    return None if value is None else value.decode()


@pytest.mark.parametrize(("plugin", "config", "fields", "says"), CONFIGS)
async def test_what_would_end_the_request_is_told_and_the_upstream_gets_it(sent, plugin, config, fields, says) -> None:
    refused, seen = await sent([plugin], [setting(plugin, config=config)], **fields)
    assert (told(refused), len(seen)) == (None, int("pass" in says))
    exchange, [seen] = await sent([plugin], [setting(plugin, config=config, dry_run=True)], **fields)
    assert (exchange.status, exchange.outcome, told(exchange)) == (200, "ok", says)
    assert seen.body == b"".join(fields.get("body", ()))
    assert (exchange.detail == "") == ("pass" in says)


async def test_a_body_that_turns_out_too_large_reaches_the_upstream_whole(sent) -> None:
    size = setting(RequestSizeLimiting, config=RequestSizeLimitingConfig(allowed_payload_size=2, size_unit="bytes"))
    schema = RequestValidationConfig(body_schema="{}", max_body_bytes=2, allowed_content_types=("text/plain",))
    for one in (size, setting(RequestValidation, config=schema)):
        dry = replace(one, dry_run=True)
        fields = {"method": "POST", "body": [b"12", b"34", b"56"], "headers": [(b"content-type", b"text/plain")]}
        kinds = [RequestSizeLimiting, RequestValidation]
        exchange, [seen] = await sent(kinds, [dry], **fields)
        assert seen.body == b"123456"
        assert told(exchange) == f"{one.name}=refuse;status=413;code=body_too_large"


async def test_a_wrong_digest_of_a_body_is_told(make, exchange_of) -> None:
    plugin = make(
        "hmac-auth", {"credentials": [{"username": "ann", "secret": "s" * 32}], "validate_request_body": True}
    )
    plugin.dry_run = True
    exchange = exchange_of()
    assert isinstance(plugin, HmacAuth)
    chunks = plugin._checked(exchange, Whole(b"abc"), sha256(b"abd").digest())
    assert b"".join([chunk async for chunk in chunks]) == b"abc"
    tell(exchange)
    assert told(exchange) == "hmac-auth=refuse;status=401;code=signature_invalid"


async def test_nobody_is_identified_by_what_would_be_refused(sent) -> None:
    settings = [
        setting(Known, dry_run=True),
        setting(Acl, number=2, config=AclConfig(allow=("gold",)), dry_run=True),
        setting(Acl, "consumer", number=3, consumer_id=5, config=AclConfig(deny=("gold",))),
    ]
    exchange, [seen] = await sent([Known, Acl], settings)
    assert exchange.consumer is None
    assert told(exchange) == "known=refuse;status=401;code=key_missing, acl=refuse;status=403;code=acl_denied"
    assert record_of(exchange).detail == (
        "Dry run: known would refuse (401 key_missing): Say who you are; "
        "acl would refuse (403 acl_denied): the request has no consumer; is authentication on this route?"
    )
    assert seen["x-known"] == ""


async def test_what_a_hook_does_to_requests_that_pass_it_does_in_a_dry_run_too(sent) -> None:
    exchange, [seen] = await sent([Known], [setting(Known, dry_run=True)], headers=[(b"x-who", b"ann")])
    assert seen["x-known"] == "ann"
    assert exchange.consumer is not None
    assert (told(exchange), exchange.detail) == ("known=pass", "")


async def test_what_only_the_plugin_may_say_a_client_cannot(make, exchange_of) -> None:
    config = {"secret": "s" * 32, "claims_to_headers": [{"claim": "role", "header": "X-Role"}]}
    plugin, exchange = make("jwt", config), exchange_of(headers=[(b"x_role", b"root"), (b"x-other", b"1")])
    DryRun(plugin).access(exchange)
    assert exchange.headers == [(b"x-other", b"1")]


async def test_a_real_refusal_stands_and_says_so_first(sent) -> None:
    settings = [setting(Known, dry_run=True), setting(Acl, number=2, config=AclConfig(allow=("gold",)))]
    exchange, seen = await sent([Known, Acl], settings)
    assert not seen
    assert (exchange.status, exchange.outcome) == (403, "acl_denied")
    assert told(exchange) == "known=refuse;status=401;code=key_missing"
    assert parted(exchange.detail) == (
        "acl: the request has no consumer; is authentication on this route?",
        "known would refuse (401 key_missing): Say who you are",
    )  # fmt: skip


async def test_a_setting_with_a_condition_says_nothing_of_requests_it_is_not_for(sent) -> None:
    dry = setting(Acl, config=AclConfig(allow=("gold",)), dry_run=True, when=When(methods=frozenset({"POST"})))
    assert told((await sent([Acl], [dry]))[0]) is None
    assert told((await sent([Acl], [dry], method="POST"))[0]) == "acl=refuse;status=403;code=acl_denied"
    ambiguous = replace(dry, when=When(paths=("/a/b",)))
    assert told((await sent([Acl], [ambiguous], path="/a%2fb"))[0]) == "acl=refuse;status=400;code=ambiguous_path"


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (RedisUnavailable(), "word=refuse;status=503;code=redis_unavailable"),
        (ValueError("a mistake"), "word=refuse;status=500;code=plugin_failed"),
        (Reject(418, "odd word;x", "No."), "word=refuse;status=418;code=odd-word-x"),
    ],
)
async def test_a_hook_that_fails_ends_nothing_either(sent, monkeypatch, caplog, ends, says) -> None:
    monkeypatch.setattr(Word, "ends", ends)
    exchange, [_] = await sent([Word], [setting(Word, dry_run=True)])
    assert (exchange.status, told(exchange)) == (200, says)
    assert ("word failed in a dry run" in caplog.text) == isinstance(ends, ValueError)


def test_a_client_that_left_has_left(monkeypatch) -> None:
    monkeypatch.setattr(Word, "ends", ClientClosed())
    with pytest.raises(ClientClosed):
        DryRun(Word(NoConfig(), NOTHING)).access(request("/"))


async def test_an_upstreams_word_of_dry_runs_is_not_taken_for_ours(sent, up, monkeypatch) -> None:
    monkeypatch.setattr(up, "says", b"x-dry-run: acl=refuse\r\n")
    exchange, _ = await sent([Word], [setting(Word, dry_run=True)])
    assert told(exchange) == "word=pass"


def test_chains_without_a_dry_run_hold_the_plugins_own_hooks() -> None:
    made = table([route("all", "/*")], [upstream("up", target(9))], [Word], [setting(Word)])
    match = made.index.match("", "/", b"", "GET", [], b"")
    assert match is not None
    chain = match.value.branches[0].chain_for(0)
    assert [hook.__self__.__class__ for hook in chain.access] == [Word]
    assert (chain.response, chain.log) == ((), ())


def test_what_refuses_nobody_has_no_dry_run() -> None:
    registry = Registry.load(PLUGINS)
    may_not = {name for name in registry if not registry[name].may_refuse()}
    assert may_not == {
        "bandwidth-limiting", "body-transformer", "compression", "cors", "file-log", "http-log", "kafka-log",
        "mirror", "opentelemetry", "request-id", "request-transformer", "response-cache", "response-transformer",
        "security-headers", "syslog", "traffic-split", "upstream-retry", "upstream-timeout",
    }  # fmt: skip
