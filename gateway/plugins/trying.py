"""For tests of plugins: one of them by itself, and requests for it, without a gateway around.

    stamp = plugin(Path("stamp.py"), text="hello")
    exchange = request("GET", "/users/7", headers={"X-Who": "anna"})
    await access(stamp, exchange)

The Exchange is the real one. What a plugin would ask of the runtime (limits, credentials) is not there. For calls to
other services there is a Service, and for the `batch` phase there are records:

    service = Service(status=204)
    counts = plugin(Path("counts.py"), caller=service, url="http://analytics.test/")
    await batch(counts, [record(route="orders"), record(route="users", status=404)])
    [call] = service.calls
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.plugins.base import Plugin, Resources
from gateway.plugins.endpoints import Caller, Endpoint, Reply
from gateway.plugins.registry import Registry, module_of, plugins_in
from gateway.proxy.errors import ConnectFailed
from gateway.proxy.exchange import Answer, Consumer, Exchange
from gateway.proxy.headers import Pair
from gateway.proxy.record import Record
from gateway.proxy.snapshot import RouteSpec


@dataclass(frozen=True, slots=True)
class Call:
    """Names of `fields` are in lower case."""

    method: str
    url: str
    fields: dict[str, str]
    body: bytes


class Service:
    """Answers every call with this, unless it is `away`, and remembers what it was sent."""

    def __init__(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self.reply, self.away = Reply(status, pairs, body), False
        self.calls: list[Call] = []

    async def call(
        self, endpoint: Endpoint, method: str, fields: Sequence[Pair] = (), body: bytes = b"", *, path: bytes = b"",
        max_bytes: int = 65536,
    ) -> Reply:  # fmt: skip
        if self.away:
            raise ConnectFailed()
        sent = {name.decode(): value.decode("latin-1") for name, value in fields}
        url = f"{endpoint.upstream.protocol}://{endpoint.upstream.name}{(path or endpoint.path).decode()}"
        self.calls.append(Call(method, url, sent, body))
        return self.reply


def plugin(file: Path, *, wall_s: float | None = None, caller: Caller | None = None, **config: Any) -> Plugin:
    """The one plugin of a file, with this config. `wall_s` stands for the clock (seconds since the epoch).

    Raises ConfigProblems for a config that would be refused, and whatever the file raises.
    """
    [kind] = plugins_in(module_of(file))
    nothing: Any = None
    wall = time.time if wall_s is None else lambda: wall_s
    resources = Resources(nothing, nothing, caller or nothing, clock=time.monotonic, wall=wall, node="a-node")
    return kind(Registry([kind]).validate(kind.name, config), resources)


def request(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    client_ip: str = "192.0.2.7",
    consumer: Consumer | None = None,
) -> Exchange:
    """As the pipeline hands it to access hooks."""
    path, _, query = path.partition("?")
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    exchange = Exchange(
        method=method, raw_path=path.encode(), query=query.encode(), headers=pairs, scheme="http", peer_ip=client_ip,
        port=80, started_s=time.perf_counter(), wall_s=time.time(),
    )  # fmt: skip
    exchange.id, exchange.path, exchange.host, exchange.consumer = "a-request", path, "api.test", consumer
    exchange.route = RouteSpec(1, "a-route", (), (), frozenset(), (), (), ())
    return exchange


async def access(one: Plugin, exchange: Exchange) -> Answer | None:
    """Its access hook, sync or async. Raises Reject where it refuses the request."""
    result = one.access(exchange)
    return result if result is None or isinstance(result, Answer) else await result


def record(**fields: Any) -> Record:
    """Of a request that was answered well, but for these fields."""
    values: dict[str, Any] = {
        "at_s": time.time(), "request_id": "a-request", "config_version": 1, "method": "GET", "host": "api.test",
        "path": b"/", "status": 200, "outcome": "ok", "detail": "", "client_ip": "192.0.2.7", "route_id": 1,
        "route": "a-route", "upstream_id": 1, "target": "192.0.2.8:80", "consumer_id": None, "key_id": None,
        "duration_ms": 12.0, "gateway_ms": 1.0, "upstream_ms": 10.0, "bytes_in": 0, "bytes_out": 2, "tries": 1,
        "cache_status": "",
    }  # fmt: skip
    return Record(**(values | fields))


async def batch(one: Plugin, records: Sequence[Record]) -> None:
    """Hands them over, as is done every `batch_delay_s`. Raises what the hook raises: for a worker, they are lost."""
    waiting = one.batch(records)
    if waiting is not None:
        await waiting


async def response(
    one: Plugin, exchange: Exchange, status: int = 200, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The fields of an answer after its response hook."""
    exchange.status = status
    exchange.response_headers = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    waiting = one.response(exchange)
    if waiting is not None:
        await waiting
    return {name.decode(): value.decode("latin-1") for name, value in exchange.response_headers}
