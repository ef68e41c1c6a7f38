"""Forwarding: prepare the upstream request once, then try targets until one answers.

Retries happen only when nothing can have been processed: the connection could not be made, or it died in a way the
transport calls safe (RFC 9110 §9.2.2). Any other failure is the client's to see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import lru_cache
from time import perf_counter
from typing import Any

import httpx

from gateway.proxy import headers as fields
from gateway.proxy.answer import AnswerStream
from gateway.proxy.balancer import Balancer, TargetState
from gateway.proxy.care import Attempts, KeptBody, Permit, deadline_of
from gateway.proxy.ending import Ending, may_end
from gateway.proxy.errors import AmbiguousPath, BodyTooLarge, ConnectFailed, UpstreamError
from gateway.proxy.exchange import Exchange
from gateway.proxy.guard import Guards
from gateway.proxy.messages import UpstreamRequest, UpstreamResponse, at_once, lines_of
from gateway.proxy.paths import climbs
from gateway.proxy.patterns import rewrite_path
from gateway.proxy.snapshot import CarePolicy, RouteSpec, UpstreamSpec
from gateway.proxy.transport import NO_BODY, Transports, transport_key

VIA = b"1.1 hydragate"
#: A request says these once.
_MERGED = frozenset({b"host", b"via"})


class Forwarder:
    """One per worker. `max_body_bytes`: the gateway's own limit, 0 for none; a route may set a lower one."""

    def __init__(self, transports: Transports, balancer: Balancer, max_body_bytes: int = 0) -> None:
        self.transports = transports
        self.balancer = balancer
        self.guards = Guards()
        self.max_body_bytes = max_body_bytes

    async def forward(self, exchange: Exchange) -> None:
        """Fill status, response headers and body stream. Raises UpstreamError, BodyTooLarge, ClientClosed."""
        upstream, route = exchange.upstream, exchange.route
        assert upstream is not None
        assert route is not None
        own_host, pairs, lines = request_headers(exchange, route)
        path = request_target(exchange, route)
        method = exchange.upstream_method or exchange.method
        body = NO_BODY if exchange.body is None else CountedBody(exchange, self._body_limit(route))
        if upstream.care is not None:
            await self._carefully(exchange, upstream, upstream.care, own_host, pairs, lines, method, path, body)
            return
        tried: set[str] | tuple[()] = ()
        extensions: dict[str, Any] = {"target": path, "hints": exchange.hints}
        if upstream.total_timeout_s:
            extensions["deadline_s"] = asyncio.get_running_loop().time() + upstream.total_timeout_s
        while True:
            state = self.balancer.pick(upstream, tried, exchange)
            target = state.target
            exchange.target = target.address
            exchange.tries += 1
            host = (b"host", own_host or target.authority)
            request = UpstreamRequest(method, [host, *pairs], body, extensions, lines)
            try:
                await self._attempt(exchange, upstream, state, request)
                return
            except UpstreamError as error:
                tried = {*tried, target.address}
                if exchange.tries > upstream.retries or exchange.bytes_in or not _may_try_again(error):
                    raise

    async def _carefully(
        self, exchange: Exchange, upstream: UpstreamSpec, care: CarePolicy, own_host: bytes, pairs: fields.Pairs,
        lines: bytes, method: str, path: bytes, stream: httpx.AsyncByteStream,
    ) -> None:  # fmt: skip
        extensions: dict[str, Any] = {"target": path, "hints": exchange.hints}
        if upstream.total_timeout_s:
            extensions["deadline_s"] = asyncio.get_running_loop().time() + upstream.total_timeout_s
        kept = None if exchange.body is None else KeptBody(aiter(stream), care.body_bytes)

        def make(state: TargetState) -> httpx.Request:
            host = (b"host", own_host or state.target.authority)
            return UpstreamRequest(method, [host, *pairs], stream if kept is None else kept, extensions, lines)

        guard = self.guards.of(upstream, care)
        await guard.ceiling.enter(deadline_of(extensions))
        try:
            attempts = Attempts(exchange, upstream, care, guard, self.balancer)
            got = await attempts.run(make, self._transport, kept, deadline_of(extensions))
        except BaseException:
            guard.ceiling.leave()
            raise
        exchange.sent_s, exchange.upstream_head_s = got.sent_s, got.head_s
        if got.whole is None:
            exchange.release = Permit(guard, Lease(got.stream, got.state).close).close
        else:
            guard.ceiling.leave()
        _deliver(exchange, got.response, got.stream, got.whole)
        if upstream.sticky is not None:
            self._stick(exchange, upstream, got.state)

    def _stick(self, exchange: Exchange, upstream: UpstreamSpec, state: TargetState) -> None:
        """A client shall come back to who answered it; not to who failed."""
        if exchange.status < 500 and (cookie := self.balancer.cookie(upstream, state, exchange)):
            assert exchange.response_headers is not None
            exchange.response_headers.append(cookie)

    def _transport(self, upstream: UpstreamSpec, state: TargetState) -> httpx.AsyncBaseTransport:
        if upstream.base is not None:  # with other time limits, over connections of their own
            return self.transports.get(upstream, state.target)
        transport = state.transport
        if transport is None:  # the first since the configuration changed
            transport = state.transport = self.transports.get(upstream, state.target)
        return transport

    async def _attempt(
        self, exchange: Exchange, upstream: UpstreamSpec, state: TargetState, request: httpx.Request
    ) -> None:
        transport = state.transport or self._transport(upstream, state)
        exchange.sent_s = sent_s = perf_counter()
        state.asked(sent_s)
        try:
            response = await transport.handle_async_request(request)
        except BaseException as error:
            state.gave_up()
            if isinstance(error, UpstreamError):
                state.broke(error, exchange.body is not None)
            raise
        exchange.upstream_head_s = head_s = perf_counter()
        state.heard(head_s)
        state.answered(response.status_code, head_s - sent_s)
        stream: AnswerStream = response.stream  # type: ignore[assignment]
        whole = stream.whole()
        if whole is None:
            exchange.release = Lease(stream, state).close
        else:  # a small answer is all here, and its connection back in the pool
            state.in_flight -= 1
        _deliver(exchange, response, stream, whole)
        if upstream.sticky is not None:
            self._stick(exchange, upstream, state)

    def retain(self, upstreams: list[UpstreamSpec]) -> None:
        """After a swap: close connections and forget state of targets that no configuration names any more."""
        self.transports.retain(
            {transport_key(upstream, target) for upstream in upstreams for target in upstream.targets}
        )
        self.balancer.retain(upstreams)
        self.guards.retain(upstreams)

    def _body_limit(self, route: RouteSpec) -> int:
        limits = [limit for limit in (self.max_body_bytes, route.max_body_bytes) if limit]
        return min(limits, default=0)

    def check_body(self, exchange: Exchange, route: RouteSpec) -> None:
        """Refuse a body whose announced length is over the limit before anything is decided or read."""
        limit = self._body_limit(route)
        if limit and (exchange.content_length or 0) > limit:
            raise BodyTooLarge(f"The request body is larger than the {limit} bytes this route accepts.")


def _deliver(exchange: Exchange, response: httpx.Response, stream: AnswerStream, whole: bytes | None) -> None:
    exchange.status = response.status_code
    exchange.answer_fields = raw = response.pairs if type(response) is UpstreamResponse else response.headers.raw
    exchange.response_headers = _passed(raw)
    if whole is not None:
        exchange.answer_body = whole
    elif may_end(exchange.response_headers):
        events = Ending(exchange, aiter(stream))
        exchange.answer_body, exchange.end = events, events.end
    else:
        exchange.answer_body = aiter(stream)


def _passed(raw: fields.Pairs) -> fields.Pairs:
    """What of an upstream's fields goes to the client."""
    if type(raw) is fields.Lasting:
        if raw.passed is None:
            raw.passed = fields.Lasting(_passed([*raw]))
        return raw.passed.grow()
    pairs = fields.end_to_end(raw)
    fields.append_token(pairs, b"via", VIA)
    return pairs


class Lease:
    """An answer's hold on its connection and on the target's in-flight count. Closing twice is harmless."""

    __slots__ = ("state", "stream")

    def __init__(self, stream: AnswerStream, state: TargetState) -> None:
        self.stream: AnswerStream | None = stream
        self.state = state

    async def close(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            self.state.in_flight -= 1
            self.state.ended(stream.failure)
            await stream.aclose()


class CountedBody(httpx.AsyncByteStream):
    """The client's body on its way up: counted, and stopped when it grows past the limit."""

    def __init__(self, exchange: Exchange, limit: int) -> None:
        self.exchange = exchange
        self.limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange, limit = self.exchange, self.limit
        assert exchange.body is not None
        async for chunk in exchange.body:
            exchange.bytes_in += len(chunk)
            if limit and exchange.bytes_in > limit:
                raise self._too_large()
            yield chunk

    def at_once(self, most: int) -> bytes | None:
        """Raises BodyTooLarge."""
        body = at_once(self.exchange.body, most)
        if body is not None:
            self.exchange.bytes_in += len(body)
            if self.limit and self.exchange.bytes_in > self.limit:
                raise self._too_large()
        return body

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The request body is larger than the {self.limit} bytes this route accepts.")


def _may_try_again(error: UpstreamError) -> bool:
    """Nothing was processed, and the time for all attempts is not over."""
    # Not after waiting for an answer in vain: whoever is slow is not helped by being asked twice.
    return isinstance(error, ConnectFailed) or (error.safe_to_retry and error.phase in ("", "connect"))


def request_headers(exchange: Exchange, route: RouteSpec) -> tuple[bytes, fields.Pairs, bytes]:
    """Host, if it does not depend on the target (a plugin's, or the client's where the route keeps it); the rest; and
    what `lines_of` the rest is, if that is known."""
    headers = exchange.headers
    host = exchange.authority if route.preserve_host else b""
    ours, our_lines = _ours(
        exchange.peer_ip, exchange.client_ip, exchange.forwarded_for, exchange.scheme, exchange.authority, exchange.port
    )
    framing: fields.Pairs = []
    if exchange.body is not None and exchange.content_length is None:
        framing.append((b"transfer-encoding", b"chunked"))
    if route.strip_path and (prefix := _stripped_prefix(exchange, route)):
        framing.append((b"x-forwarded-prefix", prefix))
    if type(headers) is fields.Grown and (more := headers.more()) is not None:
        base = headers.base
        if base.lines is None and fields.get(base, b"via") is None:
            base.lines = lines_of(base)
        if base.lines is not None and not (more and any(pair[0] in _MERGED for pair in more)):
            more += framing
            return host, [*base, *more, *ours], base.lines + (lines_of(more) if more else b"") + our_lines
    pairs = [pair for pair in headers if pair[0] != b"host"]
    if len(pairs) < len(headers):
        host = fields.get(headers, b"host") or b""
    pairs += framing
    if fields.get(pairs, b"via") is None:
        return host, pairs + ours, lines_of(pairs) + our_lines
    pairs += ours[:-1]
    fields.append_token(pairs, *ours[-1])
    return host, pairs, b""


@lru_cache(maxsize=2048)
def _ours(
    peer_ip: str, client_ip: str, chain: bytes, scheme: str, authority: bytes, port: int
) -> tuple[fields.Pairs, bytes]:
    """What tells an upstream of the way here, and its lines: the same for every request of a connection."""
    peer = peer_ip.encode()
    pairs = [
        (b"x-forwarded-for", chain + b", " + peer if chain else peer or b"unknown"),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-host", authority),
        (b"x-forwarded-port", b"%d" % port),
        (b"x-real-ip", client_ip.encode() or b"unknown"),
        (b"via", VIA),
    ]
    return pairs, lines_of(pairs)


def request_target(exchange: Exchange, route: RouteSpec) -> bytes:
    """The client's own bytes, unless a plugin or the route says otherwise."""
    path = exchange.upstream_path
    if path is None:
        if route.path_rewrite:
            path = rewrite_path(route.path_rewrite, exchange.path_params, exchange.path_tail).encode("ascii")
        elif route.strip_path:
            path = exchange.path_tail.encode("ascii") or b"/"
        else:
            path = exchange.raw_path
    if not exchange.plain and path is not exchange.raw_path and climbs(path):
        raise AmbiguousPath("Read differently, this path would leave its route. Send it without encoded dot segments.")
    query = exchange.query if exchange.upstream_query is None else exchange.upstream_query
    return path + b"?" + query if query else path


def _stripped_prefix(exchange: Exchange, route: RouteSpec) -> bytes:
    if route.path_rewrite or exchange.upstream_path is not None:
        return b""
    return exchange.path[: len(exchange.path) - len(exchange.path_tail)].rstrip("/").encode("ascii")
