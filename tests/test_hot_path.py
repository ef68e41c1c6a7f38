"""What a request may not cost: a thread, a trip to one, a query, a log or metrics call, a task beyond its one.

The real application on the real front and a real upstream, all of a worker's background tasks running. Whatever happens
in the loop's thread outside those tasks is the request's: its own task, and the callbacks of its sockets.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any

import prometheus_client
import prometheus_client.metrics
import pytest
import uvloop
from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.db import connection
from django.db.backends.utils import CursorWrapper

from gateway import asgi
from gateway.runtime import Runtime
from keys import services as keys
from routes import portable, services
from tests.server.front import Answer, Front, front
from tests.worker import worker_here

CLIENTS, ROUNDS = 10, 10
CONFIGURATION = """
format: 1
upstreams: [{{name: up, targets: [{{host: 127.0.0.1, port: {port}}}]}}]
routes:
- {{name: plain, paths: [/plain/*], upstreams: [{{name: up}}]}}
- {{name: policies, paths: [/policies/*], upstreams: [{{name: up}}]}}
- {{name: kept, paths: [/kept/*], upstreams: [{{name: up}}]}}
plugins:
- {{name: request-id, route: policies}}
- {{name: key-auth, route: policies}}
- {{name: rate-limiting, route: policies, config: {{limits: [{{limit: 100000, window: 1m}}]}}}}
- {{name: quota, route: policies, config: {{month: 1000000}}}}
- {{name: traffic-split, route: policies, config: {{weights: [{{upstream: up}}]}}}}
- {{name: upstream-timeout, route: policies, config: {{first_byte_timeout_ms: 9000}}}}
- {{name: upstream-retry, route: policies, config: {{retry_statuses: [503]}}}}
- {{name: ip-restriction, route: policies, config: {{allow: [127.0.0.0/8]}}}}
- {{name: bot-detection, route: policies}}
- {{name: redirect, route: policies, config: {{location: "{{path}}"}}}}
- {{name: request-size-limiting, route: policies}}
- {{name: concurrency-limiting, route: policies, config: {{max_in_flight: 100000}}}}
- {{name: fault-injection, route: policies, config: {{abort: {{percentage: 100}}, trigger: x-fail}}}}
- {{name: request-termination, route: policies, config: {{trigger: x-stop}}}}
- {{name: security-headers, route: policies}}
- {{name: compression, route: policies}}
- {{name: response-cache, route: kept, config: {{cache_ttl: 60}}}}
"""
#: Kind of call → where it is made. `task` is the one whose number is documented.
WATCHED: list[tuple[str, type, str]] = [
    ("thread", threading.Thread, "start"),
    ("thread hop", uvloop.Loop, "run_in_executor"),
    ("thread hop", Executor, "submit"),
    ("thread hop", SyncToAsync, "__call__"),
    ("thread hop", AsyncToSync, "__call__"),
    ("query", CursorWrapper, "execute"),
    ("query", CursorWrapper, "executemany"),
    ("log", logging.Logger, "handle"),
    ("metrics", prometheus_client.metrics.MetricWrapperBase, "labels"),
    ("metrics", prometheus_client.Counter, "inc"),
    ("metrics", prometheus_client.Gauge, "set"),
    ("metrics", prometheus_client.Histogram, "observe"),
]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture"),
]


class Watch:
    """Counts `calls` outside the tasks that were there when it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._background = asyncio.all_tasks()
        for kind, owner, name in WATCHED:
            monkeypatch.setattr(owner, name, self._counted(kind, getattr(owner, name)))
        self._loop.set_task_factory(self._task)

    def _note(self, kind: str) -> None:
        if threading.get_ident() == self._thread and asyncio.current_task() not in self._background:
            self.calls[kind] += 1

    def _counted(self, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self._note(kind)
            return original(*arguments, **named)

        return counted

    def _task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> asyncio.Task[Any]:
        self._note("task")
        task = asyncio.Task(coroutine, loop=loop, **named)
        if asyncio.current_task() in self._background:
            self._background.add(task)  # a poll's own helpers
        return task


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


@pytest.fixture
def key(transactional_db: None, plain_upstream: int) -> str:
    """Of a consumer who may call the routes of CONFIGURATION, which is live."""
    text = CONFIGURATION.format(port=plain_upstream)
    services.replace(portable.from_yaml(text), author="test", source="import")
    return keys.key_create(keys.consumer_create("anna"))[1]


@pytest.fixture
async def worker(key: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    async with worker_here(monkeypatch) as worker:
        yield worker


async def ask(server: Front, head: bytes, rounds: int) -> Answer:
    """So many times from each client, whose requests are under way together. The last answer."""
    for _ in range(rounds):
        for client in server.clients:
            await client.send(head)
        for client in server.clients:
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"ok")
    return answer


@pytest.mark.parametrize("route", ["plain", "policies", "kept"])
async def test_a_request_costs_one_task_and_nothing_else(
    route: str, key: str, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = f"GET /{route}/x HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\n\r\n".encode()
    async with front(asgi.application) as server:
        for _ in range(CLIENTS):
            await server.connect()
        await ask(server, head, 2)  # opens the upstream's connections, and looks the key up
        with monkeypatch.context() as patch:
            watch = Watch(patch)
            answer = await ask(server, head, ROUNDS)
            asyncio.get_running_loop().set_task_factory(None)
    assert watch.calls == {"task": CLIENTS * ROUNDS}
    decided = {"x-request-id", "ratelimit"} & {name for name, _ in answer.headers}
    assert len(decided) == (2 if route == "policies" else 0)
    assert answer["cache-status"].startswith("hydragate; hit" if route == "kept" else "")


async def forbidden(scope: Any, receive: Any, send: Any) -> None:
    """Does each thing once that a request must not do."""
    logging.getLogger("gateway").warning("a log call")
    await asyncio.create_task(asyncio.sleep(0))
    await sync_to_async(lambda: None)()
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    COUNTER.labels("x").inc()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


REGISTRY = prometheus_client.CollectorRegistry()
COUNTER = prometheus_client.Counter("forbidden", "Of this test.", ["x"], registry=REGISTRY)


async def test_the_watch_sees_what_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would prove nothing."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    async with front(forbidden) as server:
        await server.connect()
        with monkeypatch.context() as patch:
            watch = Watch(patch)
            await ask(server, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 1)
            asyncio.get_running_loop().set_task_factory(None)
    for kind, count in {"task": 2, "query": 1, "log": 1, "metrics": 2}.items():
        assert watch.calls[kind] == count
    assert watch.calls["thread"] >= 1
    assert watch.calls["thread hop"] >= 1
