"""The smallest ASGI application: what stock daphne costs before anybody has written a line."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import SMALL

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(SMALL))]


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": SMALL})
