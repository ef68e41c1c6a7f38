"""The ORM for the worker's own needs: a few threads beside the event loop, each call with a deadline.

A PostgreSQL that hangs can hold at most all of these threads, never the loop; while they are held, calls fail at once.
No request passes here except to look up a credential nobody remembers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import ParamSpec, TypeVar

from django.db import DatabaseError, InterfaceError, connection

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 4


class DatabaseUnavailable(Exception):
    """PostgreSQL refused, hung, or all threads are held by earlier calls that hang."""


class Database:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        self._busy = 0
        #: Seconds of the monotonic clock since when PostgreSQL has been failing; None while it works.
        self.degraded_since: float | None = None

    @property
    def available(self) -> bool:
        return self.degraded_since is None

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` in a thread; raises DatabaseUnavailable after two seconds or when PostgreSQL cannot be used."""
        if self._busy >= THREADS:
            raise DatabaseUnavailable("all database threads are waiting")
        self._busy += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, lambda: _in_thread(call, *args, **kwargs))
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(2.0):  # `wait_for` may swallow a cancellation that comes with the result
                result = await asyncio.shield(future)
        except (TimeoutError, DatabaseError, InterfaceError) as error:
            if self.degraded_since is None:
                self.degraded_since = monotonic()
            raise DatabaseUnavailable(str(error) or "no answer within 2 s") from error
        self.degraded_since = None
        return result

    def _done(self, future: asyncio.Future[R]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # looked at: a call that failed after its deadline is no news

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _in_thread(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except (DatabaseError, InterfaceError):
        connection.close()  # the next call in this thread gets a fresh connection
        raise
