"""A live version that workers cannot serve, and a disk that hangs: traffic goes on with the configuration before."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.gateway import Gateway, route, upstream, wait_until

DOCUMENT = {"format": 1, "routes": [route("all", "/*", "up")], "plugins": []}
BROKEN = """
INSERT INTO routes_configversion (number, document, digest, author, source, comment, live)
SELECT max(number) + 1, '{"format": 1, "routes": [{"name": "r", "paths": ["no-slash"]}]}', 'other', 'a newer release',
       'import', '', true
FROM routes_configversion
"""
LAST_LOOK = """
SELECT max(query_start) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND strpos(query, 'keys_credentialchange') > 0
"""


@pytest.fixture(scope="module")
def configured(gateway: Gateway, plain_upstream: int) -> Gateway:
    gateway.configure({**DOCUMENT, "upstreams": [upstream("up", plain_upstream)]})
    return gateway


def served(gateway: Gateway) -> int:
    with urllib.request.urlopen(f"{gateway.url}/x", timeout=5) as answer:
        return int(answer.status)


@pytest.fixture
def broken(configured: Gateway) -> Iterator[Gateway]:
    """Its live version is one that no worker can build; afterwards the one before is published again."""
    good = configured.query("SELECT number FROM routes_configversion WHERE live")[0][0]
    with psycopg.connect(configured.environment["DATABASE_URL"]) as connection:
        connection.execute("UPDATE routes_configversion SET live = false WHERE live")
        connection.execute(BROKEN)
    yield configured
    configured.manage("config", "rollback", str(good))
    assert configured.get_json("/status")["config_error"] == ""


def test_it_is_tried_once_and_survives_a_restart_and_is_forgotten_after_a_rollback(broken: Gateway) -> None:
    gateway = broken
    log = gateway.directory / "serve.log"
    wait_until(lambda: gateway.get_json("/status")["config_error"], what="the refusal")
    looks: set[object] = set()

    def looked() -> bool:
        looks.update(gateway.query(LAST_LOOK)[0])
        return len(looks) > 3

    wait_until(looked, what="three more turns of the poll")
    assert log.read_text().count("cannot be served; still serving") == 1
    assert served(gateway) == 200
    gateway.stop()
    gateway.start()
    assert served(gateway) == 200
    assert gateway.get_json("/status")["config_error"]


def test_a_disk_that_hangs_holds_nobody(configured: Gateway, plain_upstream: int) -> None:
    fifo: Path = configured.directory / "var" / "config" / f"live.{configured.get_json('/status')['pid']}"
    os.mkfifo(fifo)  # opening it for writing waits for a reader
    try:
        configured.configure({**DOCUMENT, "upstreams": [upstream("up", plain_upstream), upstream("b", plain_upstream)]})
        wait_until(lambda: configured.get_json("/status")["upstreams"] == 2)
        assert served(configured) == 200
        configured.configure({**DOCUMENT, "upstreams": [upstream("up", plain_upstream)]})
        wait_until(lambda: configured.get_json("/status")["upstreams"] == 1)
    finally:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        fifo.unlink(missing_ok=True)  # or the next document would wait there, and the worker's end for it
        os.close(reader)
