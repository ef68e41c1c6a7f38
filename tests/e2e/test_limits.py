"""200 concurrent requests against a limit of 50: exactly 50 pass, however many workers share the counters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from tests.e2e.gateway import Gateway, route, running, upstream

ALGORITHMS = ["token-bucket", "leaky-bucket", "sliding-window", "fixed-window"]


@pytest.fixture(scope="module", params=[1, 2, 4])
def limited(
    directory: Path, database_url: str, request: pytest.FixtureRequest, plain_upstream: int
) -> Iterator[Gateway]:
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000"}
    with running(Gateway(directory, environment, workers=request.param)) as gateway:
        names = [f"{algorithm}-{request.param}" for algorithm in ALGORITHMS]
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("plain", plain_upstream)],
            "routes": [route(name, f"/{name}", "plain") for name in names],
            "plugins": [
                {
                    "name": "rate-limiting",
                    "route": name,
                    "config": {"by": "ip", "on_error": "deny", "limits": [
                        {"limit": 50, "window": "1h", "algorithm": algorithm},
                    ]},
                }
                for name, algorithm in zip(names, ALGORITHMS, strict=True)
            ],
        })  # fmt: skip
        yield gateway


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_exactly_fifty_of_two_hundred_pass(limited: Gateway, algorithm: str) -> None:
    url = f"{limited.url}/{algorithm}-{limited.workers}"
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=200), timeout=30) as client:
        answers = await asyncio.gather(*(client.get(url) for _ in range(200)))
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 150}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["x-ratelimit-limit"] == "50"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert ";q=50;w=3600" in refused.headers["ratelimit-policy"]
    assert ";r=0" in refused.headers["ratelimit"]
    assert refused.json()["code"] == "rate_limited"
