"""daphne's `Server` and Twisted's reactor, on uvloop and without what `memory` leaves out.

Import this before anything that imports `daphne.server` (the Django app `daphne` does): that module makes the loop
and installs the reactor when it is imported. `GATEWAY_UVLOOP=off` keeps the plain asyncio loop.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from gateway.server.memory import lean_import

if os.environ.get("GATEWAY_UVLOOP", "on") != "off":
    try:
        import uvloop
    except ImportError:  # not on every platform
        pass
    else:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

Server: Any = lean_import("daphne.server").Server
lean_import("httpx")

from twisted.internet import reactor as twisted_reactor  # noqa: E402  # only now is it the one on our loop

reactor: Any = twisted_reactor  # a module that is an object: nothing can be typed by it
