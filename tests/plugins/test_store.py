"""The level in Redis, which is real, and purges over it. Each store is a worker with a batcher of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from django.conf import settings

from gateway.plugins import purges
from gateway.plugins.freshness import Terms
from gateway.plugins.level import Entry
from gateway.plugins.purges import Purge, Purges
from gateway.plugins.store import MAX_UNSENT_BYTES, Store
from gateway.proxy.batcher import Batcher
from tests.plugins.caching import Cached, Clock, Origin, play
from tests.running import free_port
from tests.upstream import serving, until

FOREVER = "200 | cache-control: max-age=1000"


@pytest.fixture(autouse=True)
async def client() -> AsyncIterator[Any]:
    async with redis.asyncio.from_url(settings.REDIS_URL) as client:
        await forget(client)
        yield client
        await forget(client)


async def forget(client: Any) -> None:
    async for key in client.scan_iter("hg:cache*"):
        await client.delete(key)


@asynccontextmanager
async def store(clock: Clock, url: str = settings.REDIS_URL, secret: str = "s") -> AsyncIterator[Store]:
    """Hears messages as the runtime does."""
    made = Store(Batcher(url, timeout_s=2.0), secret=secret, wall=clock)

    async def listen() -> None:
        async with (
            redis.asyncio.from_url(settings.REDIS_URL) as client,
            client.pubsub(ignore_subscribe_messages=True) as channel,
        ):
            await channel.subscribe(made.channel)
            listening.set()
            async for message in channel.listen():
                made.hear(message["data"])

    listening = asyncio.Event()
    listener = asyncio.create_task(listen())
    await listening.wait()
    yield made
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    await made.aclose()


@asynccontextmanager
async def workers(count: int = 2, **config: Any) -> AsyncIterator[tuple[Origin, list[Cached]]]:
    """Of one gateway, before one origin."""
    clock = Clock()
    origin = Origin(clock)
    async with serving(origin.script) as up:
        stores = [store(clock) for _ in range(count)]
        opened = [await one.__aenter__() for one in stores]
        benches = [Cached(up.port, clock, one, strategy="redis", **config) for one in opened]
        yield origin, benches
        for bench in benches:
            await bench.__aexit__(None, None, None)
        for one in stores:
            await one.__aexit__(None, None, None)


def entry(body: bytes = b"body", **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "status": 200, "fields": [(b"etag", b'"a"'), (b"x-a", b"1"), (b"x-a", b"2")], "body": body,
        "terms": Terms(60, behind_s=5, hidden=frozenset({b"x-b"})), "requested_s": 1.0, "received_s": 2.5, "age_s": 0.5,
        "authority": "a.test", "target": "/x", "tags": frozenset({"t"}), "route": 3,
    }  # fmt: skip
    return Entry(**fields | changes)


def told(one: Entry) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Entry.__slots__ if name not in ("cleared",)}


@pytest.mark.parametrize("size", [0, 5, 32_768, 32_769, 1_000_000])
async def test_what_one_keeps_another_has(size: int) -> None:
    clock = Clock()
    async with store(clock) as one, store(clock) as two:
        await one.sync()
        kept = entry(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        one.keep(b"key", kept, 60, shared=True)
        await until(lambda: one._unsent == 0)
        found = await two.fetch(b"key", [])
        assert found is not None
        assert told(found) == told(kept)
        assert two.find(b"key", []) is found


async def test_variants_lie_apart() -> None:
    clock = Clock()
    async with store(clock) as one, store(clock) as two:
        await one.sync()
        for value in (b"a", None):
            one.keep(b"key", entry(value or b"", varied=(b"accept",), selected=(value,)), 60, shared=True)
        await until(lambda: one._unsent == 0)
        assert (await two.fetch(b"key", [(b"accept", b"a")])).body == b"a"  # type: ignore[union-attr]
        assert (await two.fetch(b"key", [])).body == b""  # type: ignore[union-attr]
        assert await two.fetch(b"key", [(b"accept", b"b")]) is None
        assert await two.fetch(b"other", []) is None


@pytest.mark.parametrize("part", ["e", "b", "v"])
@pytest.mark.parametrize("what", ["gone", "changed"])
async def test_what_is_not_whole_or_not_ours_does_not_count(client: Any, part: str, what: str) -> None:
    clock = Clock()
    async with store(clock) as one, store(clock) as two:
        await one.sync()
        one.keep(b"key", entry(b"x" * 100_000), 60, shared=True)
        await until(lambda: one._unsent == 0)
        key = sorted([key async for key in client.scan_iter(f"{one.channel}:{part}:*")])[-1]
        if what == "gone":
            await client.delete(key)
        else:
            await client.set(key, (await client.get(key)) + b"x")
        assert await two.fetch(b"key", []) is None


async def test_another_installation_is_not_believed() -> None:
    clock = Clock()
    async with store(clock) as one, store(clock, secret="other") as two:
        await one.sync()
        one.keep(b"key", entry(), 60, shared=True)
        await until(lambda: one._unsent == 0)
        assert two.channel != one.channel
        assert await two.fetch(b"key", []) is None
        two.channel = one.channel  # nor if it writes where we look
        assert await two.fetch(b"key", []) is None


async def test_nothing_stays_in_redis_for_ever(client: Any) -> None:
    clock = Clock()
    async with store(clock) as one:
        await one.sync()
        one.keep(b"key", entry(b"x" * 100_000), 10**9, shared=True)
        await until(lambda: one._unsent == 0)
        await client.ping()
        lives = [await client.ttl(key) async for key in client.scan_iter(f"{one.channel}:[evb]:*")]
        assert len(lives) == 6
        assert all(0 < life <= 86_400 for life in lives)


async def test_what_redis_does_not_take_in_time_stays_in_the_worker() -> None:
    clock = Clock()
    async with store(clock) as one:
        await one.sync()
        one._unsent = MAX_UNSENT_BYTES
        one.keep(b"key", entry(), 60, shared=True)
        assert one._unsent == MAX_UNSENT_BYTES
        assert one.find(b"key", []) is not None


async def test_without_redis_the_workers_memory_remains() -> None:
    clock = Clock()
    origin = Origin(clock)
    away = Store(Batcher(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.05), wall=clock)
    async with serving(origin.script) as up, Cached(up.port, clock, away, strategy="redis") as bench:
        await play(bench, origin, [
            (0, "GET", FOREVER, "200 #1"),
            (0, "GET", None, "200 #1"),
            (1, "POST", "200", "200"),
            (1, "GET", FOREVER, "200 #3"),
            (0, "GET", None, "200 #3"),
        ])  # fmt: skip
        await away.poll()


async def test_workers_share_what_is_kept() -> None:
    async with workers() as (origin, (one, two)):
        await play(one, origin, [(0, "GET | accept: a", FOREVER + " | vary: accept", "200 #1")])
        await until(lambda: one.store._unsent == 0)
        await play(two, origin, [(1, "GET | accept: a", None, "200 #1 | age: 1")])
        await play(two, origin, [(1, "GET | accept: b", "200", "200 #2")])


async def test_what_one_confirmed_the_other_takes() -> None:
    async with workers() as (origin, (one, two)):
        kept = '200 | cache-control: max-age=10 | etag: "a"'
        await play(one, origin, [(0, "GET", kept, "200 #1")])
        await until(lambda: one.store._unsent == 0)
        await play(two, origin, [(0, "GET", None, "200 #1")])
        await play(one, origin, [(11, "GET", '304 | etag: "a"', "200 #1")])
        await until(lambda: one.store._unsent == 0)
        await play(two, origin, [(0, "GET", None, "200 #1 | age: 0")])


async def test_an_unsafe_request_ends_it_for_all_workers() -> None:
    async with workers() as (origin, (one, two)):
        await play(one, origin, [(0, "GET", FOREVER, "200 #1")])
        await until(lambda: one.store._unsent == 0)
        await play(two, origin, [(0, "GET", None, "200 #1"), (1, "POST", "200", "200")])
        await until(lambda: one.store.purges.count == 1)
        await play(one, origin, [(1, "GET", "200", "200 #3")])


async def test_who_missed_the_message_reads_the_log(client: Any) -> None:
    clock = Clock()
    async with store(clock) as one:
        await one.sync()
        clock.now_s += 10
        one.purge([Purge("tag", "t")])
        late = Store(Batcher(settings.REDIS_URL, timeout_s=2.0), secret="s", wall=clock)
        await until(lambda: one._unsent == 0)
        await one.sync()
        await late.sync()
        assert late.purges.void(entry(requested_s=clock.now_s - 1))
        assert not late.purges.void(entry(requested_s=clock.now_s + 1))
        await late.aclose()


async def test_a_log_that_others_wrote_into_is_read_all_the_same(client: Any) -> None:
    clock = Clock()
    async with store(clock) as one:
        await client.zadd(f"{one.channel}:purges", {b"no json": 1, b"{}": 2, Purge("tag", "t").text(): 3000})
        await one.sync()
        assert one.purges.count == 1
        assert one.purges.void(entry(requested_s=2.0))


# --- what a purge concerns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("purge", "void"),
    [
        (Purge("all"), True),
        (Purge("all", route=3), True),
        (Purge("all", route=4), False),
        (Purge("all", authority="a.test"), True),
        (Purge("all", authority="b.test"), False),
        (Purge("url", "/x"), True),
        (Purge("url", "/x", "a.test"), True),
        (Purge("url", "/x", "b.test"), False),
        (Purge("url", "/x", "a.test", 3), True),
        (Purge("url", "/x", "a.test", 4), False),
        (Purge("url", "/"), False),
        (Purge("url", "/x?a"), False),
        (Purge("prefix", "/"), True),
        (Purge("prefix", "/x", "a.test", 3), True),
        (Purge("prefix", "/x/"), False),
        (Purge("prefix", "/", "b.test"), False),
        (Purge("prefix", "/", "", 4), False),
        (Purge("tag", "t"), True),
        (Purge("tag", "t", route=3), True),
        (Purge("tag", "t", route=4), False),
        (Purge("tag", "u"), False),
    ],
)
def test_what_a_purge_concerns(purge: Purge, void: bool) -> None:
    assert Purge.read(purge.text()) == purge
    known = Purges()
    known.add(purge, 100.0)
    assert known.void(entry(requested_s=99.0)) is void
    assert known.void(entry(requested_s=100.0)) is void  # asked for before, answered after
    assert not known.void(entry(requested_s=100.1))


def test_long_urls_take_no_room() -> None:
    long = "/" + "x" * 5000
    purge, known = Purge.of_url(long, "a.test"), Purges()
    known.add(purge, 100.0)
    assert len(purge.text()) < 120
    assert known.void(entry(requested_s=99.0, target=long))
    assert not known.void(entry(requested_s=99.0, target=long + "x"))


def test_an_answer_is_held_against_each_purge_once() -> None:
    known, one = Purges(), entry(requested_s=99.0)
    known.add(Purge("tag", "u"), 100.0)
    assert not known.void(one)
    assert one.cleared == known.count
    known.add(Purge("tag", "t"), 100.0)
    assert known.void(one)


def test_forgotten_purges_end_all_from_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purges, "MAX_PURGES", 3)
    known = Purges()
    for number in range(4):
        known.add(Purge("url", f"/{number}"), 100.0 + number)
    assert known.void(entry(requested_s=100.0))
    assert not known.void(entry(requested_s=100.5))


@pytest.mark.parametrize("text", [b"", b"no json", b"[1]", b'["other", "", "", 0]', b'["url", "", "", "x"]', b"{}"])
def test_messages_of_others_are_passed_over(text: bytes) -> None:
    made = Store()
    made.hear(b"somebody " + text)
    assert made.purges.count == 0
