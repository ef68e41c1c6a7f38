"""What is asked of everybody. A case names a path of the upstream; ours also need a configuration for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SMALL = b"hello, world\n" * 8
LARGE_BYTES = 1024 * 1024
POSTED = b'{"text": "' + b"x" * (10_000 - 12) + b'"}'
ROUTES = 10_000
BULK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Case:
    """`policies`: limits and accounting as far as the peer has them. `held`: connections kept, memory is measured.
    `at_share`: requests at a constant rate, this share of our own maximum. `bulk_bytes`: sent through to a slow side
    each way, memory is measured. `alone`: only we are asked. `most_rounds`: more would tell nothing new.
    `cached`: one answer is kept and sent to all, against ourselves without the cache.
    """

    name: str
    path: str = "/small"
    answer_bytes: int = len(SMALL)
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    policies: bool = False
    routes: int = 1
    held: int = 0
    at_share: float = 0.0
    bulk_bytes: int = 0
    workers: int = 1
    alone: bool = False
    most_rounds: int = 100
    cached: bool = False


CASES = {
    case.name: case
    for case in (
        Case("plain"),
        Case("policies", policies=True),
        Case("post-10k", method="POST", body=POSTED, headers={"Content-Type": "application/json"}),
        Case("large", path="/large", answer_bytes=LARGE_BYTES),
        Case("routes-10k", path=f"/r{ROUTES // 2}/small", routes=ROUTES),
        Case("latency", at_share=0.5),
        Case("scale", alone=True),
        Case("cache-hit", cached=True),
        Case("idle-10k", held=10_000, most_rounds=1),
        Case("slow", bulk_bytes=BULK_BYTES, most_rounds=1),
    )
}

#: Wanted, but nothing to measure yet, and why: named in every report rather than left out.
ABSENT: dict[str, str] = {}


def document(case: Case, upstream_port: int) -> dict[str, Any]:
    """Our configuration for it, in the format of `config import`."""
    target = {"host": "127.0.0.1", "port": upstream_port}
    paths = ["/*"] if case.routes == 1 else [f"/r{number}/*" for number in range(case.routes)]
    plugins: list[dict[str, Any]] = []
    if case.policies:
        limit = {"limit": 1_000_000, "window": "1s", "algorithm": "token-bucket"}
        plugins = [{"name": "key-auth"}, {"name": "rate-limiting", "config": {"limits": [limit]}}]
    if case.cached:
        plugins = [{"name": "response-cache", "config": {"cache_ttl": 86_400}}]
    return {
        "format": 1,
        "upstreams": [{"name": "upstream", "targets": [target]}],
        "routes": [
            {"name": f"route-{number}", "paths": [path], "upstreams": [{"name": "upstream"}]}
            for number, path in enumerate(paths)
        ],
        "plugins": plugins,
    }
