"""The application: health on top, the control plane under its reserved prefixes, traffic for everything else."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

import django

django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402

from gateway import runtime, views  # noqa: E402
from gateway.handler import ProxyHandler, ProxyRequest, Receive, Send, send_whole  # noqa: E402

if not settings.PROXY_ONLY:
    from dashboard import sockets

#: In the `all` role these are the control plane's: a route below them compiles, for split roles, but gets nothing here.
CONTROL_PREFIXES = ("/admin/", "/dashboard/", "/static/", "/docs/")


@cache
def _proxy_consumer() -> Any:
    """Channels and the client library are loaded with the first WebSocket: 10 MB that most workers never need."""
    from gateway.sockets import ProxyConsumer

    return ProxyConsumer.as_asgi()


class Application:
    """Plain ASGI 3: runs on our worker, on uvicorn, on stock daphne."""

    def __init__(self, role: str) -> None:
        self._proxy = ProxyHandler()
        self._control_plane = ASGIHandler() if role != "proxy" else None
        self._role = role
        self._probes = {"/health": views.health, "/ready": views.ready}
        self._inside = {"/status": views.status, "/metrics": views.metrics_view}
        self._ours = CONTROL_PREFIXES if role == "all" else ("/",) if role == "admin" else ()
        self._known = frozenset((*self._probes, *self._inside))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "http":
            path = scope["path"]
            if path in self._known or path.startswith(self._ours):
                await self._http(scope, receive, send)
            else:
                await self._proxy(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif self._control_plane and scope["path"] == sockets.PATH:
            await sockets.live(scope, receive, send)
        elif scope["path"].startswith(self._ours):
            await send({"type": "websocket.close", "code": 1008})  # refused with 403
        else:
            await _proxy_consumer()(scope, receive, send)

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        view = self._probes.get(path)
        if view is None and path in self._inside and self._is_inside(scope):
            view = self._inside[path]
        if view is not None:
            await send_whole(await asyncio.to_thread(view, ProxyRequest(scope)), send)
        elif self._control_plane is not None and path.startswith(self._ours):
            await self._control_plane(scope, receive, send)
        else:
            await self._proxy(scope, receive, send)

    def _is_inside(self, scope: Any) -> bool:
        """`/status` and `/metrics` are for operators: never on a proxy node's public port."""
        return self._role != "proxy" or (scope.get("server") or (None, None))[1] == settings.ENVIRONMENT.status_port

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """For servers that have it (uvicorn); our own worker calls the runtime itself."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await runtime.current().start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await runtime.current().stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


application = Application(settings.ENVIRONMENT.role)
