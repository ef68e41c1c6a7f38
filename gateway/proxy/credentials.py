"""Credentials: from the digest of a secret, or a consumer's name, to who calls. Worker's memory → Redis → PostgreSQL.

How soon a revocation counts (the runtime polls the change feed every second, and at once when nudged over Redis):

| what works                       | bound                                                                          |
|----------------------------------|--------------------------------------------------------------------------------|
| everything                       | milliseconds, by the nudge                                                     |
| no Redis                         | 2 s: one poll, and the time that the poll itself takes                         |
| PostgreSQL, but polling does not | 7 s: feed counts as silent after 5 s, then answers are read again every 2 s    |
| no PostgreSQL                    | nothing can be revoked. What is remembered counts for an hour longer at most,  |
|                                  | other keys get 503 `credentials_unavailable`, never a 401                      |

The same rule (see `found`) guards all three places, so neither a read that overlaps a change nor a Redis that missed
one can bring a revoked key back. A worker believes Redis only once it has heard the feed itself. Keys that do not
exist are remembered briefly and in the worker only: guesses must not fill Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.plugins.base import ConsumerField, Refusal
from gateway.proxy.errors import CredentialsUnavailable, RedisUnavailable
from gateway.proxy.exchange import Credential
from gateway.proxy.found import Changes, Found, Moment, Question, Seal

MAX_KNOWN, MAX_UNKNOWN = 50_000, 10_000  # entries; the least recently used goes first
KNOWN_FRESH_S, UNKNOWN_FRESH_S = 60.0, 5.0  # then looked up again, should the feed have a fault
FEED_SILENT_S, UNFED_FRESH_S = 5.0, 2.0
STALE_S = 3600.0  # with PostgreSQL down: since the last successful look
REDIS_TTL_S = 300
CHANGES_KEPT_S = 2.0 * REDIS_TTL_S  # outlives every entry in Redis that a change makes worthless
MAX_CHANGES = 100_000
MAX_NAME, MAX_LOGIN = 100, 128  # of a consumer, of a username with a password: longer ones do not exist
FETCH_TIMEOUT_S = 1.0
MAX_FETCHES = 2  # at once: the poll of the feed shares the same few database threads
RETRY_S = 1.0

LOGIN = "login:"  # how a Question for a username with a password begins
NEVER = float("-inf")
EXPIRED, UNKNOWN = Refusal("key_expired"), Refusal("consumer_unknown")
logger = logging.getLogger(__name__)


class Command(Protocol):
    def __call__(self, *args: Any) -> Awaitable[Any]:
        """One Redis command. Raises RedisUnavailable within tens of milliseconds."""
        ...


@dataclass(slots=True)
class Entry:
    found: Found
    read_s: float  # when it was found
    checked_s: float  # the same, or when looking again failed


class Credentials:
    """`base.CredentialLookup`, one per worker. `clock` is monotonic, `wall` is seconds since the epoch.

    `fetch` reads PostgreSQL (`keys.lookup.find` in a thread); whatever it raises means "unavailable". `secret` signs
    what is kept in Redis; without one Redis is not used, for nobody could tell who wrote there.
    """

    def __init__(
        self,
        command: Command,
        fetch: Callable[[Question], Awaitable[Found]],
        *,
        secret: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        fetch_timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        self._command, self._fetch, self._clock, self._wall = command, fetch, clock, wall
        self._fetch_timeout_s = fetch_timeout_s
        self._seal = Seal(secret, REDIS_TTL_S) if secret else None
        self._known = Lru(MAX_KNOWN)
        self._unknown = Lru(MAX_UNKNOWN)
        self._pending: dict[Question, asyncio.Task[Found | None]] = {}
        self._changes = RecentChanges()
        self._fed_s = NEVER
        self._turns = asyncio.Semaphore(MAX_FETCHES)
        self._failing, self._retry_s = False, 0.0

    def find_key(self, digest: bytes) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        return self.find(digest)

    def find_consumer(self, by: ConsumerField, value: str) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        """One who is made after being asked for is known 5 s later at most: only changes and ends are in the feed."""
        return self.find(f"{by}:{value}") if _storable(value, MAX_NAME) else UNKNOWN

    def find_login(self, username: str) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        """As find_consumer. What passwords have to fit stays out of Redis."""
        return self.find(f"{LOGIN}{username}") if _storable(username, MAX_LOGIN) else UNKNOWN

    def find(self, question: Question) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        entry = self._known.get(question) or self._unknown.get(question)
        if entry is not None and self._fresh(entry):
            return self._answer(entry.found)
        return self._find(question)

    def apply_changes(self, changes: Changes) -> None:
        """Call after every poll of the feed, empty ones too: silence means that the feed is broken.

        Applying a poll twice, or an older one after a newer, does no harm.
        """
        self._fed_s = self._clock()
        self._changes.add(changes, self._fed_s)
        if changes.everything:
            self._known.clear()
            self._unknown.clear()
            return
        for question in (*changes.digests, *self._known.questions_of(changes.consumers)):
            self._known.pop(question)
            self._unknown.pop(question)

    def _fresh(self, entry: Entry) -> bool:
        age_s = (now_s := self._clock()) - entry.checked_s
        if now_s - self._fed_s > FEED_SILENT_S:
            return age_s < UNFED_FRESH_S
        return age_s < (KNOWN_FRESH_S if entry.found.consumer_id else UNKNOWN_FRESH_S)

    def _answer(self, found: Found) -> Credential | Refusal:
        if (
            found.expires_at_s is not None
            and self._wall() >= found.expires_at_s
            and isinstance(found.answer, Credential)
        ):
            return EXPIRED
        return found.answer

    async def _find(self, question: Question) -> Credential | Refusal:
        """Lookups of one thing share one task, which outlives a caller who leaves.

        While PostgreSQL fails nobody waits for it with an answer at hand: the look finds out whether it is back.
        """
        task = self._pending.get(question)
        if task is None:
            task = self._pending[question] = asyncio.create_task(self._look(question))
            task.add_done_callback(lambda _: self._pending.pop(question, None))
        if self._failing and (entry := self._lasting(question)) is not None:
            return self._answer(entry.found)
        found = await asyncio.shield(task)
        if found is None:
            raise CredentialsUnavailable()
        return self._answer(found)

    async def _look(self, question: Question) -> Found | None:
        """None: nobody can say."""
        shared = await self._recall(question)
        if shared is not None and self._clock() - self._fed_s <= FEED_SILENT_S:
            self._remember(question, shared)
            return shared
        if (found := await self._read(question)) is not None:
            if self._remember(question, found) and found.consumer_id:
                await self._share(question, found)
            return found
        if shared is not None:
            self._remember(question, shared)
            return shared
        return self._stale(question)

    async def _read(self, question: Question) -> Found | None:
        """From PostgreSQL. A flood of new keys waits its turn, and only its own requests suffer if that takes long."""
        try:
            async with asyncio.timeout(self._fetch_timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            return None
        try:
            return await self._attempt(question)
        finally:
            self._turns.release()

    async def _attempt(self, question: Question) -> Found | None:
        """While PostgreSQL fails, one attempt in RETRY_S: an outage holds no crowd of requests for its deadline."""
        if self._failing:
            if self._clock() < self._retry_s:
                return None
            self._retry_s = self._clock() + RETRY_S
        try:
            async with asyncio.timeout(self._fetch_timeout_s):
                found = await self._fetch(question)
                if self._changes.outdate(question, found):  # changed while we read
                    found = await self._fetch(question)
        except Exception as error:  # whatever the driver raises: the client gets a 503, never a 401 or a 500
            if not self._failing:
                logger.warning("Credentials cannot be looked up: %s: %s", type(error).__name__, error)
            self._failing, self._retry_s = True, self._clock() + RETRY_S
            return None
        self._failing = False
        return found

    def _remember(self, question: Question, found: Found) -> bool:
        """False, and nothing is kept, if a change is known that this answer does not include."""
        if self._changes.outdate(question, found):
            return False
        now_s = self._clock()
        keep, drop = (self._known, self._unknown) if found.consumer_id else (self._unknown, self._known)
        drop.pop(question)
        keep.put(question, Entry(found, read_s=now_s, checked_s=now_s))
        return True

    def _stale(self, question: Question) -> Found | None:
        entry = self._lasting(question)
        if entry is None:
            return None
        entry.checked_s = self._clock()  # others need not look again at once
        return entry.found

    def _lasting(self, question: Question) -> Entry | None:
        """What is remembered, as long as it may count without PostgreSQL."""
        entry = self._known.get(question)
        return None if entry is None or self._clock() - entry.read_s > STALE_S else entry

    async def _recall(self, question: Question) -> Found | None:
        """From Redis, unless a change that we know of makes it worthless, or we have not heard of any change yet."""
        if self._seal is None or self._fed_s == NEVER or _is_login(question):
            return None
        try:
            sealed = await self._command("GET", _redis_key(question))
        except RedisUnavailable:
            return None
        found = self._seal.read(question, sealed, self._wall()) if isinstance(sealed, bytes) else None
        return None if found is None or self._changes.outdate(question, found) else found

    async def _share(self, question: Question, found: Found) -> None:
        if self._seal is None or _is_login(question):
            return
        with contextlib.suppress(RedisUnavailable):
            sealed = self._seal.write(question, found, self._wall())
            await self._command("SET", _redis_key(question), sealed, "EX", REDIS_TTL_S)


class RecentChanges:
    """Which digests and consumers changed of late, and the moment of the poll that told us. Bounded."""

    def __init__(self) -> None:
        self._moments: OrderedDict[Question | int, tuple[Moment, float]] = OrderedDict()
        self._floor: Moment | None = None  # answers from before this moment never count

    def add(self, changes: Changes, now_s: float) -> None:
        names: list[Question | int] = [*changes.digests, *changes.consumers]
        for changed in names:
            self._moments[changed] = changes.moment, now_s
            self._moments.move_to_end(changed)
        if changes.everything or len(self._moments) > MAX_CHANGES:
            self._floor = changes.moment
            self._moments.clear()
        while self._moments and next(iter(self._moments.values()))[1] < now_s - CHANGES_KEPT_S:
            self._moments.popitem(last=False)

    def outdate(self, question: Question, found: Found) -> bool:
        """Whether the answer is from before a change to it."""
        if self._floor is not None and not found.moment.includes(self._floor):
            return True
        changed = (self._moments.get(question), self._moments.get(found.consumer_id))
        return any(change is not None and not found.moment.includes(change[0]) for change in changed)


class Lru:
    """The entries used last. Also knows whose they are: a walk through all of them would hold the loop for 15 ms."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._entries: OrderedDict[Question, Entry] = OrderedDict()
        self._questions: dict[int, set[Question]] = {}  # by consumer

    def get(self, question: Question) -> Entry | None:
        entry = self._entries.get(question)
        if entry is not None:
            self._entries.move_to_end(question)
        return entry

    def put(self, question: Question, entry: Entry) -> None:
        self.pop(question)
        self._entries[question] = entry
        self._questions.setdefault(entry.found.consumer_id, set()).add(question)
        if len(self._entries) > self._bound:
            self.pop(next(iter(self._entries)))

    def pop(self, question: Question) -> None:
        entry = self._entries.pop(question, None)
        if entry is None:
            return
        mine = self._questions[entry.found.consumer_id]
        mine.discard(question)
        if not mine:
            del self._questions[entry.found.consumer_id]

    def clear(self) -> None:
        self._entries.clear()
        self._questions.clear()

    def questions_of(self, consumers: Iterable[int]) -> list[Question]:
        return [question for consumer_id in consumers for question in self._questions.get(consumer_id, ())]


def _storable(value: str, longest: int) -> bool:
    return len(value) <= longest and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_login(question: Question) -> bool:
    return isinstance(question, str) and question.startswith(LOGIN)


def _redis_key(question: Question) -> str:
    if isinstance(question, bytes):
        return f"hg:credential:{question.hex()}"
    return f"hg:consumer:{hashlib.sha256(question.encode()).hexdigest()}"
