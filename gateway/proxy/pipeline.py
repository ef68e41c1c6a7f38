"""One request, top to bottom. The file to read first.

    handle   1 read the client's side      2 find the route           3 choose a branch (weighted upstream)
             4 access hooks: who is it     5 access hooks: may it     6 forward, or a plugin's own answer
             7 response hooks              8 body hooks
    finish   9 give the connection back   10 log hooks               11 one usage record

Whatever goes wrong on the way becomes a problem+json answer, which passes the response hooks too (CORS headers belong
on a 401). Only cancellation leaves `handle`: the client is gone, and there is nobody to answer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from random import random
from time import perf_counter

from gateway.proxy.downstream import Downstream
from gateway.proxy.errors import ClientClosed, GatewayError, NoRoute, NotReady, PluginFailed, problem
from gateway.proxy.exchange import Answer, Exchange, Paced
from gateway.proxy.forward import Forwarder
from gateway.proxy.headers import Lasting, remove
from gateway.proxy.paths import is_plain, normalise
from gateway.proxy.table import AccessHook, Chain, Forward, RoutingTable

logger = logging.getLogger("gateway.proxy")
_NO_HOOKS = Chain()


class Pipeline:
    """One per worker. `table` is replaced whole; a request uses the one it started with."""

    def __init__(self, forwarder: Forwarder, downstream: Downstream, record: Callable[[Exchange], None]) -> None:
        self.table: RoutingTable | None = None
        self.in_flight = 0
        self._forwarder, self._forward = forwarder, forwarder.forward
        self._downstream = downstream
        self._record = record
        self._only_record = (record,)
        self._ids = request_ids()

    async def handle(
        self, exchange: Exchange, forward: Forward | None = None, table: RoutingTable | None = None
    ) -> None:
        """Fill status, response_headers and answer_body. Every call must be followed by `finish`.

        `forward`, `table`: in the place of the forwarder's own, and of ours.
        """
        self.in_flight += 1
        exchange.chain = _NO_HOOKS
        exchange.id = next(self._ids)
        try:
            answer = await self._decide(exchange, table or self.table, forward or self._forward)
            if answer is not None:
                exchange.outcome = exchange.outcome or "answered"  # a plugin may know better
                _give(exchange, answer)
        except GatewayError as error:
            _refuse(exchange, error)
        except Exception:  # protects the client from our own mistakes: it gets an answer, we get the trace
            logger.exception("request %s failed", exchange.id)
            _refuse(exchange, GatewayError())
        chain: Chain = exchange.chain
        if chain.response or chain.body:
            await self._respond(exchange, chain)

    async def _decide(self, exchange: Exchange, table: RoutingTable | None, forward: Forward) -> Answer | None:
        """A plugin's own answer, or None when the upstream's has been put into the exchange. Raises GatewayError."""
        if table is None:
            raise NotReady()
        exchange.config_version = table.version
        self._downstream.read(exchange)
        raw = exchange.raw_path
        exchange.plain = plain = is_plain(raw)
        exchange.path = path = raw.decode("ascii") if plain else normalise(raw)
        match = table.index.match(
            exchange.host, path, b"" if plain else raw, exchange.method, exchange.headers, exchange.query
        )
        if match is None:
            raise NoRoute()
        exchange.route, exchange.path_params, exchange.path_tail = match.route, match.params, match.tail
        branch = match.value.choose(random)
        exchange.upstream = branch.upstream
        exchange.chain = branch.chain_for(0)
        if exchange.content_length:
            self._forwarder.check_body(exchange, match.route)

        answer = None
        if branch.identify:
            answer = await _access(branch.identify, exchange)
            if exchange.consumer is not None:
                exchange.chain = branch.chain_for(exchange.consumer.id)
        if answer is None and exchange.chain.access:
            answer = await _access(exchange.chain.access, exchange)
        if answer is None:
            for hook in exchange.chain.forward:
                forward = partial(hook, forward=forward)
            await forward(exchange)
        return answer

    async def _respond(self, exchange: Exchange, chain: Chain) -> None:
        """Run the response hooks, then wrap the body. A hook that fails replaces the answer; no further hook runs."""
        try:
            for hook in chain.response:
                waiting = hook(exchange)
                if waiting is not None:
                    await waiting
            if chain.body:
                _wrap(exchange, chain)
        except GatewayError as error:  # a hook that reads the answer meets what may be wrong with it
            if exchange.release is not None:
                await exchange.release()
            _refuse(exchange, error)
        except Exception:
            logger.exception("a response hook of route %s failed, request %s", _route_name(exchange), exchange.id)
            if exchange.release is not None:
                await exchange.release()
            _refuse(exchange, PluginFailed())

    async def finish(self, exchange: Exchange, outcome: str) -> None:
        """The last byte was sent, or the client left, or the answer broke off: `outcome` says which unless one stands.

        Doing it twice is harmless.
        """
        if exchange.finished_s:
            return
        exchange.finished_s = perf_counter()
        self.in_flight -= 1
        exchange.outcome = outcome if outcome != "ok" else exchange.outcome or "ok"
        if not exchange.status:  # left before there was an answer: nginx's status for it
            exchange.status = ClientClosed.status
        try:
            if exchange.bodies:
                await _close(exchange)
        finally:  # whoever cancels us there: the rest is never skipped
            self._log(exchange)
            if exchange.release is not None:
                await exchange.release()

    def _log(self, exchange: Exchange) -> None:
        hooks = exchange.chain.log
        for hook in (*hooks, self._record) if hooks else self._only_record:
            try:
                hook(exchange)
            except Exception:  # protects the connection and the other hooks from one plugin
                logger.exception("a log hook of route %s failed, request %s", _route_name(exchange), exchange.id)


async def _access(hooks: tuple[AccessHook, ...], exchange: Exchange) -> Answer | None:
    """The first answer a hook gives. A hook that fails in any way of its own stops the request: fail closed."""
    try:
        for hook in hooks:
            result = hook(exchange)
            if result is None:
                continue
            answer = result if isinstance(result, Answer) else await result
            if answer is not None:
                return answer
    except GatewayError:
        raise
    except Exception as error:
        logger.exception("an access hook of route %s failed, request %s", _route_name(exchange), exchange.id)
        raise PluginFailed() from error
    return None


async def _close(exchange: Exchange) -> None:
    """End what the body hooks began, from the outside in: a generator left alone would end whenever it is collected."""
    for chunks in exchange.bodies:
        try:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        except Exception:  # protects the other generators and the record from one plugin
            logger.exception(
                "a body hook of route %s failed at its end, request %s", _route_name(exchange), exchange.id
            )


def request_ids() -> Iterator[str]:
    """32 hexadecimal digits each, from the system's randomness, fetched for 128 at a time: it is a system call."""
    while True:
        many = os.urandom(16 * 128).hex()
        for start in range(0, len(many), 32):
            yield many[start : start + 32]


def _refuse(exchange: Exchange, error: GatewayError) -> None:
    exchange.outcome = error.outcome
    exchange.detail = exchange.detail or error.detail
    status, headers, body = problem(error, exchange.id)
    _answer(exchange, status, headers, body)


def _give(exchange: Exchange, answer: Answer) -> None:
    """A plugin's, which may give the same again: response hooks get fields of their own."""
    fields, chain = answer.headers, exchange.chain
    if type(fields) is not Lasting or chain.response or chain.body:
        _answer(exchange, answer.status, [*fields], answer.body)
        return
    exchange.status, exchange.response_headers = answer.status, fields
    exchange.answer_body = b"" if exchange.method == "HEAD" else answer.body


def _answer(exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """An answer made here. 204 and 304 carry no length (RFC 9110 §8.6)."""
    remove(headers, b"content-length")
    if status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(body)))
    exchange.status, exchange.response_headers = status, headers
    exchange.answer_body = b"" if exchange.method == "HEAD" else body


def _wrap(exchange: Exchange, chain: Chain) -> None:
    """A hook that gives back the chunks it was given leaves this answer alone. If all do, or change only the pace
    (`Paced`), it keeps its length."""
    chunks = source = _chunks(exchange.answer_body)
    same_length = True
    for wrap in chain.body:
        wrapped = wrap(exchange, chunks)
        if wrapped is not chunks:
            exchange.bodies.insert(0, wrapped)
            chunks = wrapped
            same_length = same_length and isinstance(wrapped, Paced)
    if chunks is not source:
        assert exchange.response_headers is not None
        if not same_length:
            remove(exchange.response_headers, b"content-length")
        exchange.bodies.append(source)
        exchange.answer_body = chunks


async def _chunks(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        if body:
            yield body
        return
    async for chunk in body:
        yield chunk


def _route_name(exchange: Exchange) -> str:
    return exchange.route.name if exchange.route else "-"
