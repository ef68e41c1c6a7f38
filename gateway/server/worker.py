"""Entry of a worker process: `python -m gateway.server.worker [--app module:attribute] FD...`

The supervisor bound the sockets; they arrive as open descriptors. Django comes in with the application, so a worker of
the `proxy` role never imports what its settings leave out.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from gateway import environment
from gateway.server import memory
from gateway.server.child import MUST_SERVE, READY_FD
from gateway.server.limits import Limits
from gateway.server.listener import OnRefused
from gateway.server.runner import WorkerServer

GATEWAY = "gateway.asgi:application"


@dataclass(frozen=True, slots=True)
class Life:
    """What an application does around its serving."""

    start: Callable[[], Coroutine[Any, Any, None]]
    drain: Callable[[], None]
    stop: Callable[[], Coroutine[Any, Any, None]]
    refused: OnRefused | None = None
    serves: Callable[[], bool] = lambda: True
    tell: Callable[[Callable[[], dict[str, Any]]], None] = lambda state: None  # what the front says for `/status`


class NothingToServe(Exception):
    """Others serve, and this worker could only send their clients away: it must not take their place."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="gateway.server.worker", description="One worker of a node.")
    parser.add_argument("--app", default=GATEWAY, help="ASGI application (default: %(default)s)")
    parser.add_argument("fds", nargs="+", type=int, metavar="FD", help="open descriptor of a bound socket")
    arguments = parser.parse_args()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    logging.basicConfig(level=logging.WARNING)  # the gateway's own settings replace it
    settings = environment.load()
    application = _import(arguments.app)
    if settings.role != "proxy":
        importlib.import_module("daphne.ws_protocol")  # a dashboard will ask for it: not while traffic waits
    life = _life(arguments.app)

    async def start() -> None:
        await life.start()
        if os.environ.pop(MUST_SERVE, "") and not life.serves():
            raise NothingToServe("no configuration that this worker can serve; the others go on with theirs")
        memory.settle()
        tell_ready()

    server = WorkerServer(
        application,
        [socket.socket(fileno=fd) for fd in arguments.fds],
        limits=Limits.of(settings),
        on_start=start,
        on_drain=life.drain,
        on_stop=life.stop,
        on_refused=life.refused,
        trusted=settings.trusted_proxies,
        drain_timeout_s=settings.drain_timeout_s,
    )
    life.tell(server.listener.state)
    try:
        server.run()
    except NothingToServe as error:
        raise SystemExit(f"{error}") from None


def tell_ready() -> None:
    """Once: the descriptor is closed, and nothing that this process starts inherits its number."""
    if fd := os.environ.pop(READY_FD, ""):
        os.write(int(fd), b"1")
        os.close(int(fd))


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

        return Life(current.start, current.begin_drain, current.stop, metrics.refused, serves, tell)

    async def nothing() -> None: ...

    return Life(nothing, lambda: None, nothing)


if __name__ == "__main__":
    main()
