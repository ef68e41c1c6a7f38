"""An ASGI application for supervisor tests: `/` tells the worker's process id, `/hold?<path>` waits for a file."""

import asyncio
import os
from pathlib import Path


async def application(scope, receive, send):
    body = str(os.getpid()).encode()
    if scope["path"] == "/hold":
        release = Path(scope["query_string"].decode())
        release.with_suffix(".held").touch()
        while not release.exists():
            await asyncio.sleep(0.01)
        body = b"released"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
