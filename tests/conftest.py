"""Starts what the suite needs, once: embedded PostgreSQL and Valkey, unless DATABASE_URL / REDIS_URL name others.

And what whole-gateway tests share: databases of their own, a running gateway, an upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import httpx
import psycopg
import pytest
import redis
import uvloop

# Before Django's settings are read: a data directory of the suite's own, in a short path other accounts can reach.
DATA_DIR = Path(tempfile.mkdtemp(prefix="hg-test-"))
DATA_DIR.chmod(0o755)
os.environ["GATEWAY_DATA_DIR"] = str(DATA_DIR)
os.environ["DJANGO_SETTINGS_MODULE"] = "gateway.settings"
os.environ.setdefault("SECRET_KEY", "only-for-tests")
# Hundreds of processes of ours are started: where bytecode is forbidden, each would compile all of it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# For each client, and each `httpx.get`, httpx reads its trust store: 20 ms, some thousand times.
transport: Any = httpx._transports.default
transport.create_ssl_context = functools.cache(transport.create_ssl_context)
# uvloop warns of a transport that was left open before it closes it. As an error that would keep it from closing it,
# and the loop from ending: a test that fails half-way would hang for ever.
close_loop = uvloop.Loop.close


def close_and_then_warn(loop: uvloop.Loop) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        close_loop(loop)
    for one in caught:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


uvloop.Loop.close = close_and_then_warn  # type: ignore[method-assign]

from django.conf import settings  # noqa: E402

from gateway import embedded  # noqa: E402
from tests import warm  # noqa: E402
from tests.e2e.gateway import Gateway, database, running  # noqa: E402

SERVERS = pytest.StashKey[embedded.Servers]()
LONG = ("tests/e2e/", "tests/hazards/", "tests/scale/", "tests/browser/", "tests/embedded/", "tests/test_demo.py")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores Ctrl-C and hands that down: what the tests start must hear it all the same.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        # The processes that run the tests have servers of their own. What they inherit must not let pytest-django read
        # the settings before this file can say where: they would all use one Redis, and count each other's requests.
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
        return
    wanted = {"postgres": not os.environ.get("DATABASE_URL"), "valkey": not os.environ.get("REDIS_URL")}
    if any(wanted.values()):
        config.stash[SERVERS] = servers = embedded.Servers(DATA_DIR, **wanted)
        servers.start()
    django.setup()  # now that the settings can name the servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that two processes end at the same time."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(SERVERS, None):
        servers.stop()
    shutil.rmtree(DATA_DIR, ignore_errors=True)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hg-e2e-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated() -> Iterator[str]:
    """The name of a database to make others like: migrating each of them would take two seconds."""
    with database() as url:
        environment = {**os.environ, "DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL}
        done = warm.run("migrate", "-v", "0", environment=environment)
        assert done.returncode == 0, done.stderr
        yield psycopg.conninfo.conninfo_to_dict(url)["dbname"]


@pytest.fixture(scope="module")
def database_url(migrated: str) -> Iterator[str]:
    forget_counters()
    with database(migrated) as url:
        yield url


def forget_counters() -> None:
    """Those of limits and quotas: ids begin anew with each database, and one before this had a consumer 1, too."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for key in [*client.scan_iter("hg:rl:*"), *client.scan_iter("hg:quota:*")]:
            client.delete(key)


@pytest.fixture(scope="module")
def gateway(directory: Path, database_url: str, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """One worker unless the module says `GATEWAY_WORKERS = n`."""
    # A loaded machine must not look like an outage of Redis; tests of outages say otherwise.
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000"}
    workers = getattr(request.module, "GATEWAY_WORKERS", 1)
    with running(Gateway(directory, environment, workers)) as started:
        yield started


@pytest.fixture(scope="session")
def plain_upstream() -> Iterator[int]:
    """The port of an upstream that says 200 to everything, fast enough for load."""
    loop = asyncio.new_event_loop()
    ports: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        return server

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield ports[0]

    async def stop() -> None:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
