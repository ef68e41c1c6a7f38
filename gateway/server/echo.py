"""The demo's upstream: an ASGI application that answers every request with what arrived, as JSON.

It shows a newcomer what the gateway sent: the path after the route's rewrite, forwarded headers, the consumer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
BODY_SHOWN_BYTES = 65_536


async def application(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(f"the echo speaks HTTP only, not {scope['type']}")
    shown, size = b"", 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        chunk = message.get("body", b"")
        shown, size = shown + chunk[: BODY_SHOWN_BYTES - len(shown)], size + len(chunk)
        more = message.get("more_body", False)
    answer = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": shown.decode("utf-8", "replace"),
        "body_bytes": size,
    }
    body = json.dumps(answer, indent=2, ensure_ascii=False).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
