"""httpx' own transport, for upstreams that ask for it: HTTP/2 above all. The same contract as `transport.py`.

    request ─► place (bounded, with a bounded line) ─► task ─► Generation: an httpx.AsyncHTTPTransport ─► StockAnswer

What lies below httpx loses a connection whose opening is cancelled, so nobody cancels one: until the first byte of a
request is sent it runs on in a task of its own, and ends there if nobody waits for it any more. It also loses one whose
closing is cancelled, and in HTTP/2 the answer of a request that was given up still comes and is counted against the
connection for ever: such a generation gets no further requests, and is closed when the last of its own has ended. The
next request begins another.

Looser than ours: an answer that comes while the request's body is still being sent is not seen before the body's end;
the limit for the head starts again with each piece of it; a lost keep-alive race counts as one of the upstream's
retries. In HTTP/2 one request that runs into a time limit ends all that share its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import inf
from typing import TYPE_CHECKING, Any

import httpx

from .certificates import tls_context
from .errors import BadRequest, ConnectFailed, GatewayError, UpstreamBroke, UpstreamBusy, UpstreamError, UpstreamTimeout
from .fence import FENCE, Fence
from .headers import Pairs
from .messages import IDEMPOTENT, NO_BODY, UpstreamResponse, body_of
from .pool import KEEP_ALIVE_S, MAX_WAITING, Timeouts
from .snapshot import TargetSpec, UpstreamSpec

if TYPE_CHECKING:
    import httpcore  # httpx loads it with the first upstream that asks for it: 6 MB

#: HTTP/2 has no such fields (RFC 9113 §8.2.2); `host` and `transfer-encoding` httpcore takes out itself.
_NOT_IN_HTTP2 = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})
_left: set[asyncio.Task[Any]] = set()  # that nobody waits for; a loop forgets tasks that nobody holds


class Generation:
    """A pool of httpx', and how many requests are in it."""

    def __init__(self, target: TargetSpec, upstream: UpstreamSpec, keep_alive_s: float) -> None:
        self.in_flight = 0
        tls = upstream.protocol == "https"
        self.transport = httpx.AsyncHTTPTransport(
            verify=tls_context(upstream.tls, http2=upstream.http2) if tls else False,
            http1=tls or not upstream.http2,
            http2=upstream.http2,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=upstream.max_connections, keepalive_expiry=keep_alive_s
            ),
            uds=target.host[5:] if target.host.startswith("unix:") else None,
        )


class StockTransport(httpx.AsyncBaseTransport):
    """Sends to one target."""

    def __init__(
        self,
        target: TargetSpec,
        upstream: UpstreamSpec,
        *,
        timeouts: Timeouts | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
        max_waiting: int = MAX_WAITING,
        fence: Fence = FENCE,
    ) -> None:
        self._target, self._upstream = target, upstream
        self.timeouts = timeouts or Timeouts.of(upstream)
        self._keep_alive_s, self._max_waiting, self._fence = keep_alive_s, max_waiting, fence
        self._places = asyncio.Semaphore(upstream.max_connections)
        self._generation: Generation | None = None
        self._closed = False
        self.waiting = 0
        local = target.host.startswith("unix:")
        self._url = httpx.URL(
            scheme=upstream.protocol, host="localhost" if local else target.host, port=target.port or None
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pairs = request.headers.raw
        body, length = (None, 0) if request.stream is NO_BODY else body_of(request.stream, pairs)
        deadline_s: float = request.extensions.get("deadline_s", inf)
        if self.timeouts.total_s:
            deadline_s = min(deadline_s, asyncio.get_running_loop().time() + self.timeouts.total_s)
        await self._take_place(deadline_s)
        sending = Sending(self, body, length, deadline_s, body is None and request.method in IDEMPOTENT)
        task = asyncio.get_running_loop().create_task(self._send(self._restated(request, sending), sending))
        try:
            async with asyncio.timeout_at(_moment(deadline_s)):
                return await asyncio.shield(task)
        except BaseException as error:
            await sending.give_up(task)
            if (ours := sending.translated(error)) is error:
                raise
            raise ours from error

    async def _send(self, request: httpx.Request, sending: Sending) -> httpx.Response:
        try:
            response = await sending.generation.transport.handle_async_request(request)
            pairs = [(name.lower(), value) for name, value in response.headers.raw]
            lengths = [name for name, _ in pairs if name in (b"content-length", b"transfer-encoding")]
            if len(lengths) > 1 or response.status_code == 101:  # RFC 9112 §6.3; an upgrade, which nobody asked for
                await response.aclose()
                raise UpstreamBroke("The upstream sent an invalid answer.")
        except BaseException as error:
            await sending.end(error)
            raise
        sending.limits["read"] = self.timeouts.idle_s
        sending.answered = True
        return UpstreamResponse(response.status_code, pairs, StockAnswer(response, sending), None)

    def _restated(self, request: httpx.Request, sending: Sending) -> httpx.Request:
        """For httpx: an address, time limits, and a body that is watched."""
        pairs: Pairs = request.headers.raw
        if self._upstream.http2:
            pairs = [pair for pair in pairs if pair[0] not in _NOT_IN_HTTP2]
        extensions = {"target": request.extensions["target"], "timeout": sending.limits, "trace": sending.trace}
        if name := self._upstream.tls.server_name or self._target.name:
            extensions["sni_hostname"] = name
        stream = NO_BODY if sending.body is None else sending
        return httpx.Request(request.method, self._url, headers=pairs, stream=stream, extensions=extensions)

    async def check(self, stream: httpcore.AsyncNetworkStream) -> None:
        """Of a connection just made, before a byte is sent. Raises UpstreamForbidden."""
        place = stream.get_extra_info("server_addr")
        if isinstance(place, tuple):  # a unix socket has a text
            try:
                self._fence.check(place[0], place[1], self._target.host)
            except UpstreamError:
                await stream.aclose()
                raise

    async def _take_place(self, deadline_s: float) -> None:
        """Raises UpstreamBusy."""
        if self._places.locked() and self.waiting >= self._max_waiting:
            raise _unsent(UpstreamBusy())
        self.waiting += 1
        try:
            until_s = min(asyncio.get_running_loop().time() + self.timeouts.pool_s, deadline_s)
            async with asyncio.timeout_at(until_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise _unsent(UpstreamBusy()) from error
        finally:
            self.waiting -= 1

    def enter(self) -> Generation:
        generation = self._generation or Generation(self._target, self._upstream, self._keep_alive_s)
        self._generation = None if self._closed else generation
        generation.in_flight += 1
        return generation

    async def leave(self, generation: Generation, spoilt: bool) -> None:
        self._places.release()
        generation.in_flight -= 1
        if spoilt and generation is self._generation:
            self._generation = None
        if generation is not self._generation and not generation.in_flight:
            await generation.transport.aclose()

    def close(self) -> None:
        """Closes idle connections; those in use are closed when done."""
        generation, self._generation, self._closed = self._generation, None, True
        if generation is not None and not generation.in_flight:
            _leave_alone(asyncio.get_running_loop().create_task(generation.transport.aclose()))

    async def aclose(self) -> None:
        generation, self._generation, self._closed = self._generation, None, True
        if generation is not None and not generation.in_flight:
            await generation.transport.aclose()

    @property
    def http2(self) -> bool:
        return self._upstream.http2


class Sending(httpx.AsyncByteStream):
    """One request in a generation, until its answer has ended; also the stream of its body."""

    def __init__(
        self, owner: StockTransport, body: httpx.AsyncByteStream | None, length: int | None, deadline_s: float,
        replayable: bool,
    ) -> None:  # fmt: skip
        self._owner, self.generation = owner, owner.enter()
        self.body, self._length, self.deadline_s, self._replayable = body, length, deadline_s, replayable
        times = owner.timeouts
        self.limits = {"connect": times.connect_s, "read": times.first_byte_s, "write": times.idle_s, "pool": None}
        self.answered = self._begun = self._given_up = self._unclosed = self._ended = False
        self._own: BaseException | None = None  # raised by the body

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore tells what it does, and takes what is raised here as raised there."""
        if event.endswith("send_request_headers.started"):
            if self._given_up:
                raise asyncio.CancelledError
            self._begun = True
        elif event.endswith("connect_tcp.complete"):
            await self._owner.check(info["return_value"])
        elif event.endswith("response_closed.started"):
            self._unclosed = True
        elif event.endswith("response_closed.complete"):
            self._unclosed = False

    async def give_up(self, task: asyncio.Task[httpx.Response]) -> None:
        """Nobody waits for the head any more, unless it was `task` itself that failed."""
        self._given_up = True
        if self._begun and not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.done():
            _leave_alone(task)
        elif not task.cancelled() and task.exception() is None:  # an answer in the last moment
            await task.result().stream.aclose()  # type: ignore[union-attr]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert self.body is not None
        left = inf if self._length is None else self._length
        try:
            async for chunk in self.body:
                left -= len(chunk)
                if left < 0:
                    break
                if chunk:
                    yield chunk
                if not left:
                    break
            if self._length is not None and left:
                raise BadRequest("The request body is not as long as its Content-Length says.")
        except Exception as error:
            self._own = error
            raise

    async def end(self, error: BaseException | None = None) -> None:
        """Of the answer, or of waiting for it. `error`: why it came before its time."""
        if self._ended:
            return
        self._ended = True
        await self._owner.leave(
            self.generation, spoilt=self._unclosed or (error is not None and self._begun and self._owner.http2)
        )

    def translated(self, error: BaseException) -> BaseException:
        """The error as the tree in `errors.py` has it; what is not the upstream's doing as it is."""
        if error is self._own or not isinstance(error, Exception):
            return error
        ours = error if isinstance(error, UpstreamError) else self._upstream_error(error)
        if isinstance(ours, UpstreamError):
            ours.safe_to_retry = ours.safe_to_retry or not self._begun or self._replayable
        return ours

    def _upstream_error(self, error: Exception) -> GatewayError:
        match error:
            case GatewayError():
                return error
            case TimeoutError():  # asyncio's; httpx has classes of its own
                return _late("total")
            case httpx.ConnectTimeout():
                return _late("connect")
            case httpx.WriteTimeout():
                return _late("send")
            case httpx.ReadTimeout():
                return _late("idle" if self.answered else "first_byte")
            case httpx.ConnectError():
                return ConnectFailed()
            case httpx.LocalProtocolError() if not self.answered:
                return GatewayError("The request for the upstream cannot be written as HTTP.")
        return UpstreamBroke()  # whatever httpx, and what lies below it, makes of an upstream's bytes


class StockAnswer(httpx.AsyncByteStream):
    """As `answer.AnswerStream` says. Never `whole`: httpx tells only by reading on."""

    def __init__(self, response: httpx.Response, sending: Sending) -> None:
        self._response, self._sending = response, sending
        self._chunks = aiter(response.stream)  # type: ignore[arg-type]
        self._deadline_s = _moment(sending.deadline_s)
        self._complete = False
        self.failure: UpstreamError | None = None

    def whole(self) -> bytes | None:
        return None

    def __aiter__(self) -> StockAnswer:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await anext(self._chunks)
        except StopAsyncIteration:
            self._complete = True
            await self.aclose()
            raise
        except BaseException as error:
            await self._close(error)
            ours = self._sending.translated(error)
            self.failure = ours if isinstance(ours, UpstreamError) else None
            if ours is error:
                raise
            raise ours from error

    async def aclose(self) -> None:
        """Closed before its end, an answer takes its connection with it."""
        await self._close(None if self._complete else UpstreamBroke("The answer was closed before its end."))

    async def _close(self, error: BaseException | None) -> None:
        """Also where the caller is cancelled meanwhile: httpcore would never hear that the request has ended."""
        task = asyncio.get_running_loop().create_task(self._let_go(error))
        _leave_alone(task)
        await asyncio.shield(task)

    async def _let_go(self, error: BaseException | None) -> None:
        try:
            await self._response.stream.aclose()  # type: ignore[union-attr]
            await self._chunks.aclose()  # type: ignore[attr-defined]
        finally:
            await self._sending.end(error)


def _leave_alone(task: asyncio.Task[Any]) -> None:
    _left.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # looked at: how it failed is no news to anybody


def _moment(deadline_s: float) -> float | None:
    return None if deadline_s == inf else deadline_s


def _unsent(error: UpstreamError) -> UpstreamError:
    error.safe_to_retry = True
    return error


def _late(phase: str) -> UpstreamTimeout:
    error = UpstreamTimeout()
    error.phase = phase
    return error
