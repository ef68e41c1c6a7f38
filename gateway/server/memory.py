"""What a worker keeps out of its memory, which every worker holds anew.

daphne's server imports autobahn for WebSockets, Twisted imports pyOpenSSL for a TLS that our own listener does without
and h2 for an HTTP/2 that nobody speaks to it, and httpx imports its command line (rich, pygments, click) and brotli:
26 MB together. The first comes at the first upgrade, the others never, or when somebody asks for them. `None` in
`sys.modules` is Python's own way to say that a module cannot be imported, and all of these importers have an answer to
that, for these are optional packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

_WEBSOCKETS, _OURS = "daphne.ws_protocol", "gateway.server.wsprotocol"
_NEVER: Mapping[str, None] = dict.fromkeys(("OpenSSL", "h2", "httpx._main", "brotli", "brotlicffi", "zstandard"))


class LateFactory:
    """daphne's `WebSocketFactory`, made when the first connection asks for it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._arguments, self._named = arguments, named
        self._options: dict[str, Any] = {}

    def setProtocolOptions(self, **options: Any) -> None:
        self._options |= options

    def buildProtocol(self, address: object) -> Any:
        return self.made.buildProtocol(address)

    @cached_property
    def made(self) -> Any:
        with instead(_NEVER):
            module = importlib.import_module(_WEBSOCKETS)
        factory = module.WebSocketFactory(*self._arguments, **self._named)
        factory.protocol = importlib.import_module(_OURS).GatewayWebSocket
        # A client that breaks the rules is told so by a close frame (RFC 6455 §7.1.7), not just cut off.
        factory.setProtocolOptions(**self._options, failByDrop=False, echoCloseCodeReason=True)
        return factory


def lean_import(name: str) -> ModuleType:
    """As `importlib.import_module`, but what we leave out does not exist meanwhile. Later it does, for whoever asks."""
    stand_in: Any = ModuleType(_WEBSOCKETS)
    stand_in.WebSocketFactory = LateFactory
    with instead({**_NEVER, _WEBSOCKETS: stand_in}):
        return importlib.import_module(name)


@contextlib.contextmanager
def instead(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Whatever is imported meanwhile finds these under their names, unless the real ones are there already."""
    placed: dict[str, Any] = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name in placed:
            del sys.modules[name]


def begin() -> None:
    """Before a start: what is imported stays, so looking for rubbish meanwhile is a sixth of it for nothing."""
    gc.set_threshold(50_000, 10, 20)


def settle() -> None:
    """After a start: what is there stays, so the collector need not look at it; what is free goes back to the system
    (compiling modules that have no bytecode on disk leaves 12 MB). A request that goes well leaves no cycles:
    looking for some after every 700 objects, as Python does, is 5 % of its cost. One that fails leaves none of ours
    either (`tests/hazards/test_cycles.py`), but what it used may: so the thresholds are not larger still."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 20)
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc
        trim(0)
