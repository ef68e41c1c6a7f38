"""200 concurrent requests against a limit of 50: exactly 50 pass, however many workers share the counters."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from django.conf import settings

from tests.e2e.gateway import Gateway, route, running, upstream

ALGORITHMS = ["token-bucket", "leaky-bucket", "sliding-window", "fixed-window"]


def hourly(limit: int, **more: Any) -> dict[str, Any]:
    limits = [{"limit": limit, "window": "1h", "algorithm": more.pop("algorithm", "sliding-window")}]
    return {"by": "ip", "on_error": "deny", "limits": limits, **more}


def settings_of(run: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Route → plugin and config. `run`: in names of counters that are not a setting's own."""
    return {
        **{algorithm: ("rate-limiting", hourly(50, algorithm=algorithm)) for algorithm in ALGORITHMS},
        "here": ("rate-limiting", hourly(50, shared=run)),
        "there": ("rate-limiting", hourly(50, shared=run)),
        "costly": ("rate-limiting", hourly(50, cost_header="X-Cost", max_cost=20)),
        "dry": ("rate-limiting", hourly(50, dry_run=True)),
        "flushed": ("rate-limiting", hourly(50)),
        "quota": ("quota", {"month": 50, "on_error": "deny"}),
    }


@pytest.fixture(scope="module", params=[1, 2, 4])
def limited(
    directory: Path, database_url: str, request: pytest.FixtureRequest, plain_upstream: int
) -> Iterator[Gateway]:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000"}
    with running(Gateway(directory, environment, workers=request.param)) as gateway:
        wanted = settings_of(f"e2e-{uuid.uuid4().hex}")
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("plain", plain_upstream)],
            "routes": [route(f"{name}-{request.param}", f"/{name}-{request.param}", "plain") for name in wanted],
            "plugins": [
                {"name": plugin, "route": f"{name}-{request.param}", "config": config}
                for name, (plugin, config) in wanted.items()
            ],
        })  # fmt: skip
        yield gateway


async def asked(gateway: Gateway, *names: str, **headers: str) -> list[httpx.Response]:
    """200 requests at once, to these routes in turn."""
    paths = [f"/{names[number % len(names)]}-{gateway.workers}" for number in range(200)]
    async with asyncio.timeout(30):
        return await asyncio.gather(*(answer(gateway.port, path, headers) for path in paths))


async def answer(port: int, path: str, headers: Mapping[str, str]) -> httpx.Response:
    """Over a connection of its own; a pool of 200 is slower than all that is asked."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{fields}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(first.split()[1]), headers=pairs, content=body)


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_exactly_fifty_of_two_hundred_pass(limited: Gateway, algorithm: str) -> None:
    answers = await asked(limited, algorithm)
    assert statuses(answers) == {200: 50, 429: 150}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["x-ratelimit-limit"] == "50"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert ";q=50;w=3600" in refused.headers["ratelimit-policy"]
    assert ";r=0" in refused.headers["ratelimit"]
    assert refused.json()["code"] == "rate_limited"


async def test_two_routes_share_one_limit(limited: Gateway) -> None:
    assert statuses(await asked(limited, "here", "there")) == {200: 50, 429: 150}


async def test_a_request_takes_what_it_costs(limited: Gateway) -> None:
    assert statuses(await asked(limited, "costly", **{"X-Cost": "5"})) == {200: 10, 429: 190}


async def test_a_dry_run_tells_and_refuses_nobody(limited: Gateway) -> None:
    answers = await asked(limited, "dry")
    assert statuses(answers) == {200: 200}
    assert Counter(answer.headers["x-ratelimit-dry-run"] for answer in answers) == {"pass": 50, "refuse": 150}


async def test_scripts_that_are_flushed_meanwhile_change_nothing(limited: Gateway) -> None:
    async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as client:
        asking = asyncio.create_task(asked(limited, "flushed"))
        while not asking.done():
            await client.script_flush()
            await asyncio.sleep(0)
    assert statuses(await asking) == {200: 50, 429: 150}


async def test_a_quota_is_exact_as_well(limited: Gateway) -> None:
    answers = await asked(limited, "quota")
    assert statuses(answers) == {200: 50, 429: 150}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "quota_exceeded"
    assert refused.headers["ratelimit-policy"].startswith('"50-per-month";q=50;w=')
