"""A worker for test_runner.py: `python -m tests.server.worker FD`, serving a plain ASGI application."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

from gateway.server.limits import Limits
from gateway.server.runner import WorkerServer

from tests.server.front import read_body  # isort: skip


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await chat(scope, receive, send)
        return
    body = await read_body(receive)
    if scope["path"] == "/slow":
        say("slow")
        await asyncio.sleep(1.0)
    if scope["path"] == "/stuck":
        say("stuck")
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-loop", loop_name())]})
    await send({"type": "http.response.body", "body": b"got " + body})


async def chat(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/late":
        say("late")
        await asyncio.sleep(0.5)  # an upstream's own slowness
        await send({"type": "websocket.accept"})
        say("websocket closed", (await receive())["code"])
        return
    await send({"type": "websocket.accept"})
    if scope["path"] == "/broken":
        raise ValueError("boom")
    seen = {key: scope[key] for key in ("path", "root_path", "scheme", "subprotocols", "client")}
    seen["headers"] = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    seen |= {key: scope[key].decode() for key in ("raw_path", "query_string")}
    await send({"type": "websocket.send", "text": json.dumps(seen)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    say("websocket closed", message["code"])


def loop_name() -> bytes:
    return type(asyncio.get_running_loop()).__module__.encode()


async def on_start() -> None:
    say("start")
    if os.environ.get("NEVER_STARTS"):
        await asyncio.Event().wait()


async def on_stop() -> None:
    say("stop")


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    timeout_s = float(sys.argv[2])
    limits = Limits(**json.loads(os.environ.get("LIMITS", "{}")))
    server = WorkerServer(
        application, [sock], limits=limits, on_start=on_start, on_drain=lambda: say("drain"), on_stop=on_stop,
        on_refused=lambda status, code, client: say("refused", code), drain_timeout_s=timeout_s,
    )  # fmt: skip
    server.run()
    say("end", server.active_requests, server.open_connections)


if __name__ == "__main__":
    main()
