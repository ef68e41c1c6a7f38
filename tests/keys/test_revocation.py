"""The whole way on real servers: PostgreSQL's triggers, the feed, Valkey, two workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from django.conf import settings
from django.db import connection

from gateway.plugins.base import Refusal
from gateway.proxy.batcher import Batcher
from gateway.proxy.credentials import Credentials
from gateway.proxy.exchange import Credential
from gateway.proxy.found import Found, Moment
from keys import lookup, secrets, services
from keys.models import ApiKey, Consumer

pytestmark = pytest.mark.django_db(transaction=True)
R = TypeVar("R")


async def in_thread(call: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    def run() -> R:
        try:
            return call(*args, **kwargs)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


class Worker:
    def __init__(self, redis_url: str) -> None:
        self.batcher = Batcher(redis_url, timeout_s=1.0)
        self.credentials = Credentials(self.batcher.command, self.fetch, secret="s")
        self.cursor: Moment | None = None
        self.reads = 0

    async def fetch(self, digest: bytes) -> Found:
        self.reads += 1
        return await in_thread(lookup.find_key, digest)

    async def poll(self) -> None:
        self.cursor, changes = await in_thread(lookup.changes_since, self.cursor)
        self.credentials.apply_changes(changes)

    async def ask(self, secret: str) -> Credential | Refusal:
        answer = self.credentials.find_key(secrets.digest(secret))
        return answer if isinstance(answer, Credential | Refusal) else await answer


@pytest.fixture
async def workers() -> AsyncIterator[list[Worker]]:
    workers = [Worker(settings.REDIS_URL), Worker(settings.REDIS_URL), Worker("redis://127.0.0.1:1")]
    for worker in workers:
        await worker.batcher.start()
        await worker.poll()
    yield workers
    for worker in workers:
        await worker.batcher.aclose()


STEPS: list[tuple[Callable[[ApiKey], Any], str]] = [
    (lambda key: services.key_revoke(key, by="test"), "key_revoked"),
    (lambda key: services.consumer_disable(key.consumer), "consumer_disabled"),
    (lambda key: Consumer.objects.filter(pk=key.consumer_id).update(enabled=False), "consumer_disabled"),
    (lambda key: key.delete(), "key_invalid"),
    (lambda key: key.consumer.delete(), "key_invalid"),
]


@pytest.mark.parametrize(("step", "code"), STEPS)
async def test_a_change_reaches_every_worker_at_its_next_poll(
    anna: Consumer, workers: list[Worker], step: Callable[[ApiKey], Any], code: str
) -> None:
    key, secret = await in_thread(services.key_create, anna)
    for worker in workers:
        await worker.poll()
    known = [await worker.ask(secret) for worker in workers]
    assert all(isinstance(answer, Credential) and answer.id == key.pk for answer in known)
    assert [worker.reads for worker in workers] == [1, 0, 1]  # the second had it from Valkey, the third has none
    await in_thread(step, key)
    for worker in workers:
        await worker.poll()
    assert [await worker.ask(secret) for worker in workers] == [Refusal(code)] * 3


async def test_a_key_works_at_once_though_it_was_asked_for_before_it_was_made(
    anna: Consumer, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.generate()
    monkeypatch.setattr(secrets, "generate", lambda environment: secret)
    assert [await worker.ask(secret.text) for worker in workers] == [Refusal("key_invalid")] * 3
    await in_thread(services.key_create, anna)
    for worker in workers:
        await worker.poll()
    assert all([isinstance(await worker.ask(secret.text), Credential) for worker in workers])


async def test_an_answer_goes_to_valkey_for_five_minutes(anna: Consumer, workers: list[Worker]) -> None:
    _, secret = await in_thread(services.key_create, anna)
    await workers[0].poll()
    await workers[0].ask(secret)
    name = f"hg:credential:{secrets.digest(secret).hex()}"
    assert 0 < await workers[0].batcher.command("TTL", name) <= 300
    assert secret.encode() not in await workers[0].batcher.command("GET", name)


async def test_a_rotated_key_works_beside_its_successor_until_the_overlap_ends(
    anna: Consumer, workers: list[Worker]
) -> None:
    worker = workers[0]
    old, old_secret = await in_thread(services.key_create, anna)
    _, new_secret = await in_thread(services.key_rotate, old, overlap=timedelta(seconds=0.3), by="test")
    await worker.poll()
    assert isinstance(await worker.ask(old_secret), Credential)
    assert isinstance(await worker.ask(new_secret), Credential)
    deadline_s = time.monotonic() + 5
    while isinstance(await worker.ask(old_secret), Credential):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    assert await worker.ask(old_secret) == Refusal("key_expired")
    assert isinstance(await worker.ask(new_secret), Credential)
