from __future__ import annotations

import asyncio

import pytest

from gateway.plugins.kept import Kept


class Thing:
    def __init__(self, made: list[Thing]) -> None:
        made.append(self)
        self.closed = asyncio.Event()

    async def aclose(self) -> None:
        self.closed.set()


@pytest.fixture
def made() -> list[Thing]:
    return []


async def test_one_of_each_key_is_made_and_kept(made: list[Thing]) -> None:
    kept = Kept()
    for _ in range(3):
        async with kept.use("a", lambda: Thing(made)) as first, kept.use("a", lambda: Thing(made)) as second:
            assert first is second
    async with kept.use("b", lambda: Thing(made)) as other:
        assert other is not made[0]
    assert len(made) == 2
    await kept.aclose()
    assert all(thing.closed.is_set() for thing in made)


async def test_what_nobody_uses_is_ended_and_made_anew(made: list[Thing]) -> None:
    kept = Kept(idle_s=0.01)
    async with kept.use("a", lambda: Thing(made)):
        await asyncio.sleep(0.05)
        assert not made[0].closed.is_set()
    async with asyncio.timeout(5):
        await made[0].closed.wait()
    async with kept.use("a", lambda: Thing(made)) as again:
        assert again is made[1]
    await kept.aclose()


async def test_what_does_not_end_well_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Thing):
        async def aclose(self) -> None:
            raise OSError("no")

    kept, made = Kept(), list[Thing]()
    async with kept.use("a", lambda: Bad(made)), kept.use("b", lambda: Thing(made)):
        pass
    await kept.aclose()
    assert made[1].closed.is_set()
    assert "Bad did not end well: OSError: no" in caplog.text
