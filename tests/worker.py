"""A worker's runtime in the process of the test, for what can only be seen from within."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from django.conf import settings
from django.db import connections

from gateway import runtime
from gateway.runtime import Runtime


@asynccontextmanager
async def worker_here(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """Started, and the one that requests find."""
    environment = settings.ENVIRONMENT.model_copy(update={"redis_timeout_ms": 1000})
    worker = Runtime(environment, settings.REDIS_URL, 0)
    threads = ThreadPoolExecutor(1)  # one connection to PostgreSQL, closed when nothing will use it any more
    worker.database._threads = threads
    worker.database.close = lambda: threads.submit(connections.close_all)  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(runtime, "current", lambda: worker)
    await worker.start()
    yield worker
    await worker.stop()
    threads.shutdown()
