"""`/dashboard/live`: frames of the live feed over a WebSocket, for staff who may see usage.

browser → {"rows": true}   also send sampled requests from now on
browser → {"ack": t}       got that frame; who falls too far behind is closed with 1013
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from channels.auth import AuthMiddlewareStack, get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore

from dashboard.live import QUEUE_MAX, Feed, Queue

PATH = "/dashboard/live"
PERMISSION = "dashboard.view_usagerow"
#: Somebody who logged out, or lost the permission, stops seeing after so many frames.
FRAMES_BETWEEN_LOOKS = 15
TRY_AGAIN, NOT_ALLOWED = 1013, 4403

Scope = dict[str, Any]
ASGI = Callable[[Scope, Any, Any], Awaitable[None]]


@cache
def feed() -> Feed:
    return Feed(settings.REDIS_URL)


class LiveConsumer(AsyncJsonWebsocketConsumer):  # channels has no types
    queue: Queue | None = None
    pump: asyncio.Task[None] | None = None
    unanswered = 0  # frames on their way: the server's own buffer would take any number of them

    async def connect(self) -> None:
        if not await self.allowed():
            await self.close()  # before `accept`: the handshake is refused with 403
            return
        await self.accept()
        self.queue = feed().join()
        self.pump = asyncio.create_task(self.pass_on(self.queue), name="live consumer")

    async def disconnect(self, code: int) -> None:
        if self.queue is not None:
            feed().leave(self.queue)
        if self.pump is not None:
            self.pump.cancel()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if not isinstance(content, dict):
            return
        if "ack" in content:
            self.unanswered = 0
        if self.queue is not None and "rows" in content:
            feed().want_rows(self.queue, bool(content["rows"]))

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return await super().decode_json(text_data)
        except ValueError:
            return None

    async def pass_on(self, queue: Queue) -> None:
        frames = 0
        while (frame := await queue.get()) is not None and self.unanswered < QUEUE_MAX:
            frames += 1
            if frames % FRAMES_BETWEEN_LOOKS == 0 and not await self.allowed(again=True):
                await self.close(NOT_ALLOWED)
                return
            self.unanswered += 1
            await self.send_json(frame)
        await self.close(TRY_AGAIN)

    async def allowed(self, again: bool = False) -> bool:
        user = self.scope["user"]
        if again:  # with the session read anew
            user = await get_user({"session": SessionStore(self.scope["session"].session_key)})
        return bool(await database_sync_to_async(_may_see)(user))


def _may_see(user: Any) -> bool:
    return bool(user.is_authenticated and user.is_staff and user.has_perm(PERMISSION))


class SameOrigin:
    """Lets a page of ours open the socket, and nobody else's: a browser sends our cookie along for both.

    Hosts that CSRF_TRUSTED_ORIGINS names are ours, too (a front that rewrites Host). Without an Origin: refused.
    """

    def __init__(self, application: ASGI) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        parts = urlsplit(origin)
        if parts.netloc and (parts.netloc.lower() == host.lower() or origin in settings.CSRF_TRUSTED_ORIGINS):
            await self._application(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


live: ASGI = SameOrigin(AuthMiddlewareStack(LiveConsumer.as_asgi()))
