"""ProxyHandler: the fast way into the async view. No middleware, signals, threads or tasks; streams both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from io import BytesIO
from typing import TYPE_CHECKING, Any

from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpResponse

from gateway.proxy.errors import UpstreamError
from gateway.views import ProxyResponse, proxy

if TYPE_CHECKING:
    from gateway.server.cycle import Cycle

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEAD, BODY = "http.response.start", "http.response.body"
#: What Django's constructor sets.
_PARSED = frozenset({
    "META", "_post_parse_error", "_read_started", "_stream", "method", "path", "path_info", "resolver_match",
    "script_name",
})  # fmt: skip


class ProxyRequest(ASGIRequest):
    """Django's own request, parsed when somebody asks: our view reads the scope, and the body from `receive`.

    It leaves the Content-Type alone: parsing it raises on some values, and Python's codecs keep every name of a
    character set they were asked for, so clients could fill the memory with them.
    """

    # What our own server can do: 103 to the client, and a body that is all there without waiting.
    early_hints: Callable[[list[bytes]], None] | None = None
    at_once: Callable[[int], bytes | None] | None = None

    def __init__(self, scope: Any, receive: Receive | None = None) -> None:
        self.scope = scope
        self.receive = receive

    def __getattr__(self, name: str) -> Any:
        if name not in _PARSED:
            raise AttributeError(name)
        super().__init__(self.scope, BytesIO())  # Django wants a file
        return self.__dict__[name]

    def _set_content_type_params(self, meta: object) -> None:
        """Nothing here reads the body."""


class ProxyHandler(ASGIHandler):
    """An ASGI application. Our server's scope extension `hydragate.cycle` saves a watcher task and an await, and makes
    a broken answer visible; on any other ASGI server the plain protocol does the same, a little later."""

    def __init__(self) -> None:
        """No middleware chain is loaded, on purpose."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = ProxyRequest(scope, receive)
        extensions = scope.get("extensions")
        cycle: Cycle | None = extensions.get("hydragate.cycle") if extensions else None
        if cycle is not None:
            cycle.cancel_with_client()
            request.early_hints, request.at_once = cycle.early_hints, cycle.at_once
            await self._send(await proxy(request), send, cycle)
            return
        watcher = None
        if request.META.get("CONTENT_LENGTH", "0") in ("", "0") and "HTTP_TRANSFER_ENCODING" not in request.META:
            task = asyncio.current_task()
            assert task is not None
            watcher = asyncio.create_task(_watch(receive, task))
        try:
            await self._send(await proxy(request), send, None)
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _send(self, response: ProxyResponse, send: Send, cycle: Cycle | None) -> None:
        exchange, outcome = response.exchange, "client_closed"
        try:
            body = exchange.answer_body
            if cycle is not None and isinstance(body, bytes):
                exchange.bytes_out = len(body)
                assert exchange.response_headers is not None
                await cycle.answer(exchange.status, exchange.response_headers, body)
            elif isinstance(body, bytes):
                exchange.bytes_out = len(body)
                await send({"type": HEAD, "status": exchange.status, "headers": exchange.response_headers})
                await send({"type": BODY, "body": body})
            else:
                await send({"type": HEAD, "status": exchange.status, "headers": exchange.response_headers})
                await send({"type": BODY, "body": b"", "more_body": True})  # a slow stream's head must not wait
                if cycle is not None and exchange.end is not None:
                    cycle.on_drain(exchange.end)
                async with aclosing(response.chunks()) as chunks:
                    async for chunk in chunks:
                        await send({"type": BODY, "body": chunk, "more_body": True})
                await send({"type": BODY, "body": b""})
            outcome = "ok"
        except UpstreamError:
            if cycle is None:
                raise  # the server closes the connection on an application that fails
            cycle.abort()
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
