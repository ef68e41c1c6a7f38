"""A worker that is told to stop stops, whatever it is doing at that moment."""

from __future__ import annotations

import asyncio
import random

import pytest
import uvloop

from gateway import runtime
from gateway.proxy import tasks
from gateway.proxy.tasks import ended
from tests.worker import worker_here

TIMES = 40

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


@pytest.mark.django_db(transaction=True)
async def test_a_worker_stops_in_the_middle_of_a_look_and_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks all the time here. A cancellation that was taken for something else held it for ever."""
    monkeypatch.setattr(runtime, "POLL_S", 0.0005)
    for _ in range(TIMES):
        async with asyncio.timeout(20), worker_here(monkeypatch):
            await asyncio.sleep(random.uniform(0, 0.03))


async def test_who_takes_a_cancellation_for_something_else_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    taken = 0

    async def stubborn() -> None:
        nonlocal taken
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                taken += 1
                if taken == 3:
                    raise

    async def fails() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("at its end")

    running = [asyncio.create_task(stubborn()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    await ended(running)
    assert taken == 3
    assert all(task.done() for task in running)
    await ended(())
