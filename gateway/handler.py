"""ProxyHandler: the fast way into the async view. No middleware, signals, threads or tasks; streams both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from io import BytesIO
from typing import Any

from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpResponse

from gateway.proxy.errors import UpstreamError
from gateway.views import ProxyResponse, proxy

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEAD, BODY = "http.response.start", "http.response.body"
_NO_BODY = BytesIO()  # Django wants a file; the view reads the body from `request.receive`


class ProxyRequest(ASGIRequest):
    """Django's own request, except that it leaves the Content-Type alone: parsing it raises on some values, and
    Python's codecs keep every name of a character set they were asked for, so clients could fill the memory with them.
    """

    def _set_content_type_params(self, meta: object) -> None:
        """Nothing here reads the body."""


class ProxyHandler(ASGIHandler):
    """An ASGI application. Our server's scope extensions `hydragate.disconnect` and `hydragate.abort` save a watcher
    task and make a broken answer visible; on any other ASGI server the plain protocol does the same, a little later."""

    def __init__(self) -> None:
        """No middleware chain is loaded, on purpose."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = ProxyRequest(scope, _NO_BODY)
        request.receive = receive  # type: ignore[attr-defined]
        task = asyncio.current_task()
        assert task is not None
        extensions = scope.get("extensions") or {}
        watcher = None
        if (on_disconnect := extensions.get("hydragate.disconnect")) is not None:
            on_disconnect(task.cancel)
        elif request.META.get("CONTENT_LENGTH", "0") in ("", "0") and "HTTP_TRANSFER_ENCODING" not in request.META:
            watcher = asyncio.create_task(_watch(receive, task))
        try:
            response = await proxy(request)
            await self._send(response, send, extensions.get("hydragate.abort"))
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _send(self, response: ProxyResponse, send: Send, abort: Callable[[], None] | None) -> None:
        exchange, outcome = response.exchange, "client_closed"
        try:
            await send({"type": HEAD, "status": exchange.status, "headers": exchange.response_headers})
            body = exchange.answer_body
            if isinstance(body, bytes):
                exchange.bytes_out = len(body)
                await send({"type": BODY, "body": body})
            else:
                await send({"type": BODY, "body": b"", "more_body": True})  # a slow stream's head must not wait
                async with aclosing(response.chunks()) as chunks:
                    async for chunk in chunks:
                        await send({"type": BODY, "body": chunk, "more_body": True})
                await send({"type": BODY, "body": b""})
            outcome = "ok"
        except UpstreamError:
            if abort is None:
                raise  # the server closes the connection on an application that fails
            abort()
        except OSError:  # the client has left (ASGI 2.4)
            raise
        except Exception:  # a plugin made an answer that cannot be sent
            outcome = "internal_error"
            raise
        finally:
            await response.pipeline.finish(exchange, outcome)


async def _watch(receive: Receive, task: asyncio.Task[Any]) -> None:
    """For servers without our extension: cancel the request when its client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def send_whole(response: HttpResponse, send: Send) -> None:
    """A small finished response of the control plane, past all middleware: for health checks and metrics."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    headers.append((b"content-length", b"%d" % len(response.content)))
    await send({"type": HEAD, "status": response.status_code, "headers": headers})
    await send({"type": BODY, "body": response.content})
