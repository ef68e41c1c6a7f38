"""Forwarding to an upstream that asks for more than a second try when nothing was sent: see `CarePolicy`.

    ceiling ─► ┌ breaker ─► target ─► attempt (perhaps two at once: a hedge) ─► the answer, or why there is none ┐
               └───────────── may it be tried again? wait a little, another target ◄─────────────────────────────┘

Tried again is only what may be: the method is idempotent or the upstream says that all are, nothing of the body is
lost, the answer is one of those that are worth it, the circuit is closed, the budget has room, and there is time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from random import random
from time import perf_counter
from typing import Any

import httpx

from gateway.proxy import health
from gateway.proxy.answer import AnswerStream
from gateway.proxy.balancer import Balancer, TargetState
from gateway.proxy.errors import ConnectFailed, UpstreamBroke, UpstreamError, UpstreamTimeout
from gateway.proxy.exchange import Exchange
from gateway.proxy.guard import Guard
from gateway.proxy.messages import IDEMPOTENT
from gateway.proxy.snapshot import CarePolicy, UpstreamSpec

BACKOFF_MAX_S = 5.0

Make = Callable[[TargetState], httpx.Request]
Dial = Callable[[UpstreamSpec, TargetState], httpx.AsyncBaseTransport]


@dataclass(slots=True)
class Got:
    """An answer whose head is here. Either delivered, or discarded."""

    response: httpx.Response
    stream: AnswerStream
    whole: bytes | None
    state: TargetState
    sent_s: float
    head_s: float

    async def discard(self) -> None:
        if self.whole is None:
            self.state.in_flight -= 1
            await self.stream.aclose()


class Kept:
    """A client's body that can be sent again from its beginning, as long as what was read of it is within a limit."""

    def __init__(self, source: AsyncIterator[bytes], most: int) -> None:
        self._source, self._room = source, most
        self._chunks: list[bytes] | None = []
        self._reading = False  # stays so when an attempt ends while it reads: the source then ended with it

    @property
    def whole(self) -> bool:
        """Nothing that was read is lost."""
        return self._chunks is not None and not self._reading

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in [*(self._chunks or ())]:
            yield chunk
        while True:
            self._reading = True
            chunk = await anext(self._source, b"")
            self._reading = False
            if not chunk:
                return
            self._room -= len(chunk)
            if self._room < 0:
                self._chunks = None
            elif self._chunks is not None:
                self._chunks.append(chunk)
            yield chunk


class KeptBody(Kept, httpx.AsyncByteStream):
    """httpx asks for a stream of its own class."""


class Attempts:
    """All attempts of one request."""

    def __init__(
        self, exchange: Exchange, upstream: UpstreamSpec, care: CarePolicy, guard: Guard, balancer: Balancer
    ) -> None:
        self.exchange, self.upstream, self.care, self.guard, self.balancer = exchange, upstream, care, guard, balancer
        self.picked = upstream.base or upstream  # targets and their health are the configured upstream's
        self.method = exchange.upstream_method or exchange.method
        self.tried: set[str] = set()

    async def run(self, make: Make, dial: Dial, body: Kept | None, deadline_s: float) -> Got:
        """Raises UpstreamError: the last attempt's."""
        self.guard.budget.request()
        hedged = self.care.hedge_s and self.method == "GET" and body is None and len(self.upstream.targets) > 1
        while True:
            got: Got | None = None
            try:
                got = await (self._hedged(make, dial) if hedged else self._attempt(make, dial))
                worth = got.response.status_code in self.care.retry_statuses and self._may_repeat()
                if not worth or not self._again(body):
                    return got
            except UpstreamError as error:
                if not self._worth(error) or not self._again(body):
                    raise
            wait_s = self._pause_s()
            if asyncio.get_running_loop().time() + wait_s >= deadline_s:
                if got is not None:
                    return got
                raise UpstreamTimeout("The time for all attempts is over.")
            if got is not None:
                await got.discard()
            await asyncio.sleep(wait_s)

    def _worth(self, error: UpstreamError) -> bool:
        if isinstance(error, ConnectFailed):
            return True  # nothing was sent
        if isinstance(error, UpstreamTimeout) and error.phase == "first_byte":
            return self.care.retry_on_timeout and self._may_repeat()
        if isinstance(error, UpstreamBroke) and self._may_repeat():
            return True
        return error.safe_to_retry and error.phase in ("", "connect")

    def _may_repeat(self) -> bool:
        return self.care.retry_all or self.method in IDEMPOTENT

    def _again(self, body: Kept | None) -> bool:
        if self.exchange.tries > self.upstream.retries or (body is not None and not body.whole):
            return False
        breaker = self.guard.breaker
        if breaker is not None and breaker.phase != "closed":
            return False
        return self.guard.budget.take()

    def _pause_s(self) -> float:
        """Full jitter: who failed together must not come back together. Another target need not be waited for."""
        if len(self.tried) < len(self.upstream.targets):
            return 0.0
        longest_s: float = min(BACKOFF_MAX_S, self.care.backoff_s * 2.0 ** (self.exchange.tries - 1))
        return longest_s * random()  # noqa: S311 - spreads a load, guards no secret

    async def _attempt(self, make: Make, dial: Dial) -> Got:
        exchange, breaker = self.exchange, self.guard.breaker
        trial = breaker.admit() if breaker is not None else False
        try:
            state = self.balancer.pick(self.picked, self.tried, self.exchange)
            transport = dial(self.upstream, state)
        except BaseException:
            if breaker is not None:
                breaker.abandon(trial)
            raise
        self.tried.add(state.target.address)
        exchange.target = state.target.address
        exchange.tries += 1
        sent_s = exchange.sent_s = perf_counter()
        state.asked(sent_s)
        try:
            response = await transport.handle_async_request(make(state))
        except BaseException as error:
            state.gave_up()
            blamed = isinstance(error, UpstreamError) and health.blames(error, exchange.body is not None)
            if isinstance(error, UpstreamError):
                state.broke(error, exchange.body is not None)
            if breaker is not None and blamed:
                breaker.settle(trial, True, perf_counter() - sent_s)
            elif breaker is not None:
                breaker.abandon(trial)
            raise
        head_s, status = perf_counter(), response.status_code
        state.heard(head_s)
        state.answered(status, head_s - sent_s)
        if breaker is not None:
            breaker.settle(trial, status >= 500 and status not in health.NOT_ITS_FAULT, head_s - sent_s)
        stream: Any = response.stream
        whole = stream.whole()
        if whole is not None:  # a small answer is all here, and its connection back in the pool
            state.in_flight -= 1
        return Got(response, stream, whole, state, sent_s, head_s)

    async def _hedged(self, make: Make, dial: Dial) -> Got:
        """The first good answer of two. The second is asked for when the first is late, and the budget allows it."""
        tasks = [asyncio.ensure_future(self._attempt(make, dial))]
        best: Got | None = None
        try:
            await asyncio.wait(tasks, timeout=self.care.hedge_s)
            if not tasks[0].done() and self._may_hedge():
                tasks.append(asyncio.ensure_future(self._attempt(make, dial)))
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None and (best is None or best.response.status_code >= 500):
                        best = task.result()
                if best is not None and best.response.status_code < 500:
                    break
            if best is None:
                return tasks[-1].result()  # raises what it ended with
            self.exchange.target = best.state.target.address
        except BaseException:
            best = None  # nobody will have it: it is put away with the others
            raise
        finally:
            await self._settle(tasks, best)
        return best

    async def _settle(self, tasks: Sequence[asyncio.Future[Got]], best: Got | None) -> None:
        try:
            await self._put_away([task for task in tasks if not _is(task, best)])
        except BaseException:  # cancelled meanwhile: the answer that won has nobody to go to either
            if best is not None:
                await best.discard()
            raise

    def _may_hedge(self) -> bool:
        breaker = self.guard.breaker
        return (breaker is None or breaker.phase == "closed") and self.guard.budget.take()

    async def _put_away(self, losers: list[asyncio.Future[Got]]) -> None:
        for task in losers:
            task.cancel()
        try:
            await asyncio.gather(*losers, return_exceptions=True)
        finally:  # whoever cancels us: what came in the last moment holds a connection
            for task in losers:
                if task.done() and not task.cancelled() and task.exception() is None:
                    await task.result().discard()


def _is(task: asyncio.Future[Got], best: Got | None) -> bool:
    return (
        best is not None and task.done() and not task.cancelled() and task.exception() is None and task.result() is best
    )


class Permit:
    """A place below the ceiling, and what else ends with the answer. Closing twice is harmless."""

    __slots__ = ("_guard", "_release")

    def __init__(self, guard: Guard, release: Callable[[], Awaitable[None]] | None) -> None:
        self._guard: Guard | None = guard
        self._release = release

    async def close(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        guard.ceiling.leave()
        if self._release is not None:
            await self._release()


def deadline_of(extensions: dict[str, Any]) -> float:
    deadline_s: float = extensions.get("deadline_s", inf)
    return deadline_s
