"""The asker's half, against workers that answer well, late, wrongly or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time
from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import override_settings

from dashboard.rollcall import RedisAway, ask
from gateway.proxy.rollcall import Sealed
from tests.dashboard.answering import worker

SECRET = "of an installation without workers"
OURS = Sealed(SECRET)


@pytest.fixture(autouse=True)
def own_installation() -> Iterator[None]:
    """A gateway of another test may be there, on the same Redis."""
    with override_settings(SECRET_KEY=SECRET):
        yield


@contextmanager
def answering(reply: Any) -> Iterator[None]:
    """Somebody who hears one question and publishes `reply(question)`, bytes; None: says nothing."""
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(OURS.channel)
        channel.get_message(timeout=5)

        def listen() -> None:
            while (message := channel.get_message(timeout=5)) is None:
                pass
            question = OURS.read(message["data"], time())
            assert question is not None
            if (said := reply(question)) is not None:
                client.publish(question["to"], said)

        thread = threading.Thread(target=listen)
        thread.start()
        yield
        thread.join(10)


def said(number: int) -> dict[str, Any]:
    return {"node": "n1", "worker": number, "said": number}


@pytest.mark.django_db
def test_all_that_heard_it_answer_and_nobody_is_waited_for_longer() -> None:
    with worker("n1", 1), worker("n1", 2), worker("n2", 1):
        begun_s = monotonic()
        assert sorted(map(str, ask("guards", {}, wait_s=10.0))) == ["n1/1", "n1/2", "n2/1"]
        assert [str(one) for one in ask("guards", {}, node="n2", wait_s=10.0)] == ["n2/1"]
        assert monotonic() - begun_s < 5


def test_where_no_worker_runs_nobody_is_waited_for() -> None:
    begun_s = monotonic()
    assert ask("guards", {}, wait_s=10.0) == []
    assert monotonic() - begun_s < 5


def test_who_says_nothing_is_waited_for_a_bounded_time() -> None:
    with answering(lambda question: None):
        begun_s = monotonic()
        assert ask("guards", {}, wait_s=0.2) == []
        assert 0.2 <= monotonic() - begun_s < 5


@pytest.mark.parametrize(
    "forged",
    [
        lambda question: b"",
        lambda question: b"\0" * 32 + b'{"node":"n1","worker":1,"said":1}',
        lambda question: Sealed("another").write(said(1), time()),
        lambda question: OURS.write(said(1), time() - 60),
    ],
)
def test_what_is_not_signed_is_no_answer(forged: Any) -> None:
    with answering(forged):
        assert ask("guards", {}, wait_s=0.1) == []
    with answering(lambda question: OURS.write(said(1), time())):
        assert [str(one) for one in ask("guards", {}, wait_s=10.0)] == ["n1/1"]


def test_redis_away_is_said_soon() -> None:
    begun_s = monotonic()
    with override_settings(REDIS_URL="redis://127.0.0.1:1"), pytest.raises(RedisAway, match="Redis does not answer"):
        ask("guards", {})
    assert monotonic() - begun_s < 5
