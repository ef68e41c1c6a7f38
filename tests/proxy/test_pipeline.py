from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from ipaddress import ip_network

import pytest

from gateway.plugins.base import Plugin
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Answer, Consumer, Exchange
from gateway.proxy.headers import Given, get, get_all
from tests.proxy.gatewaying import Bench, NoConfig, request, route, setting, table, target, upstream
from tests.running import Stopwatch
from tests.upstream import OK, Wire, answering, once, serving, until


class Stamp(Plugin):
    """Leaves its name in every phase."""

    name = "stamp"
    Config = NoConfig

    def access(self, exchange: Exchange) -> None:
        exchange.headers.append((b"x-stamp", b"%d" % self.setting_id))

    async def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        exchange.response_headers.append((b"x-stamped", b"%d" % self.setting_id))

    def log(self, exchange: Exchange) -> None:
        exchange.notes["logged"] = exchange.outcome


class Who(Plugin):
    """Believes whatever the client says it is."""

    name = "who"
    Config = NoConfig
    identifies = True

    def access(self, exchange: Exchange) -> Awaitable[None] | None:
        who = get(exchange.headers, b"x-who")
        if who is None:
            raise Reject(401, "key_missing", "Say who you are in X-Who.")
        exchange.consumer = Consumer(int(who), f"consumer-{int(who)}")
        return None


class Broken(Plugin):
    name = "broken"
    Config = NoConfig

    async def access(self, exchange: Exchange) -> None:
        raise RuntimeError("a mistake in a plugin")


class BrokenResponse(Plugin):
    name = "broken-response"
    Config = NoConfig

    def response(self, exchange: Exchange) -> None:
        raise RuntimeError("a mistake in a plugin")


class Mock(Plugin):
    name = "mock"
    Config = NoConfig

    def access(self, exchange: Exchange) -> Answer:
        return Answer(203, [(b"x-mock", b"1")], b"mocked")


class Upper(Plugin):
    name = "upper"
    Config = NoConfig

    async def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk.upper()


say = answering(OK)


def only(port: int, **changes: object) -> list[object]:
    return [upstream("up", target(port), **changes)]


async def test_a_request_is_forwarded_with_its_own_bytes_and_the_gateways_fields() -> None:
    async with serving(say) as up, Bench(table([route("r", "/*")], only(up.port))) as bench:
        exchange, body = await bench.get("/a%2Fb/./c?x=%20&y", headers=[(b"x-two", b"1"), (b"x-two", b"2")])
    assert (exchange.status, body, exchange.outcome) == (200, b"ok", "ok")
    head = up.heads[0].decode().split("\r\n")
    assert head[0] == "GET /a%2Fb/./c?x=%20&y HTTP/1.1"
    assert {
        f"host: 127.0.0.1:{up.port}", "x-two: 1", "x-two: 2", "x-forwarded-for: 192.0.2.1", "x-forwarded-proto: http",
        "x-forwarded-host: api.test", "x-forwarded-port: 8080", "x-real-ip: 192.0.2.1", "via: 1.1 hydragate",
    } <= set(head)  # fmt: skip
    assert get(exchange.response_headers or [], b"via") == b"1.1 hydragate"
    assert (exchange.config_version, exchange.tries, exchange.target) == (7, 1, f"127.0.0.1:{up.port}")


async def test_what_one_request_changes_the_next_one_of_its_connection_does_not_see() -> None:
    """Both have the same list of fields, which the server has read once."""
    given = Given([(b"host", b"api.test"), (b"x-two", b"2"), (b"connection", b"x-hop"), (b"x-hop", b"1")])
    routing = table([route("r", "/*")], only(9), [Stamp, Mock], [setting(Stamp, number=1), setting(Mock, number=2)])
    async with Bench(routing) as bench:
        for _ in range(3):
            exchange = request("/")
            exchange.headers = given
            await bench.pipeline.handle(exchange)
            assert exchange.headers == [(b"x-two", b"2"), (b"x-stamp", b"1")]
            assert (exchange.authority, exchange.host) == (b"api.test", "api.test")
            await bench.pipeline.finish(exchange, "ok")
    assert len(given) == 4
    assert given.read is not None


@pytest.mark.parametrize(
    ("changes", "sent", "prefix"),
    [
        ({"strip_path": True}, "/7/x", "/users"),
        ({"path_rewrite": "/v2/*"}, "/v2/7/x", None),
        ({"preserve_host": True}, "/users/7/x", None),
    ],
)
async def test_what_a_route_changes_of_the_path_and_host(
    changes: dict[str, object], sent: str, prefix: str | None
) -> None:
    async with serving(say) as up, Bench(table([route("r", "/users/*", **changes)], only(up.port))) as bench:
        await bench.get("/users/7/x")
    head = up.heads[0].decode()
    assert head.startswith(f"GET {sent} HTTP/1.1\r\n")
    assert ("\r\nhost: api.test\r\n" in head) == ("preserve_host" in changes)
    assert (f"x-forwarded-prefix: {prefix}\r\n" in head) == (prefix is not None)


@pytest.mark.parametrize(
    "field",
    [
        (b"connection", b"keep-alive, x-mine"), (b"x-mine", b"1"), (b"keep-alive", b"5"), (b"te", b"trailers"),
        (b"upgrade", b"h2c"), (b"proxy-authorization", b"x"), (b"trailer", b"x"), (b"x-forwarded-for", b"6.6.6.6"),
        (b"x-forwarded-anything", b"6"), (b"x_forwarded_for", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6"),
        (b"x-real-ip", b"6.6.6.6"), (b"x-consumer-id", b"6"), (b"x_consumer.id", b"6"), (b"x.consumer.username", b"6"),
        (b"daphne-root-path", b"/x"), (b"expect", b"100-continue"),
    ],
)  # fmt: skip
async def test_fields_that_must_not_pass(field: tuple[bytes, bytes]) -> None:
    headers = [(b"connection", b"x-mine"), field]
    async with serving(say) as up, Bench(table([route("r", "/*")], only(up.port))) as bench:
        await bench.get("/", headers=headers)
    assert b"6.6.6.6" not in up.heads[0]
    assert field[0] + b": " + field[1] not in up.heads[0]


async def test_a_trusted_proxy_is_believed_and_continued() -> None:
    routing = lambda port: table([route("r", hosts=("shop.test",))], only(port))  # noqa: E731
    headers = [
        (b"x-forwarded-for", b"203.0.113.9, 10.0.0.7"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-port", b"443"),
        (b"x-forwarded-host", b"shop.test"),
    ]  # fmt: skip
    async with serving(say) as up, Bench(routing(up.port), trusted=[ip_network("10.0.0.0/8")]) as bench:
        trusted, _ = await bench.get("/", headers=headers, peer="10.0.0.8")
        stranger, _ = await bench.get("/", headers=headers, peer="192.0.2.1")
    assert (trusted.client_ip, trusted.scheme, trusted.port, trusted.status) == ("203.0.113.9", "https", 443, 200)
    assert b"x-forwarded-for: 203.0.113.9, 10.0.0.7, 10.0.0.8\r\n" in up.heads[0]
    assert b"x-forwarded-proto: https\r\n" in up.heads[0]
    assert (stranger.client_ip, stranger.status) == ("192.0.2.1", 404)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/none", 404, "no_route"),
        ("/a\x01", 400, "bad_path"),
        ("/x/..%2Fr", 400, "ambiguous_path"),
        ("x", 400, "bad_path"),
    ],
)
async def test_what_cannot_be_routed_gets_a_problem(path: str, status: int, code: str) -> None:
    async with Bench(table([route("r", "/r"), route("x", "/x/*", id=2)], only(9))) as bench:
        exchange, body = await bench.get(path)
    problem = json.loads(body)
    assert (exchange.status, problem["code"], exchange.outcome) == (status, code, code)
    assert problem["instance"] == exchange.id
    assert get(exchange.response_headers or [], b"content-type") == b"application/problem+json"


async def test_without_a_table_the_gateway_is_not_ready() -> None:
    async with Bench(None) as bench:
        exchange, _ = await bench.get("/")
    assert (exchange.status, exchange.outcome) == (503, "not_ready")
    assert bench.records == [exchange]


async def test_the_most_specific_setting_wins_whole_and_variants_follow_the_consumer() -> None:
    settings = [
        setting(Who),
        setting(Stamp, "global", number=10),
        setting(Stamp, "upstream", number=11, upstream="up"),
        setting(Stamp, "route", number=12, route="r"),
        setting(Stamp, "consumer", number=13, consumer_id=5),
        setting(Stamp, "route_consumer", number=14, route="r", consumer_id=6),
    ]
    routes = [route("r", "/r"), route("s", "/s", id=2)]
    async with serving(say) as up, Bench(table(routes, only(up.port), [Who, Stamp], settings)) as bench:
        for path, who in (("/r", b"1"), ("/s", b"1"), ("/r", b"5"), ("/s", b"5"), ("/r", b"6"), ("/s", b"6")):
            await bench.get(path, headers=[(b"x-who", who)])
    assert [get(r.response_headers or [], b"x-stamped") for r in bench.records] == [
        b"12",
        b"11",
        b"13",
        b"13",
        b"14",
        b"11",
    ]
    assert all(head.count(b"x-stamp:") == 1 for head in up.heads)
    assert all(record.notes["logged"] == "ok" for record in bench.records)


async def test_response_hooks_see_refusals_too() -> None:
    settings = [setting(Who), setting(Stamp, number=2)]
    async with Bench(table([route("r")], only(9), [Who, Stamp], settings)) as bench:
        exchange, body = await bench.get("/")
    assert (exchange.status, exchange.outcome) == (401, "key_missing")
    assert get(exchange.response_headers or [], b"x-stamped") == b"2"
    assert json.loads(body)["detail"] == "Say who you are in X-Who."


@pytest.mark.parametrize("plugin", [Broken, BrokenResponse])
async def test_a_plugin_that_fails_fails_closed(plugin: type[Plugin]) -> None:
    async with serving(say) as up, Bench(table([route("r")], only(up.port), [plugin], [setting(plugin)])) as bench:
        exchange, body = await bench.get("/")
        assert (exchange.status, exchange.outcome) == (500, "plugin_failed")
        assert b"mistake" not in body
    assert len(up.heads) == (0 if plugin is Broken else 1)


async def test_a_plugin_may_answer_by_itself() -> None:
    async with Bench(table([route("r")], only(9), [Mock], [setting(Mock)])) as bench:
        exchange, body = await bench.get("/")
        head, nothing = await bench.get("/", method="HEAD")
    assert (exchange.status, body, exchange.outcome) == (203, b"mocked", "answered")
    assert (get(head.response_headers or [], b"content-length"), nothing) == (b"6", b"")


async def test_body_hooks_wrap_the_answer_and_drop_its_length() -> None:
    async with serving(say) as up, Bench(table([route("r")], only(up.port), [Upper], [setting(Upper)])) as bench:
        exchange, body = await bench.get("/")
    assert body == b"OK"
    assert get(exchange.response_headers or [], b"content-length") is None


class Choosy(Upper):
    """Touches what it is asked to."""

    name = "choosy"

    def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return super().body(exchange, chunks) if get(exchange.headers, b"x-upper") else chunks


async def test_a_body_hook_that_leaves_an_answer_alone_costs_it_nothing() -> None:
    both = [setting(Choosy), setting(Upper, number=2)]
    async with serving(say) as up, Bench(table([route("r")], only(up.port), [Choosy], both[:1])) as bench:
        alone, body = await bench.get("/")
        touched, upper = await bench.get("/", headers=[(b"x-upper", b"1")])
    assert (body, get(alone.response_headers or [], b"content-length"), alone.bodies) == (b"ok", b"2", [])
    assert alone.answer_body == b"ok"
    assert (upper, get(touched.response_headers or [], b"content-length")) == (b"OK", None)
    async with serving(say) as up, Bench(table([route("r")], only(up.port), [Choosy, Upper], both)) as bench:
        exchange, upper = await bench.get("/")
    assert (upper, get(exchange.response_headers or [], b"content-length"), len(exchange.bodies)) == (b"OK", None, 2)


async def test_equal_header_fields_stay_apart_and_hop_by_hop_ones_go() -> None:
    fields = b"set-cookie: a=1\r\nset-cookie: b=2\r\nconnection: close, x-hop\r\nx-hop: 1\r\ncontent-length: 0\r\n"
    cookies = once(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    async with serving(cookies) as up, Bench(table([route("r")], only(up.port))) as bench:
        exchange, _ = await bench.get("/")
    assert get_all(exchange.response_headers or [], b"set-cookie") == [b"a=1", b"b=2"]
    assert {name for name, _ in exchange.response_headers or []} == {b"set-cookie", b"content-length", b"via"}


async def test_a_target_that_refuses_is_passed_over() -> None:
    async with serving(say) as up:
        both = [upstream("up", target(1, number=1), target(up.port, number=2))]
        async with Bench(table([route("r")], both)) as bench:
            outcomes = [(await bench.get("/"))[0] for _ in range(4)]
    assert [exchange.status for exchange in outcomes] == [200] * 4
    assert sorted(exchange.tries for exchange in outcomes) == [1, 1, 2, 2]


async def test_no_target_at_all() -> None:
    async with Bench(table([route("r")], [upstream("up", target(1, weight=0))])) as bench:
        drained, _ = await bench.get("/")
    async with Bench(table([route("r")], only(1, retries=0))) as bench:
        refused, _ = await bench.get("/")
    assert (drained.status, drained.outcome) == (503, "no_target")
    assert (refused.status, refused.outcome) == (502, "upstream_unreachable")
    assert get(refused.response_headers or [], b"proxy-status") == b"hydragate; error=connection_refused"


async def test_a_body_over_the_limit_is_refused_before_it_is_sent_or_while_it_is() -> None:
    async def swallow(wire: Wire) -> None:
        await wire.head()
        await wire.left()

    async with serving(swallow) as up:
        async with Bench(table([route("r", max_body_bytes=10)], only(up.port)), max_body_bytes=100) as bench:
            announced, _ = await bench.get("/", method="POST", body=[b"x" * 11], length=11)
            chunked, _ = await bench.get("/", method="POST", body=[b"x" * 6, b"x" * 6])
        assert [exchange.status for exchange in (announced, chunked)] == [413, 413]
    assert (announced.tries, chunked.tries) == (0, 1)


async def test_weights_share_the_traffic_among_upstreams() -> None:
    async with serving(say) as one, serving(say) as two:
        upstreams = [upstream("a", target(one.port)), upstream("b", target(two.port), id=2)]
        split = route("r", to=(("a", 3), ("b", 1)))
        async with Bench(table([split], upstreams)) as bench:
            for _ in range(200):
                await bench.get("/")
    assert 110 < len(one.heads) < 185  # 150 ± 6 standard deviations
    assert len(one.heads) + len(two.heads) == 200


async def test_finishing_twice_records_once() -> None:
    async with Bench(table([route("r")], only(9), [Mock], [setting(Mock)])) as bench:
        exchange, _ = await bench.get("/")
        await bench.pipeline.finish(exchange, "client_closed")
    assert bench.records == [exchange]
    assert exchange.outcome == "answered"
    assert bench.pipeline.in_flight == 0


async def test_the_total_time_limit_is_for_all_attempts_together() -> None:
    async def slow_to_fail(wire: Wire) -> None:
        await wire.head()
        await asyncio.sleep(0.3)  # the upstream's own slowness; then it closes without a word

    async with serving(slow_to_fail) as up:
        limits = {"total_timeout_s": 0.4, "first_byte_timeout_s": 2.0, "retries": 5}
        async with Bench(table([route("r")], only(up.port, **limits))) as bench:
            watch = Stopwatch()
            exchange, _ = await bench.get("/")
            took_s = watch.s
    assert (exchange.status, exchange.outcome) == (504, "upstream_timeout")
    assert took_s < 0.6
    assert exchange.tries == 2  # the second one ends with the whole


async def test_a_slow_upstream_is_not_asked_twice() -> None:
    async def silent(wire: Wire) -> None:
        await wire.head()
        await wire.left()

    async with serving(silent) as up:
        slow = [upstream("up", target(up.port), first_byte_timeout_s=0.1, retries=5)]
        async with Bench(table([route("r")], slow)) as bench:
            exchange, _ = await bench.get("/")
    assert (exchange.outcome, exchange.tries, len(up.heads)) == ("upstream_timeout", 1, 1)


async def test_a_client_that_left_before_the_answer_has_nginxs_status() -> None:
    async def silent(wire: Wire) -> None:
        await wire.head()
        await wire.left()

    async with serving(silent) as up, Bench(table([route("r")], only(up.port))) as bench:
        exchange = request("/")
        handling = asyncio.create_task(bench.pipeline.handle(exchange))
        await until(lambda: up.heads)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        await bench.pipeline.finish(exchange, "client_closed")
    assert (exchange.status, exchange.outcome) == (499, "client_closed")


@pytest.mark.parametrize("to", [(("up", 0),), (("up", 0), ("b", 0)), (("up", 0), ("b", 1))])
async def test_an_upstream_without_weight_gets_nothing(to: tuple[tuple[str, int], ...]) -> None:
    async with serving(say) as up:
        upstreams = [upstream("up", target(up.port)), upstream("b", target(1), id=2, retries=0)]
        async with Bench(table([route("r", to=to)], upstreams)) as bench:
            exchange, _ = await bench.get("/")
    assert exchange.outcome == ("upstream_unreachable" if to[-1][1] else "no_target")
    assert up.heads == []
