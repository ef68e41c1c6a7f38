"""Two workers, real clients, a real upstream: the admin API lists what is open in both, and a close reaches the one."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from keys.secrets import SHOWN_CHARS
from tests.e2e.gateway import Gateway, free_port, route, upstream
from tests.running import Stopwatch

GATEWAY_WORKERS = 2
DISABLE = "from keys.models import Consumer as C; c = C.objects.get(username='mallory'); c.enabled = False; c.save()"
CLIENTS_MAX = 60
SHOWN = len("hg_live_") + SHOWN_CHARS  # of a key, its prefix


class Chat:
    """Echoes; `/open/flood` pours. `ended`: close code and reason of each that has ended, by its first message."""

    def __init__(self) -> None:
        self.ended: dict[str, tuple[int | None, str | None]] = {}

    async def handle(self, socket: ServerConnection) -> None:
        name = ""
        try:
            async for message in socket:
                name = name or str(message)
                await socket.send(message)
                while socket.request is not None and socket.request.path == "/open/flood":
                    await socket.send(b"x" * 100_000)
        except ConnectionClosed:
            pass
        finally:
            await socket.wait_closed()
            self.ended[name] = (socket.close_code, socket.close_reason)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def api(gateway: Gateway, port: int) -> Iterator[httpx.Client]:
    gateway.manage("prepare")
    token = gateway.manage("token", "create", "--user", "admin", "--scopes", "write", "--quiet").strip()
    gateway.configure({
        "format": 1,
        "upstreams": [upstream("chat", port)],
        "routes": [route("chat", "/chat/*", "chat"), route("open", "/open/*", "chat")],
        "plugins": [{"name": "key-auth", "route": "chat"}],
    })  # fmt: skip
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{gateway.url}/admin/v1", headers=headers, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def keys(gateway: Gateway, api: httpx.Client) -> dict[str, str]:
    return {name: gateway.key(name) for name in ("ann", "bob")}


@pytest.fixture
async def chat(port: int) -> AsyncIterator[Chat]:
    chat = Chat()
    async with serve(chat.handle, "127.0.0.1", port, max_size=None):
        yield chat


class Clients:
    """Named; the name is the first message."""

    def __init__(self, gateway: Gateway, keys: dict[str, str]) -> None:
        self._url, self._keys = f"ws://127.0.0.1:{gateway.port}", keys
        self.open: dict[str, ClientConnection] = {}

    async def join(self, name: str, who: str = "", path: str = "/chat/1?token=secret") -> ClientConnection:
        headers = {"apikey": self._keys[who]} if who else {}
        socket = await connect(self._url + path, additional_headers=headers, max_size=None)
        await socket.send(name)
        assert await socket.recv() == name
        self.open[name] = socket
        return socket

    async def leave(self) -> None:
        for socket in self.open.values():
            socket.transport.abort()


@pytest.fixture
async def clients(gateway: Gateway, keys: dict[str, str], chat: Chat, api: httpx.Client) -> AsyncIterator[Clients]:
    clients = Clients(gateway, keys)
    yield clients
    await clients.leave()
    await until(lambda: not listed(api)["count"])


async def until(condition: Any, timeout_s: float = 10.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := await asyncio.to_thread(condition)):
            await asyncio.sleep(0.02)
        return value


def listed(api: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = api.get("/websockets", params={"limit": 499, **query})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def ended(socket: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(10):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


async def in_both(clients: Clients, api: httpx.Client) -> dict[int, list[str]]:
    """Joins until each worker has two: which of them gets a connection is the kernel's choice."""
    for number in range(CLIENTS_MAX):
        await clients.join(f"c{number}", "ann" if number % 2 else "bob")
        found: dict[int, list[str]] = {}
        for item in (await asyncio.to_thread(listed, api))["items"]:
            found.setdefault(item["worker"], []).append(item["id"])
        if len(found) == 2 and min(map(len, found.values())) > 1:
            return found
    raise AssertionError("one worker got everything")


async def test_both_workers_are_listed_and_a_close_reaches_the_one(
    gateway: Gateway, clients: Clients, chat: Chat, api: httpx.Client
) -> None:
    found = await in_both(clients, api)
    everything = listed(api)
    assert (everything["count"], everything["silent"]) == (len(clients.open), [])
    assert {item["consumer"] for item in everything["items"]} == {"ann", "bob"}
    told = {(item["route"], item["path"], item["messages_in"], item["messages_out"]) for item in everything["items"]}
    assert told == {("chat", "/chat/1", 1, 1)}
    for worker, ids in found.items():
        answer = api.post(f"/websockets/{ids[0]}/close", json={"code": 4000, "reason": f"worker {worker}"})
        assert (answer.status_code, answer.json()["count"]) == (200, 1)
        gone = await until(lambda: [name for name, socket in clients.open.items() if socket.close_code])
        assert [await ended(clients.open.pop(name)) for name in gone] == [(4000, f"worker {worker}")]
        assert await until(lambda gone=gone: chat.ended.get(gone[0])) == (4000, f"worker {worker}")
    assert all(socket.close_code is None for socket in clients.open.values())
    details = "SELECT detail FROM usage_row WHERE detail LIKE '%%closed with 4000 by admin'"
    await until(lambda: len(gateway.query(details)) == 2)


async def test_those_of_a_consumer_are_closed_in_both(clients: Clients, api: httpx.Client) -> None:
    await in_both(clients, api)
    of_ann = [name for name in clients.open if int(name[1:]) % 2]
    answer = api.post("/websockets/close", json={"consumer": "ann"})
    assert answer.json()["count"] == len(of_ann)
    assert {await ended(clients.open.pop(name)) for name in of_ann} == {(1001, "")}
    left = listed(api)
    assert (left["count"], {item["consumer"] for item in left["items"]}) == (len(clients.open), {"bob"})


async def test_whose_key_is_revoked_may_not_stay(clients: Clients, gateway: Gateway, keys: dict[str, str]) -> None:
    keys["eve"] = gateway.key("eve")
    sockets = [await clients.join(f"eve{number}", "eve") for number in range(6)]
    other = await clients.join("other", "ann")
    watch = Stopwatch()
    await asyncio.to_thread(gateway.manage, "key", "revoke", keys["eve"][:SHOWN])
    reason = "Your credential does not count any more."
    assert {await ended(socket) for socket in sockets} == {(1008, reason)}
    assert watch.s < 4  # the command, and 2 s
    await other.send("still")
    assert await other.recv() == "still"
    for number in range(6):
        del clients.open[f"eve{number}"]
    details = "SELECT detail FROM usage_row WHERE detail LIKE '%%closed with 1008 by the gateway'"
    await until(lambda: len(gateway.query(details)) == 6)


async def test_nor_may_who_is_disabled(clients: Clients, gateway: Gateway, keys: dict[str, str]) -> None:
    keys["mallory"] = gateway.key("mallory")
    socket = await clients.join("mallory", "mallory")
    await asyncio.to_thread(gateway.manage, "shell", "-v", "0", "-c", DISABLE)
    assert (await ended(socket))[0] == 1008
    del clients.open["mallory"]


async def test_who_does_not_listen_is_cut_off(clients: Clients, chat: Chat, api: httpx.Client) -> None:
    """A client that reads nothing cannot answer a close frame: its connection is gone a second later all the same."""
    socket = await clients.join("deaf", path="/open/flood")
    (item,) = await until(lambda: listed(api, route="open")["items"])
    socket.transport.pause_reading()
    assert api.post(f"/websockets/{item['id']}/close", json={}).status_code == 200
    await until(lambda: not listed(api)["count"], 15.0)
    await until(lambda: "deaf" in chat.ended, 15.0)  # it pours, and so does not hear us either: that takes five seconds


async def test_a_worker_that_hangs_is_named_and_waited_for_half_a_second(
    gateway: Gateway, clients: Clients, api: httpx.Client
) -> None:
    """The one that answers us must be the other: so each call has a connection of its own, and one of some is lucky."""
    by_worker: dict[int, int] = {}
    while len(by_worker) < 2:
        one = await asyncio.to_thread(gateway.get_json, "/status")
        by_worker[one["worker"]] = one["pid"]
    worker, pid = next(iter(by_worker.items()))
    with httpx.Client(base_url=api.base_url, headers=api.headers, timeout=10) as waiting:
        # A connection that the other worker has accepted.
        while True:
            if waiting.get(f"{gateway.url}/status").json()["worker"] != worker:
                break
            waiting._transport.close()
        os.kill(pid, signal.SIGSTOP)
        revive = threading.Timer(4.0, os.kill, (pid, signal.SIGCONT))  # whatever happens to this test
        revive.start()
        try:
            begun_s, watch = time.monotonic(), Stopwatch()
            answer = waiting.get("/websockets").json()
            took_s, at_most_s = time.monotonic() - begun_s, watch.s
        finally:
            os.kill(pid, signal.SIGCONT)
            revive.cancel()
    assert [name.rpartition("/")[2] for name in answer["silent"]] == [str(worker)]
    assert took_s > 0.45
    assert at_most_s < 2.0


async def test_an_open_circuit_refuses_handshakes_at_once(gateway: Gateway, api: httpx.Client) -> None:
    """Nobody listens at the target: each worker opens its own circuit."""
    fields = {"breaker_error_percent": 50, "breaker_min_requests": 2, "breaker_open_ms": 60_000, "eject_after": 0}
    target = {"host": "127.0.0.1", "port": free_port()}
    made = api.post("/upstreams?wait=1", json={"name": "dead", "targets": [target], "retries": 0, **fields})
    assert made.status_code == 201, made.text
    api.post("/routes?wait=1", json={"name": "dead", "paths": ["/dead"], "upstreams": [{"name": "dead"}]})

    async def refused() -> Any:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{gateway.port}/dead")
        return caught.value.response

    async with asyncio.timeout(20):
        while (answer := await refused()).status_code != 503:
            assert answer.status_code == 502
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert b'"code": "circuit_open"' in answer.body
    (told,) = [one for one in api.get("/status").json()["upstreams"] if one["name"] == "dead"]
    assert told["guard"]["circuit"] == "open"
