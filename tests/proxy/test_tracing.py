"""Traces: the hooks of the next requests, what each said and how long it took; of others, nothing and at no cost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from gateway.plugins.base import Plugin
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Answer, Consumer, Exchange
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.snapshot import When
from gateway.proxy.tracing import Traces
from tests.proxy.gatewaying import Bench, NoConfig, route, setting, table, target, upstream
from tests.upstream import OK, answering, serving

PAUSE_S = 0.02


class Known(Plugin):
    name = "known"
    Config = NoConfig
    identifies = True

    async def access(self, exchange: Exchange) -> None:
        await asyncio.sleep(PAUSE_S)
        exchange.consumer = Consumer(5, "ann")


class Word(Plugin):
    name = "word"
    Config = NoConfig

    def access(self, exchange: Exchange) -> Answer | None:
        if exchange.query == b"refuse":
            raise Reject(403, "acl_denied", "No.")
        if exchange.query == b"fail":
            raise ValueError
        return Answer(204) if exchange.query == b"answer" else None

    async def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        exchange.response_headers.append((b"x-word", b"1"))


class Silent(Plugin):
    """Takes part in neither phase."""

    name = "silent"
    Config = NoConfig

    def log(self, exchange: Exchange) -> None:
        exchange.notes["logged"] = True


KINDS = [Known, Word, Silent]
SETTINGS = [setting(Known, number=3), setting(Word, number=4), setting(Silent, number=5)]


def asked(**more: Any) -> dict[str, Any]:
    return {"id": "t1", "requests": 10, "seconds": 30, **more}


async def traced(paths: list[str], settings: list[Any] = SETTINGS, **about: Any) -> list[dict[str, Any]]:
    routes = [route("a", "/a"), route("b", "/b", id=2)]
    async with contextlib.AsyncExitStack() as stack:
        up = await stack.enter_async_context(serving(answering(OK)))
        made = table(routes, [upstream("up", target(up.port))], KINDS, settings)
        bench = await stack.enter_async_context(Bench(made))
        traces = Traces(bench.pipeline)
        assert traces.begin(asked(**about))
        for path in paths:
            await bench.get(path)
        assert bench.pipeline.in_flight == 0
        traces.end()
        assert all(exchange.notes.get("logged") or exchange.route is None for exchange in bench.records)
        return list(traces.told({"id": "t1"})["items"])


def steps(item: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    return [(one["plugin"], one["setting"], one["phase"], one["result"]) for one in item["steps"]]


async def test_each_hook_stands_there_with_its_time_and_what_it_said() -> None:
    [item] = await traced(["/a?x=secret"])
    assert steps(item) == [
        ("known", 3, "access", "passed"), ("word", 4, "access", "passed"), ("word", 4, "response", "passed"),
    ]  # fmt: skip
    known, word, _ = (step["us"] for step in item["steps"])
    assert known >= PAUSE_S * 1_000_000 * 0.9
    assert 0 <= word < known
    assert (item["route"], item["consumer"], item["status"], item["path"]) == ("a", "ann", 200, "/a")
    assert item["duration_ms"] >= item["gateway_ms"] >= PAUSE_S * 900


@pytest.mark.parametrize(
    ("query", "result", "status"),
    [
        ("refuse", "refused 403 acl_denied", 403), ("answer", "answered 204", 204), ("fail", "failed ValueError", 500),
    ],
)  # fmt: skip
async def test_what_ends_the_request_is_said(query: str, result: str, status: int) -> None:
    [item] = await traced([f"/a?{query}"])
    assert steps(item)[1:] == [("word", 4, "access", result), ("word", 4, "response", "passed")]
    assert item["status"] == status


async def test_conditions_and_dry_runs_are_told() -> None:
    never = When(methods=frozenset({"PUT"}))
    [item] = await traced(["/a?refuse"], [setting(Word, number=4, dry_run=True), setting(Silent, number=5)])
    assert steps(item) == [
        ("word", 4, "access", "would refuse (403 acl_denied)"), ("word", 4, "response", "passed"),
    ]  # fmt: skip
    for dry in (False, True):
        some = setting(Word, number=4, when=never, dry_run=dry)
        [item] = await traced(["/a?refuse"], [some, setting(Silent, number=5)])
        assert steps(item) == [
            ("word", 4, "access", "not for this request"), ("word", 4, "response", "not for this request"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, ["/a", "/b", "/a"]),
        ({"requests": 2}, ["/a", "/b"]),
        ({"route": [1, "renamed"]}, ["/a", "/a"]),
        ({"route": [0, "b"]}, ["/b"]),
        ({"consumer": [5, "ann"]}, ["/a", "/b", "/a"]),
        ({"consumer": [6, "bob"]}, []),
        ({"client_ip": "192.0.2.1"}, ["/a", "/b", "/a"]),
        ({"client_ip": "192.0.2.2"}, []),
    ],
)
async def test_only_those_asked_for_are_kept(about: dict[str, Any], expected: list[str]) -> None:
    items = await traced(["/a", "/none", "/b", "/a"], **about)
    assert [item["path"] for item in items] == expected


async def test_while_nobody_asks_the_pipeline_is_its_own() -> None:
    async with Bench(None) as bench:
        traces = Traces(bench.pipeline)
        assert "handle" not in vars(bench.pipeline)
        traces.begin(asked(requests=1))
        assert traces.told({"id": "t1"}) == {"known": True, "running": True, "items": []}
        traces.begin(asked(id="t2", seconds=0))
        assert traces.told({"id": "t1"})["known"] is False
        while traces.told({"id": "t2"})["running"]:
            await asyncio.sleep(0)
        assert bench.pipeline.handle.__func__ is Pipeline.handle  # type: ignore[attr-defined]
        exchange, _ = await bench.get("/")
        assert exchange.status == 503


async def test_the_last_request_asked_for_ends_it() -> None:
    async with serving(answering(OK)) as up:
        made = table([route("a", "/a")], [upstream("up", target(up.port))], KINDS, SETTINGS)
        async with Bench(made) as bench:
            traces = Traces(bench.pipeline)
            traces.begin(asked(requests=1))
            await bench.get("/a")
            assert traces.told({"id": "t1"})["running"] is False
            assert "handle" not in vars(bench.pipeline)
