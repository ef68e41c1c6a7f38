"""Traces: which hooks decided on a request, what each said, and the time it took. Of the next requests, when one asks.

    Traces.begin → Pipeline.handle is ours for a while → a request's branch, its hooks timed → Traces.told

While nobody asks, `Pipeline.handle` is the class's own and a request pays nothing. While somebody does, each request of
the route asked for gets chains whose hooks are wrapped for it alone; the plugins themselves know nothing of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, cast

from gateway.plugins.dryruns import verdict_of
from gateway.proxy.conditions import Conditional
from gateway.proxy.errors import GatewayError
from gateway.proxy.exchange import Answer, Exchange
from gateway.proxy.match import Match
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.record import record_of
from gateway.proxy.snapshot import RouteSpec
from gateway.proxy.table import Branch, Chain, CompiledRoute, Forward, RoutingTable

MAX_REQUESTS, MAX_SECONDS = 50, 300
PATH_MAX = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """`route` and `consumer` as (id, name): by id where it is not 0. None, and "": any."""

    id: str
    route: tuple[int, str] | None
    consumer: tuple[int, str] | None
    client_ip: str
    requests: int

    def takes(self, route: RouteSpec) -> bool:
        return self.route is None or _is(self.route, route.id, route.name)

    def keeps(self, exchange: Exchange) -> bool:
        consumer = exchange.consumer
        if self.client_ip and exchange.client_ip != self.client_ip:
            return False
        return self.consumer is None or (consumer is not None and _is(self.consumer, consumer.id, consumer.username))


class Traces:
    """One per worker, and one trace at a time: who begins another ends the one before."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._wanted: Wanted | None = None
        self._kept: deque[dict[str, Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, about: Mapping[str, Any]) -> bool:
        """Of the next `requests` in `seconds`. Runs in the worker's loop."""
        self.end()
        route, consumer = (about.get(kind) for kind in ("route", "consumer"))
        requests = min(about["requests"], MAX_REQUESTS)
        self._wanted = Wanted(
            about["id"], route and (route[0], route[1]), consumer and (consumer[0], consumer[1]),
            about.get("client_ip", ""), requests,
        )  # fmt: skip
        self._kept = deque(maxlen=requests)
        self._timer = asyncio.get_running_loop().call_later(min(about["seconds"], MAX_SECONDS), self.end)
        vars(self._pipeline)["handle"] = self._handle  # in the place of the class's own
        return True

    def end(self) -> None:
        """What was kept stays until another begins."""
        vars(self._pipeline).pop("handle", None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def told(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """`known` False: another trace was begun, or the worker has."""
        if self._wanted is None or self._wanted.id != about["id"]:
            return {"known": False, "running": False, "items": []}
        return {"known": True, "running": self._timer is not None, "items": [*self._kept]}

    async def _handle(self, exchange: Exchange, forward: Forward | None = None) -> None:
        table, wanted = self._pipeline.table, self._wanted
        if table is not None and wanted is not None:
            table = cast(RoutingTable, _Table(table, wanted, self._keep))
        await Pipeline.handle(self._pipeline, exchange, forward, table)

    def _keep(self, wanted: Wanted, exchange: Exchange, steps: list[Step]) -> None:
        if wanted is not self._wanted or not wanted.keeps(exchange) or len(self._kept) >= wanted.requests:
            return
        self._kept.append(_told(exchange, steps))
        if len(self._kept) >= wanted.requests:
            self.end()


# --- a table of which one request sees what is timed ------------------------------------------------------------------


@dataclass(slots=True)
class Step:
    plugin: str
    setting: int
    phase: str
    result: str
    us: float

    def told(self) -> dict[str, Any]:
        return {
            "plugin": self.plugin, "setting": self.setting, "phase": self.phase, "result": self.result,
            "us": round(self.us, 1),
        }  # fmt: skip


Keep = Callable[[Wanted, Exchange, list[Step]], None]


class _Table:
    """In the place of a RoutingTable and its index."""

    def __init__(self, table: RoutingTable, wanted: Wanted, keep: Keep) -> None:
        self.version, self.index, self._index = table.version, self, table.index
        self._wanted, self._keep = wanted, keep

    def match(self, *asked: Any) -> Match[Any] | None:
        found = self._index.match(*asked)
        if found is None or not self._wanted.takes(found.route):
            return found
        return replace(found, value=cast(Any, _Route(found.value, self._wanted, self._keep)))


class _Route:
    def __init__(self, route: CompiledRoute, wanted: Wanted, keep: Keep) -> None:
        self._route, self._wanted, self._keep = route, wanted, keep

    def choose(self, random: Callable[[], float]) -> _Branch:
        return _Branch(self._route.choose(random), self._wanted, self._keep)


class _Branch:
    def __init__(self, branch: Branch, wanted: Wanted, keep: Keep) -> None:
        self._branch, self.upstream, steps = branch, branch.upstream, list[Step]()
        self._steps, self._log = steps, lambda exchange: keep(wanted, exchange, steps)
        self.identify = _timed(branch.identify, "access", steps)

    def chain_for(self, consumer_id: int) -> Chain:
        chain = self._branch.chain_for(consumer_id)
        return replace(
            chain,
            access=_timed(chain.access, "access", self._steps),
            response=_timed(chain.response, "response", self._steps),
            log=(*chain.log, self._log),
        )


def _timed(hooks: tuple[Any, ...], phase: str, steps: list[Step]) -> tuple[Any, ...]:
    return tuple(_Timed(hook, phase, steps) if hasattr(hook, "__self__") else hook for hook in hooks)


class _Timed:
    """An access or response hook. The time is what passed until it was done, waiting for others included."""

    def __init__(self, hook: Any, phase: str, steps: list[Step]) -> None:
        self._hook, self._phase, self._steps = hook, phase, steps

    def __call__(self, exchange: Exchange) -> Any:
        began_s = perf_counter()
        try:
            result = self._hook(exchange)
        except BaseException as error:
            self._done(exchange, began_s, error)
            raise
        if result is None or isinstance(result, Answer):
            self._done(exchange, began_s, result)
            return result
        return self._later(exchange, began_s, result)

    async def _later(self, exchange: Exchange, began_s: float, waiting: Awaitable[Any]) -> Any:
        try:
            result = await waiting
        except BaseException as error:
            self._done(exchange, began_s, error)
            raise
        self._done(exchange, began_s, result)
        return result

    def _done(self, exchange: Exchange, began_s: float, result: object) -> None:
        us = (perf_counter() - began_s) * 1_000_000
        of = self._hook.__self__
        plugin = of.plugin if isinstance(of, Conditional) else of
        self._steps.append(Step(of.name, plugin.setting_id, self._phase, self._words(exchange, of, result), us))

    def _words(self, exchange: Exchange, of: Any, result: object) -> str:
        if isinstance(result, Answer):
            return f"answered {result.status}"
        if isinstance(result, GatewayError):
            return f"refused {result.status} {result.code}"
        if isinstance(result, BaseException):
            return "left" if isinstance(result, asyncio.CancelledError) else f"failed {type(result).__name__}"
        holds = getattr(of, "holds", None)  # of a plugin with a condition
        if holds is not None and not holds(exchange):
            return "not for this request"
        verdict = verdict_of(exchange, of.name) if self._phase == "access" else None
        return verdict.words if verdict is not None and verdict.word != "pass" else "passed"


def _told(exchange: Exchange, steps: list[Step]) -> dict[str, Any]:
    record = record_of(exchange)
    upstream, consumer = exchange.upstream, exchange.consumer
    return {
        "request_id": record.request_id,
        "at": int(record.at_s * 1000),
        "method": record.method,
        "host": record.host,
        "path": record.path.decode(errors="replace")[:PATH_MAX],
        "route": record.route,
        "route_id": record.route_id or 0,
        "upstream": upstream.name if upstream else "",
        "target": record.target,
        "consumer": consumer.username if consumer else "",
        "status": record.status,
        "outcome": record.outcome,
        "detail": record.detail,
        "duration_ms": round(record.duration_ms, 3),
        "gateway_ms": round(record.gateway_ms, 3),
        "upstream_ms": None if record.upstream_ms is None else round(record.upstream_ms, 3),
        "steps": [step.told() for step in steps],
    }


def _is(wanted: tuple[int, str], number: int, name: str) -> bool:
    return number == wanted[0] if wanted[0] else name == wanted[1]
