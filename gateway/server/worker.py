"""Entry of a worker process: `python -m gateway.server.worker [--app module:attribute] FD...`

The supervisor bound the sockets; they arrive as open descriptors. Django comes in with the application, so a worker of
the `proxy` role never imports what its settings leave out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway import environment
from gateway.server import memory
from gateway.server.child import MUST_SERVE, PATIENCE_S, READY, READY_FD
from gateway.server.limits import Limits
from gateway.server.listener import OnRefused
from gateway.server.recycling import Share, ask_for_recycling
from gateway.server.runner import WorkerServer
from gateway.server.tls import server_context

GATEWAY = "gateway.asgi:application"
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Life:
    """What an application does around its serving."""

    start: Callable[[], Coroutine[Any, Any, None]]
    drain: Callable[[], None]
    stop: Callable[[], Coroutine[Any, Any, None]]
    refused: OnRefused | None = None
    serves: Callable[[], bool] = lambda: True
    tell: Callable[[Callable[[], dict[str, Any]]], None] = lambda state: None  # what the front says for `/status`
    served: Callable[[], int] = lambda: 0  # requests so far


class NothingToServe(Exception):
    """Others serve, and this worker could only send their clients away: it must not take their place."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="gateway.server.worker", description="One worker of a node.")
    parser.add_argument("--app", default=GATEWAY, help="ASGI application (default: %(default)s)")
    parser.add_argument("--tls", type=int, action="append", default=[], metavar="FD", help="likewise, to serve TLS on")
    parser.add_argument("fds", nargs="+", type=int, metavar="FD", help="open descriptor of a bound socket")
    arguments = parser.parse_args()

    memory.begin()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    logging.basicConfig(level=logging.WARNING)  # the gateway's own settings replace it
    settings = environment.load()
    application = _import(arguments.app)
    if settings.role != "proxy":
        importlib.import_module("daphne.ws_protocol")  # a dashboard will ask for it: not while traffic waits
    life = _life(arguments.app)
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        await life.start()
        await something_to_serve(life, os.environ.pop(MUST_SERVE, ""))
        memory.settle()
        told_fd = tell_ready()
        if told_fd >= 0 and (settings.recycle_requests or settings.recycle_mb):
            tasks.append(asyncio.create_task(ask_for_recycling(Share.of(settings), life.served, told_fd)))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await life.stop()

    server = WorkerServer(
        application,
        [socket.socket(fileno=fd) for fd in arguments.fds],
        secure_sockets=[socket.socket(fileno=fd) for fd in arguments.tls],
        ssl_context=server_context(settings.tls_certificates, settings.tls_client_ca) if arguments.tls else None,
        limits=Limits.of(settings),
        on_start=start,
        on_drain=life.drain,
        on_stop=stop,
        on_refused=life.refused,
        trusted=settings.trusted_proxies,
        drain_timeout_s=settings.drain_timeout_s,
        drain_delay_s=settings.drain_delay_s,
    )
    life.tell(server.listener.state)
    try:
        server.run()
    except NothingToServe as error:
        raise SystemExit(f"{error}") from None


async def something_to_serve(life: Life, must: str) -> None:
    """Raises NothingToServe if `must` is "roll"; waits if it is "wait": cheaper than ending and being started again.

    The application goes on looking meanwhile, and the port stays to those that have an answer. But not for ever: what
    is wrong may be the code that this process has loaded.
    """
    if must and not life.serves():
        if must == "roll":
            raise NothingToServe("no configuration that this worker can serve; the others go on with theirs")
        logging.getLogger("gateway.server").warning("nothing to serve yet: leaving the port to the other workers")
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + PATIENCE_S
        while not life.serves():
            if loop.time() > latest_s:
                raise NothingToServe(f"nothing to serve after {PATIENCE_S:g} s")
            await asyncio.sleep(LOOK_S)


def tell_ready() -> int:
    """Once. Returns the descriptor, -1 if there is none; nothing that this process starts inherits it."""
    fd = int(os.environ.pop(READY_FD, "") or -1)
    if fd >= 0:
        os.set_inheritable(fd, False)
        os.write(fd, READY)
    return fd


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _life(app: str) -> Life:
    if app == GATEWAY:
        from gateway import runtime  # needs settings, which `_import` of the application has set up
        from gateway.proxy import metrics

        current = runtime.current()

        def serves() -> bool:
            return current.environment.role == "admin" or current.pipeline.table is not None

        def tell(state: Callable[[], dict[str, Any]]) -> None:
            current.front = state

        return Life(
            current.start, current.begin_drain, current.stop, metrics.refused, serves, tell, lambda: current.served
        )

    async def nothing() -> None: ...

    return Life(nothing, lambda: None, nothing)


if __name__ == "__main__":
    main()
