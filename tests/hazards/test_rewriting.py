"""A rewritten path stays below what its route leads to, however an upstream reads it."""

from __future__ import annotations

import pytest

from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.upstream import OK, answering, serving

CLIMBING = [
    "..%2Fadmin",
    "a/..%2f..%2fadmin",
    "..%5cadmin",
    "..;/admin",
    "..%3Bx/admin",
    "%252e%252e%252fadmin",
    "..\\admin",
]


@pytest.mark.parametrize("rest", CLIMBING)
@pytest.mark.parametrize(
    ("pattern", "changes"),
    [
        ("/*", {"path_rewrite": "/public/*"}),
        ("/{tenant}/*", {"path_rewrite": "/files/{tenant}/*"}),
        ("/{tenant}/*", {"strip_path": True}),
        ("~/(?P<rest>.+)", {"path_rewrite": "/public/{rest}"}),
    ],
)
async def test_no_spelling_climbs_out_of_a_rewrite(pattern: str, changes: dict[str, object], rest: str) -> None:
    """All these belong to the same route in every reading, so the route alone does not tell them apart."""
    async with serving(answering(OK)) as up:
        async with Bench(table([route("r", pattern, **changes)], [upstream("up", target(up.port))])) as bench:
            exchange, _ = await bench.get(f"/t/{rest}" if "tenant" in pattern else f"/{rest}")
        assert (exchange.status, exchange.outcome) == (400, "ambiguous_path")
        assert up.heads == []


@pytest.mark.parametrize(
    ("path", "sent"), [("/a%2Fb", "/public/a%2Fb"), ("/a;v=1/..b", "/public/a;v=1/..b"), ("/a/../b", "/public/b")]
)
async def test_other_odd_spellings_are_rewritten(path: str, sent: str) -> None:
    async with serving(answering(OK)) as up:
        one = table([route("r", "/*", path_rewrite="/public/*")], [upstream("up", target(up.port))])
        async with Bench(one) as bench:
            exchange, _ = await bench.get(path)
    assert exchange.status == 200
    assert up.heads[0].startswith(f"GET {sent} HTTP/1.1\r\n".encode())
