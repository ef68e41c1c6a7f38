"""What a worker answers for a key: remembered, shared, read, stale, or not at all."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from gateway.plugins.base import Refusal
from gateway.proxy import credentials as module
from gateway.proxy.credentials import Credentials, Entry, Lru
from gateway.proxy.errors import CredentialsUnavailable, RedisUnavailable
from gateway.proxy.exchange import Consumer, Credential
from gateway.proxy.found import Changes, Found, Moment

KEY, OTHER = b"k" * 32, b"o" * 32
ANNA = Consumer(7, "anna")
CREDENTIAL = Credential("key", 1, "hg_live_abcde", ANNA)
INVALID, REVOKED, DISABLED = Refusal("key_invalid"), Refusal("key_revoked"), Refusal("consumer_disabled")


class World:
    """A clock, a database (digest → answer; `xid` counts its transactions) and a Redis, each of which can be away."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.xid = 100
        self.answers: dict[bytes | str, Credential | Refusal] = {KEY: CREDENTIAL}
        self.expires_at_s: float | None = None
        self.database_up = self.redis_up = True
        self.redis: dict[str, bytes] = {}
        self.reads = 0
        self.during_read: Callable[[], Any] | None = None
        self.heard = 0  # xid up to which changes were polled
        self.changes: list[tuple[int, bytes | int]] = []

    def worker(self, **options: Any) -> Credentials:
        clock = lambda: self.now_s  # noqa: E731
        return Credentials(self.command, self.fetch, secret="s", clock=clock, wall=clock, **options)

    def moment(self) -> Moment:
        return Moment.parse(f"{self.xid}:{self.xid}:")

    async def fetch(self, digest: bytes | str) -> Found:
        self.reads += 1
        if not self.database_up:
            raise OSError("connection refused")
        answer, moment = self.answers.get(digest, INVALID), self.moment()
        if self.during_read is not None:
            step, self.during_read = self.during_read, None
            if inspect.isawaitable(waiting := step()):
                await waiting
        return Found(answer, 0 if answer == INVALID else ANNA.id, self.expires_at_s, moment)

    async def command(self, *args: Any) -> Any:
        if not self.redis_up:
            raise RedisUnavailable()
        if args[0] == "GET":
            return self.redis.get(args[1])
        assert args[0] == "SET"
        assert args[3:] == ("EX", 300)
        self.redis[args[1]] = args[2]
        return b"OK"

    def change(self, what: bytes | int, answer: Credential | Refusal) -> None:
        """One committed transaction."""
        self.answers[KEY] = answer
        self.xid += 1
        self.changes.append((self.xid, what))

    def poll(self, *workers: Credentials, since: int = 0, everything: bool = False) -> None:
        news = [what for xid, what in self.changes if xid > since]
        digests = frozenset(what for what in news if isinstance(what, bytes))
        consumers = frozenset(what for what in news if isinstance(what, int))
        for worker in workers:
            worker.apply_changes(Changes(self.moment(), digests, consumers, everything))


@pytest.fixture
def world() -> World:
    return World()


async def ask(worker: Credentials, digest: bytes = KEY) -> Credential | Refusal:
    answer = worker.find_key(digest)
    return answer if isinstance(answer, Credential | Refusal) else await answer


def remembered(worker: Credentials, digest: bytes = KEY) -> bool:
    answer = worker.find_key(digest)
    if inspect.iscoroutine(answer):
        answer.close()
        return False
    return True


class TestConsumers:
    """Found by name, under the same rules as keys."""

    @pytest.fixture
    def anna(self, world: World) -> Credential:
        found = Credential("consumer", ANNA.id, "anna", ANNA)
        world.answers["username:anna"] = found
        return found

    async def test_one_is_remembered_and_shared(self, world: World, anna: Credential) -> None:
        worker, other = world.worker(), world.worker()
        world.poll(worker, other)
        assert await worker.find_consumer("username", "anna") == anna  # type: ignore[misc]
        assert worker.find_consumer("username", "anna") == anna
        assert await other.find_consumer("username", "anna") == anna  # type: ignore[misc]
        assert world.reads == 1

    async def test_a_change_counts_at_the_next_poll(self, world: World, anna: Credential) -> None:
        worker = world.worker()
        world.poll(worker)
        assert await worker.find_consumer("username", "anna") == anna  # type: ignore[misc]
        world.answers["username:anna"] = DISABLED
        world.change(ANNA.id, CREDENTIAL)
        world.poll(worker)
        assert await worker.find_consumer("username", "anna") == DISABLED  # type: ignore[misc]

    async def test_a_key_that_reads_as_a_name_is_none(self, world: World, anna: Credential) -> None:
        worker = world.worker()
        world.poll(worker)
        await worker.find_consumer("username", "anna")  # type: ignore[misc]
        assert await ask(worker, b"username:anna") == INVALID

    @pytest.mark.parametrize("name", ["x" * 101, "a\0b", "\ud800"])
    async def test_what_cannot_be_stored_is_not_looked_for(self, world: World, name: str) -> None:
        assert world.worker().find_consumer("username", name) == Refusal("consumer_unknown")
        assert world.reads == 0


class TestRemembering:
    async def test_a_remembered_answer_needs_no_await(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        assert await ask(worker) == CREDENTIAL
        assert worker.find_key(KEY) == CREDENTIAL
        assert world.reads == 1

    async def test_a_key_nobody_made_is_remembered_briefly_and_not_in_redis(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        assert await ask(worker, OTHER) == INVALID
        assert worker.find_key(OTHER) == INVALID
        world.now_s += 4.9
        world.poll(worker)
        assert remembered(worker, OTHER)
        world.now_s += 0.2
        assert not remembered(worker, OTHER)
        assert not world.redis

    async def test_a_key_made_after_it_was_refused_works_at_the_next_poll(self, world: World) -> None:
        worker, world.answers = world.worker(), {}
        world.poll(worker)
        assert await ask(worker) == INVALID
        world.change(KEY, CREDENTIAL)
        world.poll(worker)
        assert await ask(worker) == CREDENTIAL

    async def test_an_answer_is_looked_at_again_after_a_minute(self, world: World) -> None:
        world.redis_up = False
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.now_s += 61
        world.poll(worker)
        await ask(worker)
        assert world.reads == 2

    async def test_expiry_counts_at_the_second_it_comes(self, world: World) -> None:
        world.expires_at_s = world.now_s + 3
        worker = world.worker()
        world.poll(worker)
        assert await ask(worker) == CREDENTIAL
        world.now_s += 2.9
        assert worker.find_key(KEY) == CREDENTIAL
        world.now_s += 0.1
        assert worker.find_key(KEY) == Refusal("key_expired")

    async def test_a_revoked_key_stays_revoked_when_it_expires(self, world: World) -> None:
        world.answers[KEY], world.expires_at_s = REVOKED, world.now_s - 1
        assert await ask(world.worker()) == REVOKED

    async def test_one_read_serves_all_who_ask_at_once(self, world: World) -> None:
        worker = world.worker()
        assert await asyncio.gather(*(ask(worker) for _ in range(50))) == [CREDENTIAL] * 50
        assert world.reads == 1

    async def test_a_caller_who_leaves_takes_nobody_with_him(self, world: World) -> None:
        gate = asyncio.Event()
        world.during_read = gate.wait
        worker = world.worker()
        first, second = (asyncio.create_task(ask(worker)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        gate.set()
        assert await second == CREDENTIAL
        assert first.cancelled() or first.cancelling()

    async def test_memory_is_bounded_by_recent_use(self) -> None:
        def entry(consumer_id: int) -> Entry:
            return Entry(Found(CREDENTIAL, consumer_id, None, Moment.parse("1:1:")), 0.0, 0.0)

        lru = Lru(3)
        for digest, consumer_id in ((b"1", 1), (b"2", 1), (b"3", 2)):
            lru.put(digest, entry(consumer_id))
        assert lru.get(b"1")
        lru.put(b"4", entry(3))
        assert [digest for digest in (b"1", b"2", b"3", b"4") if lru.get(digest)] == [b"1", b"3", b"4"]
        assert lru.questions_of([1, 3, 9]) == [b"1", b"4"]
        lru.put(b"1", entry(2))
        assert lru.questions_of([1]) == []


class TestChanges:
    @pytest.mark.parametrize("redis_up", [True, False])
    @pytest.mark.parametrize(("what", "refusal"), [(KEY, REVOKED), (ANNA.id, DISABLED)])
    async def test_a_revocation_counts_at_the_next_poll(
        self, world: World, redis_up: bool, what: bytes | int, refusal: Refusal
    ) -> None:
        world.redis_up = redis_up
        workers = [world.worker(), world.worker()]
        world.poll(*workers)
        assert [await ask(worker) for worker in workers] == [CREDENTIAL] * 2
        world.change(what, refusal)
        world.poll(*workers)
        assert [await ask(worker) for worker in workers] == [refusal] * 2

    async def test_other_keys_stay_remembered(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.change(OTHER, CREDENTIAL)
        world.poll(worker)
        assert remembered(worker)

    async def test_a_redis_that_missed_the_revocation_cannot_bring_the_key_back(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        assert world.redis  # the answer is in Redis, and stays there
        world.redis_up = False
        world.change(KEY, REVOKED)
        world.poll(worker)
        world.redis_up = True
        assert await ask(worker) == REVOKED

    async def test_nor_can_it_for_a_worker_that_starts_later(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.change(KEY, REVOKED)
        late = world.worker()
        world.poll(late)
        assert await ask(late) == REVOKED

    async def test_redis_is_not_believed_before_the_feed_is_heard(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.change(KEY, REVOKED)
        assert await ask(world.worker()) == REVOKED

    async def test_a_read_that_overlaps_a_revocation_is_not_remembered(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)

        def revoke() -> None:
            world.change(KEY, REVOKED)
            world.poll(worker)

        world.during_read = revoke
        assert await ask(worker) == REVOKED  # read again
        assert worker.find_key(KEY) == REVOKED

    async def test_an_answer_that_changes_quicker_than_it_is_read_is_not_remembered(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)

        def change(then: Callable[[], Any] | None = None) -> None:
            world.change(KEY, REVOKED)
            world.poll(worker)
            world.during_read = then

        world.during_read = lambda: change(then=change)
        assert await ask(worker) == REVOKED
        assert world.reads == 2
        assert not remembered(worker)
        assert not world.redis

    async def test_a_late_write_of_an_old_answer_to_redis_fools_nobody(self, world: World) -> None:
        slow, quick = world.worker(), world.worker()
        world.poll(slow, quick)
        world.during_read = lambda: world.change(KEY, REVOKED)  # slow has not heard yet: it shares the old answer
        assert await ask(slow) == CREDENTIAL
        world.poll(slow, quick)
        assert [await ask(quick), await ask(slow)] == [REVOKED] * 2

    async def test_everything_means_everything(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.xid += 1
        world.answers[KEY] = REVOKED  # a change too old, or one of too many, to be told
        world.poll(worker, everything=True)
        assert await ask(worker) == REVOKED

    async def test_too_many_changes_to_keep_still_guard_redis(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_CHANGES", 2)
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        for what in (KEY, 8, 9):
            world.change(what, REVOKED)
        world.poll(worker)
        assert await ask(worker) == REVOKED

    async def test_changes_are_forgotten_once_no_entry_can_be_older(self, world: World) -> None:
        worker = world.worker()
        world.change(KEY, CREDENTIAL)
        world.poll(worker)
        world.now_s += module.CHANGES_KEPT_S + 1
        world.poll(worker, since=world.xid)
        assert not worker._changes._moments

    async def test_with_a_silent_feed_answers_last_two_seconds(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.now_s += 5.1
        world.change(KEY, REVOKED)
        assert await ask(worker) == REVOKED
        world.change(KEY, CREDENTIAL)
        world.now_s += 2.1
        assert await ask(worker) == CREDENTIAL


class TestRedis:
    async def test_what_one_worker_read_the_next_need_not(self, world: World) -> None:
        first, second = world.worker(), world.worker()
        world.poll(first, second)
        assert [await ask(first), await ask(second)] == [CREDENTIAL] * 2
        assert world.reads == 1

    async def test_without_redis_all_works(self, world: World) -> None:
        world.redis_up = False
        worker = world.worker()
        world.poll(worker)
        assert await ask(worker) == CREDENTIAL

    async def test_what_others_write_there_is_not_believed(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        forger = Credentials(world.command, world.fetch, secret="guess", clock=lambda: 1000.0, wall=lambda: 1000.0)
        await ask(forger)
        assert world.redis
        world.answers[KEY] = REVOKED
        assert await ask(worker) == REVOKED

    async def test_it_is_not_used_without_a_secret(self, world: World) -> None:
        worker = Credentials(world.command, world.fetch)
        world.poll(worker)
        assert await ask(worker) == CREDENTIAL
        assert not world.redis


class TestOutage:
    async def test_an_unknown_key_is_a_503(self, world: World) -> None:
        world.database_up = False
        with pytest.raises(CredentialsUnavailable):
            await ask(world.worker())

    async def test_a_database_that_hangs_is_left_after_a_moment(self, world: World) -> None:
        world.during_read = asyncio.Event().wait
        with pytest.raises(CredentialsUnavailable):
            await ask(world.worker(fetch_timeout_s=0.01))

    async def test_remembered_keys_count_for_an_hour(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.database_up = world.redis_up = False
        world.now_s += 3599
        assert await ask(worker) == CREDENTIAL
        assert worker.find_key(KEY) == CREDENTIAL  # and not every request asks again
        world.now_s += 3
        with pytest.raises(CredentialsUnavailable):
            await ask(worker)

    async def test_nobody_with_a_remembered_key_waits_for_a_database_that_hangs(self, world: World) -> None:
        """The first to notice waits once; later looks go on beside the requests, until one succeeds."""
        worker = world.worker(fetch_timeout_s=0.2)
        world.poll(worker)
        await ask(worker)
        world.redis_up = False
        world.now_s += 6  # the feed counts as silent: answers are looked at again
        world.during_read = asyncio.Event().wait
        assert await ask(worker) == CREDENTIAL
        world.now_s += 3
        back = asyncio.Event()
        world.during_read = back.wait
        world.change(KEY, REVOKED)
        assert await asyncio.wait_for(ask(worker), 0.1) == CREDENTIAL
        back.set()
        while await ask(worker) != REVOKED:
            await asyncio.sleep(0)

    async def test_a_revoked_key_does_not_count_in_the_outage_that_follows(self, world: World) -> None:
        worker = world.worker()
        world.poll(worker)
        await ask(worker)
        world.change(KEY, REVOKED)
        world.poll(worker)
        world.database_up = False
        with pytest.raises(CredentialsUnavailable):
            await ask(worker)

    async def test_redis_helps_out_a_worker_that_had_heard_the_feed(self, world: World) -> None:
        first, second = world.worker(), world.worker()
        world.poll(first, second)
        await ask(first)
        world.database_up = False
        world.now_s += 30
        assert await ask(second) == CREDENTIAL

    async def test_but_not_one_that_never_did(self, world: World) -> None:
        """It cannot know what was revoked before PostgreSQL went away."""
        first = world.worker()
        world.poll(first)
        await ask(first)
        world.database_up = False
        with pytest.raises(CredentialsUnavailable):
            await ask(world.worker())

    async def test_one_request_a_second_tries_the_database(self, world: World) -> None:
        world.database_up = False
        worker = world.worker()
        for _ in range(20):
            with pytest.raises(CredentialsUnavailable):
                await ask(worker)
        assert world.reads == 1
        world.now_s += 1
        world.database_up = True
        assert await ask(worker) == CREDENTIAL

    async def test_a_flood_of_new_keys_takes_turns(self, world: World) -> None:
        running = most = 0

        async def fetch(digest: bytes) -> Found:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0)
            running -= 1
            return await world.fetch(digest)

        worker = Credentials(world.command, fetch)
        answers = await asyncio.gather(*(ask(worker, bytes([n]) * 32) for n in range(50)))
        assert answers == [INVALID] * 50
        assert most == module.MAX_FETCHES
