"""Thousands of routes: the garbage collector must not walk through their table, for every walk stops the loop."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

from gateway.runtime import Runtime
from tests.e2e.gateway import route, upstream

ROUTES = 200
SETTINGS: list[dict[str, Any]] = [
    {"name": "request-id", "config": {}}, {"name": "cors", "config": {}}, {"name": "key-auth", "config": {}},
    {"name": "acl", "route": "r1", "config": {"allow": ["staff"]}},
    {"name": "rate-limiting", "route": "r1", "config": {"minute": 5}},
    {"name": "request-transformer", "config": {"add": {"headers": ["X-A:1"]}}},
    {"name": "response-transformer", "config": {"add": {"headers": ["X-A:1"]}}},
]  # fmt: skip
DOCUMENT = {
    "format": 1,
    "upstreams": [upstream("up", 1)],
    "routes": [route(f"r{number}", f"/r{number}/{{id}}/*", "up") for number in range(ROUTES)],
    "plugins": SETTINGS,
}


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    gc.disable()
    yield Runtime(settings.ENVIRONMENT, settings.REDIS_URL, 1)
    gc.unfreeze()
    gc.enable()


async def test_a_table_that_serves_is_nothing_to_the_collector(runtime: Runtime) -> None:
    gc.collect()
    before = len(gc.get_objects())
    table = runtime.loader.table(DOCUMENT, 1, "digest", runtime.loader.registry)
    assert len(gc.get_objects()) - before > 10 * ROUTES
    await runtime.loader.swap(table, "digest")
    assert len(gc.get_objects()) < before


def test_and_needs_no_collector_to_go(runtime: Runtime) -> None:
    """Cycles in it would stay for ever, once it has served."""
    runtime.loader.table(DOCUMENT, 1, "first", runtime.loader.registry)  # fills the caches on the way
    left = []
    for number in range(2, 5):  # other threads of this process make objects, too
        before = len(gc.get_objects())
        runtime.loader.table(DOCUMENT, number, f"{number}", runtime.loader.registry)
        left.append(len(gc.get_objects()) - before)
    assert min(left) < 10
