"""A real web hook, over real connections: what it is sent, and what happens when it does not take it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.plugins import attempts
from gateway.plugins.attempts import NotTaken
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished
from tests.upstream import Script, Wire, serving


class Hook:
    """Answers with these statuses in turn, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses or (204,))
        self.bodies: list[bytes] = []
        self.heads: list[dict[str, str]] = []

    async def __call__(self, wire: Wire) -> None:
        while head := await wire.head():
            first, *lines = head.decode().strip().split("\r\n")
            fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            self.heads.append({"": first, **fields})
            self.bodies.append(await wire.body(int(fields["content-length"])))
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            await wire.send(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())


def script(hook: Hook) -> Script:
    return hook


RECORDS = [record_of(finished(id=f"r{number}", status=200 + number)) for number in range(3)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_RETRY_S", 0.005)
    monkeypatch.setattr(attempts, "LONGEST_RETRY_S", 0.02)


def config(port: int, **more: Any) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{port}/in?x=1", **more}


async def test_an_array_of_objects_is_posted(make) -> None:
    hook = Hook()
    async with serving(script(hook)) as service:
        await make("http-log", config(service.port, authorization="Bearer t")).batch(RECORDS)
    [head], [body] = hook.heads, hook.bodies
    assert (head[""], head["content-type"], head["authorization"]) == (
        "POST /in?x=1 HTTP/1.1", "application/json", "Bearer t",
    )  # fmt: skip
    said = json.loads(body)
    assert [one["request_id"] for one in said] == ["r0", "r1", "r2"]
    assert (said[1]["status"], said[1]["path"], said[1]["route"], said[1]["outcome"]) == (
        201,
        "/orders/1",
        "orders",
        "ok",
    )
    assert b"secret" not in body  # the query


async def test_or_lines_of_them(make) -> None:
    hook = Hook(200)
    async with serving(script(hook)) as service:
        await make("http-log", config(service.port, format="ndjson", method="PUT")).batch(RECORDS)
    assert hook.heads[0][""].startswith("PUT ")
    assert hook.heads[0]["content-type"] == "application/x-ndjson"
    assert "authorization" not in hook.heads[0]
    assert [json.loads(line)["request_id"] for line in hook.bodies[0].splitlines()] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("statuses", [(503, 500, 204), (429, 200), (408, 204)])
async def test_what_another_attempt_may_mend_is_sent_again(make, statuses) -> None:
    hook = Hook(*statuses)
    async with serving(script(hook)) as service:
        await make("http-log", config(service.port)).batch(RECORDS)
    assert len(hook.bodies) == len(statuses)
    assert len(set(hook.bodies)) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 302])
async def test_what_it_would_not_mend_is_not(make, status) -> None:
    hook = Hook(status)
    async with serving(script(hook)) as service:
        with pytest.raises(NotTaken, match=f"answered {status}"):
            await make("http-log", config(service.port)).batch(RECORDS)
    assert len(hook.bodies) == 1


async def test_a_web_hook_that_is_away_is_asked_again_until_the_time_is_over(make, clock) -> None:
    async with serving(script(Hook())) as service:
        port = service.port
    plugin = make("http-log", config(port, retry_for_s=30))
    sending = asyncio.ensure_future(plugin.batch(RECORDS))
    done, _ = await asyncio.wait([sending], timeout=0.1)
    assert not done
    clock.now_s += 31
    async with asyncio.timeout(5):
        with pytest.raises(NotTaken, match=f"127.0.0.1:{port}"):
            await sending
    with pytest.raises(NotTaken):
        await make("http-log", config(port, retry_for_s=0)).batch(RECORDS)


def test_batches_are_as_the_config_says(make) -> None:
    plugin = make("http-log", {"url": "https://logs.test", "batch_max": 7, "delay_ms": 250})
    assert (plugin.batch_max, plugin.batch_delay_s) == (7, 0.25)


@pytest.mark.parametrize(
    "config",
    [{}, {"url": "ftp://logs.test"}, {"url": "https://u:p@logs.test"}, {"url": "https://a", "authorization": "a\nb"}],
)
def test_what_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("http-log", config)
