"""store: answers that are kept. A small hot level in the worker, a large one in Redis that all workers share.

    find    in the worker's memory: no waiting              keep    in both, or in the worker only
    fetch   in Redis; a failure is as good as nothing       purge   here at once, elsewhere as soon as they hear of it
            or_lead: who asks the upstream for all

An answer has a **key** (all of its request that counts for everybody) and, by the `Vary` of the newest answer of that
key, **variants**. In Redis a first record of a key names the fields its answers vary by, a second one holds an answer;
a body too large for it lies beside it in pieces, and does not count unless it is whole. All of it is signed.

One per worker, and it outlives a reload. Redis is asked over a connection of its own: counters never wait behind
bodies. While Redis is away there is the worker's memory alone, and purges by others are not heard of.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import astuple, fields
from functools import partial
from typing import Any, NamedTuple, Protocol

from gateway.plugins import freshness, purges
from gateway.plugins.freshness import Terms
from gateway.plugins.level import Entry, Level
from gateway.plugins.purges import MAX_PURGES, Purge, Purges
from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.headers import Pairs
from gateway.proxy.tasks import ended

MAX_BYTES = 16 << 20  # of the worker's level
MAX_KEPT_S = 86_400  # whatever the answer says: purges need not be remembered for longer
INLINE_BYTES = PIECE_BYTES = 32_768
#: On their way to Redis, which has its short time limit for them; what comes beyond it stays in the worker.
MAX_UNSENT_BYTES = 2 << 20
OVERLAP_S = 5.0  # of a look at the log with the one before: others' clocks differ
ASKING, APART = b"1", b"-"  # in Redis, of a key: a worker asks its upstream; that was for nobody else
APART_S = 10.0  # nobody waits for an answer to such a key meanwhile
FORMAT = 1
_TERMS = tuple(one.name for one in fields(Terms))


class Redis(Protocol):
    """`gateway.proxy.batcher.Batcher`."""

    async def start(self) -> None: ...
    async def aclose(self) -> None: ...
    def command(self, *args: Any) -> Awaitable[Any]: ...


class Lead(NamedTuple):
    """`ours`: the right to ask the upstream for all workers; `end(alone)` gives it back, and says whether the answer is
    for nobody else. `apart`: somebody has just found that out, so nobody waits. Neither: another worker asks."""

    ours: bool = False
    apart: bool = False
    end: Callable[[bool], None] | None = None


class Store:
    def __init__(
        self,
        redis: Redis | None = None,
        *,
        secret: str = "",
        max_bytes: int = MAX_BYTES,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`redis` None: there is the worker's level only."""
        self.purges = Purges()
        self.flights: dict[Any, Any] = {}  # requests to upstreams that others wait for
        self.apart: OrderedDict[int, float] = OrderedDict()  # hashes of keys nobody need wait for → until when
        self.wanted = False  # by some route
        self._level = Level(max_bytes)
        self._redis, self._wall = redis, wall
        self.channel = purges.place(secret)
        self._log = purges.log(self.channel)
        self._seal = hashlib.blake2b(secret.encode(), digest_size=32, person=b"hg:cache").digest()
        self._source = os.urandom(8).hex()
        self._begun = self._synced = False
        self._seen_s = 0.0  # how far the log of purges was read
        self._unsent = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the worker's level

    def find(self, key: bytes, request: Pairs) -> Entry | None:
        entry = self._level.get(key, request)
        if entry is not None and entry.cleared != self.purges.count and self.purges.void(entry):
            self._level.drop(key)
            return None
        return entry

    def varied(self, key: bytes) -> tuple[bytes, ...]:
        """By which fields answers differ, as far as is known here."""
        return self._level.varied(key)

    def keep(self, key: bytes, entry: Entry, kept_s: float, *, shared: bool) -> None:
        """`kept_s`: for how long at most, in Redis. Nothing if it was purged meanwhile."""
        if self.purges.void(entry):
            return
        self._level.put(key, entry)
        if shared and self._redis is not None and self._synced and kept_s > 0:
            self._send(key, entry, int(min(kept_s, MAX_KEPT_S) * 1000))

    def drop(self, key: bytes) -> None:
        """From the worker's level."""
        self._level.drop(key)

    # --- Redis

    async def fetch(self, key: bytes, request: Pairs) -> Entry | None:
        """What Redis has, now in the worker's level too."""
        if self._redis is None:
            return None
        try:
            if not self._synced:
                await self.sync()
            entry = await self._fetched(self._redis, key, request)
        except RedisUnavailable:
            return None
        if entry is None or self.purges.void(entry):
            return None
        self._level.put(key, entry)
        return entry

    async def fetch_or_lead(self, key: bytes, request: Pairs, seconds: float) -> tuple[Entry | None, Lead]:
        """As `fetch`; and who asks the upstream for all workers, for `seconds` at most. Without Redis each asks for
        itself."""
        if self._redis is None:
            return None, Lead(ours=True)
        varied = self._level.varied(key)
        name = f"{self.channel}:f:{_digest_of(key, varied, freshness.selecting(varied, request)).hex()}"
        try:
            if not self._synced:
                await self.sync()
            # In this order: whoever gets the right after it was given back finds what the one before has kept.
            taking = self._redis.command("SET", name, ASKING, "NX", "PX", int(seconds * 1000))
            holding = self._redis.command("GET", name)
            try:
                entry = await self.fetch(key, request)
                if await taking is not None:
                    return entry, Lead(ours=True, end=partial(self._end_lead, name))
                return entry, Lead(apart=await holding == APART)
            except asyncio.CancelledError:
                taking.add_done_callback(partial(self._end_unused, name))  # type: ignore[attr-defined]
                raise
        except RedisUnavailable:
            return None, Lead(ours=True)

    def _end_lead(self, name: str, alone: bool) -> None:
        assert self._redis is not None
        with suppress(RedisUnavailable):
            if alone:
                self._redis.command("SET", name, APART, "PX", int(APART_S * 1000))
            else:
                self._redis.command("DEL", name)

    def _end_unused(self, name: str, taking: asyncio.Future[Any]) -> None:
        if not taking.cancelled() and taking.exception() is None and taking.result() is not None:
            self._end_lead(name, False)

    async def _fetched(self, redis: Redis, key: bytes, request: Pairs) -> Entry | None:
        """Most answers do not vary, so their record is asked for together with the first."""
        first, plain = redis.command("GET", self._vary_name(key)), redis.command("GET", self._name(key, (), ()))
        packed, record = await first, await plain
        if not isinstance(packed, bytes):
            return None
        varied = tuple(name for name in packed.split(b",") if name)
        selected = freshness.selecting(varied, request)
        if varied:
            record = await redis.command("GET", self._name(key, varied, selected))
        if not isinstance(record, bytes):
            return None
        read = self._unpacked(key, varied, selected, record)
        if read is None:
            return None
        entry, token, pieces, digest = read
        if pieces:
            # One by one: others have their turn in between.
            found = [await redis.command("GET", f"{self.channel}:b:{token}:{number}") for number in range(pieces)]
            if not all(isinstance(piece, bytes) for piece in found):
                return None
            body = b"".join(found)
            if self._digest(body) != digest:
                return None
            entry.body = body
            entry.size += len(body)
        return entry

    def _send(self, key: bytes, entry: Entry, kept_ms: int) -> None:
        """Nobody waits for it."""
        assert self._redis is not None
        body, token, pieces = entry.body, "", 0
        if self._unsent + len(body) > MAX_UNSENT_BYTES:
            return
        try:
            if len(body) > INLINE_BYTES:
                token = os.urandom(16).hex()
                for start in range(0, len(body), PIECE_BYTES):
                    piece = body[start : start + PIECE_BYTES]
                    self._sent(
                        self._redis.command("SET", f"{self.channel}:b:{token}:{pieces}", piece, "PX", kept_ms), piece
                    )
                    pieces += 1
            record = self._packed(key, entry, token, pieces)
            name = self._name(key, entry.varied, entry.selected)
            self._sent(self._redis.command("SET", name, record, "PX", kept_ms), record)
            self._sent(self._redis.command("SET", self._vary_name(key), b",".join(entry.varied), "PX", kept_ms), b"")
        except RedisUnavailable:
            return

    def _sent(self, sending: Awaitable[Any], what: bytes) -> None:
        self._unsent += len(what)

        def done(_: object) -> None:
            self._unsent -= len(what)

        sending.add_done_callback(done)  # type: ignore[attr-defined]  # the batcher's are futures

    def _packed(self, key: bytes, entry: Entry, token: str, pieces: int) -> bytes:
        import msgpack  # type: ignore[import-untyped]  # a worker without a cache does not need it

        terms = [sorted(value) if isinstance(value, frozenset) else value for value in astuple(entry.terms)]
        record: bytes = msgpack.packb([
            FORMAT, _digest_of(key, entry.varied, entry.selected), entry.status, entry.fields,
            b"" if pieces else entry.body, token, pieces, self._digest(entry.body) if pieces else b"", terms,
            entry.requested_s, entry.received_s, entry.age_s, entry.authority, entry.target, sorted(entry.tags),
            entry.route,
        ])  # fmt: skip
        return self._digest(record) + record

    def _unpacked(
        self, key: bytes, varied: tuple[bytes, ...], selected: tuple[bytes | None, ...], sealed: bytes
    ) -> tuple[Entry, str, int, bytes] | None:
        """None: written by somebody else, for something else, or in another format."""
        import msgpack

        seal, record = sealed[:16], sealed[16:]
        if self._digest(record) != seal:
            return None
        said = msgpack.unpackb(record, use_list=False)
        if said[0] != FORMAT or said[1] != _digest_of(key, varied, selected):
            return None
        _, _, status, pairs, body, token, pieces, digest, terms, requested_s, received_s, age_s, *where = said
        authority, target, tags, route = where
        entry = Entry(
            status, list(pairs), body, _terms(*terms), requested_s, received_s,
            age_s, varied, selected, authority, target, frozenset(tags), route,
        )  # fmt: skip
        return entry, token, pieces, digest

    def _name(self, key: bytes, varied: tuple[bytes, ...], selected: tuple[bytes | None, ...]) -> str:
        return f"{self.channel}:e:{_digest_of(key, varied, selected).hex()}"

    def _vary_name(self, key: bytes) -> str:
        return f"{self.channel}:v:{hashlib.sha256(key).hexdigest()}"

    def _digest(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._seal, digest_size=16).digest()

    # --- purges

    def purge(self, all_: Iterable[Purge]) -> list[Awaitable[Any]]:
        """Here at once. Others hear of it by the message, else by the log within a second. Who awaits what is given
        back knows that Redis has sent the messages, or hears RedisUnavailable; nobody has to."""
        now_s = self._wall()
        telling: list[Awaitable[Any]] = []
        for purge in all_:
            self.purges.add(purge, now_s)
            if self._redis is not None and self._begun:
                telling += self._tell(self._redis, purge, int(now_s * 1000))
            elif self._redis is not None:
                self.spawn(self._tell_first(self._redis, purge, int(now_s * 1000)))
        return telling

    async def _tell_first(self, redis: Redis, purge: Purge, at_ms: int) -> None:
        """Nothing was asked of Redis so far."""
        with suppress(RedisUnavailable):
            await self.sync()
            self._tell(redis, purge, at_ms)

    def _tell(self, redis: Redis, purge: Purge, at_ms: int) -> list[Awaitable[Any]]:
        text = purge.text()
        try:
            redis.command("ZADD", self._log, "GT", at_ms, text)
            redis.command("ZREMRANGEBYRANK", self._log, 0, -MAX_PURGES - 1)
            return [redis.command("PUBLISH", self.channel, f"{self._source} {text}")]
        except RedisUnavailable:
            return []

    def hear(self, message: bytes) -> None:
        """What comes over `channel`: who says it, and a purge, which counts from now on by our own clock."""
        source, _, text = message.partition(b" ")
        if source == self._source.encode():
            return
        try:
            self.purges.add(Purge.read(text), self._wall())
        except (ValueError, TypeError):  # somebody else's
            return

    async def sync(self) -> None:
        """Read the log of purges: all of it at first, then what is new. Raises RedisUnavailable."""
        if self._redis is None:
            return
        if not self._begun:
            self._begun = True
            await self._redis.start()
        since = f"({int((self._seen_s - OVERLAP_S) * 1000)}" if self._seen_s else "-inf"
        found = await self._redis.command("ZRANGEBYSCORE", self._log, since, "+inf", "WITHSCORES")
        for text, score in zip(found[::2], found[1::2], strict=True):
            at_s = float(score) / 1000
            self._seen_s = max(self._seen_s, at_s)
            with suppress(ValueError, TypeError):  # somebody else's
                self.purges.add(Purge.read(text), at_s)
        self._synced = True

    async def poll(self) -> None:
        """Once a second. Costs nothing where no route keeps anything."""
        if self.wanted:
            try:
                await self.sync()
            except RedisUnavailable:
                self._synced = False

    # --- tasks

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that outlives its request; ended with the worker."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        await ended(self._tasks)
        if self._redis is not None and self._begun:
            await self._redis.aclose()


def _terms(*said: Any) -> Terms:
    told = dict(zip(_TERMS, said, strict=True))
    return Terms(**told | {"hidden": frozenset(told["hidden"])})


def _digest_of(key: bytes, varied: tuple[bytes, ...], selected: tuple[bytes | None, ...]) -> bytes:
    told = hashlib.sha256(key)
    for name, value in zip(varied, selected, strict=True):
        told.update(b"\0%b=%b" % (name, b"-" if value is None else b"+%d:" % len(value) + value))
    return told.digest()
