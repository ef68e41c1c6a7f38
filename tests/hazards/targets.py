"""Targets that are well and ones that are not, and a gateway before them."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.e2e.gateway import Gateway, route, wait_until
from tests.upstream import Wire, answering, serving

BROKEN = b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"


async def hang(wire: Wire) -> None:
    await wire.left()


@contextmanager
def target(script: Callable[[Wire], Awaitable[None]], port: int = 0) -> Iterator[int]:
    """An upstream in a thread of its own; its port."""
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(script, port=port) as up:
            ports.append(up.port)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
    thread.start()
    wait_until(lambda: ports)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def configure(gateway: Gateway, *ports: int, **fields: Any) -> None:
    up = {"name": "up", "targets": [{"host": "127.0.0.1", "port": port} for port in ports], **fields}
    gateway.configure({"format": 1, "upstreams": [up], "routes": [route("all", "/*", "up")]})


def ask(port: int, times: int, connections: int = 2) -> list[int]:
    """Statuses in the order of the answers, from a few clients with keep-alive."""
    statuses: list[int] = []

    def client(share: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(share):
            connection.request("GET", "/x")
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()

    clients = [threading.Thread(target=client, args=[times // connections]) for _ in range(connections)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(60)
    return statuses


def states(gateway: Gateway) -> dict[int, str]:
    return {int(one["address"].rpartition(":")[2]): one["state"] for one in gateway.get_json("/status")["targets"]}


@contextmanager
def refusing() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else is given."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


BAD: dict[str, Callable[[], Any]] = {
    "fails": lambda: target(answering(BROKEN)), "hangs": lambda: target(hang), "refuses": refusing,
}  # fmt: skip


async def breaks_off(wire: Wire) -> None:
    """A good head, and not all of the body."""
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 1000)


BAD["breaks off"] = lambda: target(breaks_off)


def named(name: str, hits: list[str] | None = None) -> Callable[[Wire], Awaitable[None]]:
    """A target that answers its name."""

    async def script(wire: Wire) -> None:
        while await wire.head():
            if hits is not None:
                hits.append(name)
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(name), name.encode()))

    return script


def ask_anew(
    port: int, times: int, clients: int = 4, headers: dict[str, str] | None = None
) -> list[tuple[int, str, dict[str, str]]]:
    """Status, body and fields in the order of the answers, each over a connection of its own, so of any worker.

    Status 0: the answer broke off.
    """
    answers: list[tuple[int, str, dict[str, str]]] = []

    def client(share: int) -> None:
        for _ in range(share):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.request("GET", "/x", headers=headers or {})
                answer = connection.getresponse()
                answers.append(
                    (answer.status, answer.read().decode(), {name.lower(): text for name, text in answer.getheaders()})
                )
            except (OSError, http.client.HTTPException):
                answers.append((0, "", {}))
            finally:
                connection.close()

    threads = [threading.Thread(target=client, args=[times // clients]) for _ in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    return answers
