"""The application on servers that are not ours: plain ASGI is enough, and so is Django's own handler."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from django.test import AsyncClient, Client

from gateway import runtime
from gateway.environment import ROOT
from gateway.handler import ProxyHandler
from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.running import Stopwatch
from tests.upstream import OK, Wire, answering, serving, until

COOKIES = (
    b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A pipeline that stands where the process's runtime would."""
    async with Bench(None) as bench:
        monkeypatch.setattr(runtime, "current", lambda: SimpleNamespace(started=True, pipeline=bench.pipeline))
        yield bench


@pytest.fixture
async def uvicorn_url() -> AsyncIterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(ProxyHandler(), lifespan="off", log_level="warning", ws="none"))
        task = asyncio.create_task(server.serve([sock]))
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        server.should_exit = True
        await task


async def test_uvicorn_serves_the_same(bench: Bench, uvicorn_url: str) -> None:
    async with serving(answering(COOKIES)) as up, httpx.AsyncClient() as client:
        bench.pipeline.table = table([route("r", "/*")], [upstream("up", target(up.port))])
        answer = await client.get(f"{uvicorn_url}/x%2Fy?q=1")
        posted = await client.post(f"{uvicorn_url}/x", content=b"body")
    assert (answer.status_code, answer.text) == (200, "ok")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert up.heads[0].startswith(b"GET /x%2Fy?q=1 HTTP/1.1\r\n")
    assert posted.status_code == 200
    assert [record.outcome for record in bench.records] == ["ok", "ok"]
    assert bench.records[1].bytes_in == 4


async def test_a_client_that_leaves_uvicorn_is_noticed(bench: Bench, uvicorn_url: str) -> None:
    async def hang(wire: Wire) -> None:
        await wire.head()
        await wire.left()

    async with serving(hang) as up:
        bench.pipeline.table = table([route("r", "/*")], [upstream("up", target(up.port), first_byte_timeout_s=30.0)])
        async with httpx.AsyncClient(timeout=0.2) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(uvicorn_url)
        watch = Stopwatch()
        await until(lambda: bench.records)
        await until(lambda: not up.live)
    assert bench.records[0].outcome == "client_closed"
    assert watch.s < 1


async def test_an_answer_that_breaks_off_is_never_completed(bench: Bench, uvicorn_url: str) -> None:
    async def cut(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

    async with serving(cut) as up, httpx.AsyncClient() as client:
        bench.pipeline.table = table([route("r", "/*")], [upstream("up", target(up.port))])
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(uvicorn_url)
        await until(lambda: bench.records)
    assert bench.records[0].outcome == "upstream_broke"


async def test_djangos_own_handler_serves_it_too(bench: Bench) -> None:
    async with serving(answering(COOKIES, OK)) as up:
        bench.pipeline.table = table([route("r", "/*")], [upstream("up", target(up.port))])
        client = AsyncClient()
        answer: Any = await client.get("/some/where")
        body = b"".join([chunk async for chunk in answer])
    assert (answer.status_code, body) == (200, b"ok")
    assert [value for name, value in answer.items() if name == "set-cookie"] == ["a=1", "b=2"]
    assert [record.outcome for record in bench.records] == ["ok"]


async def test_djangos_own_handler_passes_a_body(bench: Bench) -> None:
    async with serving(answering(OK)) as up:
        bench.pipeline.table = table([route("r", "/*")], [upstream("up", target(up.port))])
        answer: Any = await AsyncClient().post("/x", data=b"12345", content_type="text/plain")
        assert b"".join([chunk async for chunk in answer]) == b"ok"
    assert bench.records[0].bytes_in == 5


RESOLVE = """
import django
django.setup()
from django.urls import Resolver404, resolve
for path in ("/admin/", "/orders"):
    try:
        print(path, resolve(path).view_name)
    except Resolver404:
        print(path, "nothing")
"""


@pytest.mark.parametrize(
    ("role", "found"),
    [
        ("all", ["/admin/ admin:index", "/orders gateway.views.proxy"]),
        ("proxy", ["/admin/ gateway.views.proxy", "/orders gateway.views.proxy"]),
        ("admin", ["/admin/ admin:index", "/orders nothing"]),
    ],
)
def test_each_role_has_the_doors_of_its_own(role: str, found: list[str]) -> None:
    environment = {**os.environ, "GATEWAY_ROLE": role}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == found


def test_a_page_without_its_last_slash_is_still_found() -> None:
    answer = Client().get("/dashboard/requests/abc")
    assert (answer.status_code, answer["Location"]) == (301, "/dashboard/requests/abc/")
    assert Client().get("/static/nothing.css").status_code == 404
