"""Two nodes on one database and one Redis: limits, kept answers and configurations are those of both."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.e2e.gateway import Gateway, route, running, upstream
from tests.e2e.test_limits import ALGORITHMS, answer, hourly, statuses
from tests.hazards.origin import Origin, origin

Nodes = tuple[Gateway, Gateway]


@pytest.fixture(scope="module")
def recording() -> Iterator[Origin]:
    with origin() as served:
        served.says = b"cache-control: max-age=1000\r\n"
        yield served


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, database_url: str, recording: Origin) -> Iterator[Nodes]:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000"}
    places: list[Path] = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    one, two = (
        Gateway(place, environment | {"GATEWAY_NODE": place.name}, workers=2) for place in places
    )  # fmt: skip
    run = uuid.uuid4().hex
    with running(one), running(two):
        one.configure({
            "format": 1,
            "upstreams": [upstream("origin", recording.port)],
            "routes": [route(name, f"/{name}", "origin") for name in [*ALGORITHMS, "kept"]],
            "plugins": [
                {"name": "response-cache", "route": "kept", "config": {}},
                *(
                    {
                        "name": "rate-limiting",
                        "route": name,
                        "config": hourly(50, algorithm=name, shared=f"{name}-{run}"),
                    }
                    for name in ALGORITHMS
                ),
            ],
        })  # fmt: skip
        recording.takes_s = 0.3
        yield one, two


async def asked(nodes: Nodes, name: str) -> Counter[int]:
    """200 requests at once, to the nodes in turn."""
    async with asyncio.timeout(30):
        return statuses(
            await asyncio.gather(*(answer(nodes[number % 2].port, f"/{name}", {}) for number in range(200)))
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_exactly_fifty_of_two_hundred_pass_on_both_together(nodes: Nodes, algorithm: str) -> None:
    assert await asked(nodes, algorithm) == {200: 50, 429: 150}


async def test_two_hundred_clients_of_both_are_one_request_upstream(nodes: Nodes, recording: Origin) -> None:
    recording.take()
    assert await asked(nodes, "kept") == {200: 200}
    assert len(recording.seen) == 1


def test_what_is_published_at_one_is_served_by_all(nodes: Nodes) -> None:
    said = nodes[0].manage("publish", "--comment", "again")
    assert "4/4 workers" in said, said
    versions = {node.get_json("/status")["config_version"] for node in nodes}
    assert len(versions) == 1
