"""A gateway worth looking at: several routes, their keys, a day of traffic behind it and some trouble among it."""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
from websockets.sync.client import connect
from websockets.utils import accept_key

from gateway.proxy.journal import line
from gateway.proxy.record import Record
from gateway.proxy.segments import READY, spool_dir
from tests.e2e.gateway import Gateway, free_port, wait_until

HOST = "api.example.com"
CONSUMERS = ("web-shop", "mobile-app", "partner-gmbh")
PATHS = {
    "users": ("/users/1041", "/users/1041/addresses", "/users/77"),
    "orders": ("/orders/58213", "/orders"),
    "payments": ("/payments/refunds", "/payments/90177"),
}
DOCUMENT = """\
format: 1
upstreams:
  - name: accounts
    tags: [team-identity]
    targets:
      - {{host: 127.0.0.1, port: {port}, weight: 75}}
      - {{host: localhost, port: {port}, weight: 25}}
  - name: shop
    balancing: least-connections
    tags: [team-shop]
    targets: [{{host: 127.0.0.1, port: {port}}}]
  - name: payments
    targets: [{{host: 127.0.0.1, port: {closed}}}, {{host: 127.0.0.1, port: {port}, weight: 0}}]
routes:
  - {{name: users, paths: ["/users/*"], methods: [GET, POST], tags: [public], upstreams: [{{name: accounts}}]}}
  - name: orders
    paths: ["/orders", "/orders/*"]
    hosts: ["*.example.com"]
    upstreams: [{{name: shop, weight: 90}}, {{name: accounts, weight: 10}}]
  - {{name: payments, paths: ["/payments/*"], upstreams: [{{name: payments}}]}}
  - {{name: catalogue, paths: ["/catalogue/*"], strip_path: true, upstreams: [{{name: shop}}]}}
plugins:
  - {{name: request-id}}
  - {{name: key-auth, route: users}}
  - {{name: rate-limiting, route: users, config: {{minute: {limit}}}}}
  - {{name: key-auth, route: orders}}
  - {{name: response-transformer, route: orders, config: {{set: {{headers: ["x-shop:1"]}}}}}}
"""
LIMIT = 20
PAST_S, PER_MINUTE = 24 * 3600, 3


class Backend(BaseHTTPRequestHandler):
    """Answers after a while, now and then with an error. A WebSocket it opens, and says nothing on it."""

    protocol_version = "HTTP/1.1"
    dice = random.Random(7)

    def do_GET(self) -> None:
        if "Upgrade" in self.headers:
            self._open()
            return
        time.sleep(self.dice.lognormvariate(-4.5, 0.6))
        self.send_response(500 if self.dice.random() < 0.02 else 200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def _open(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(self.headers["Sec-WebSocket-Key"]))
        self.end_headers()
        self.close_connection = True
        self.rfile.read()  # until the gateway closes it

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def backend() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Showcase:
    """`refused`: the id of a request that met its limit."""

    keys: dict[str, str]
    refused: str

    def pages(self) -> dict[str, str]:
        """Name → path of everything there is to look at."""
        return {
            "overview": "/dashboard/?range=24h",
            "requests": "/dashboard/requests/",
            "request": f"/dashboard/requests/{self.refused}/",
            "routes": "/dashboard/routes/",
            "route": "/dashboard/routes/1/?range=24h",
            "upstreams": "/dashboard/upstreams/",
            "upstream": "/dashboard/upstreams/1/",
            "websockets": "/dashboard/websockets/",
            "traces": "/dashboard/traces/",
            "keys": "/dashboard/keys/",
            "key": "/dashboard/keys/1/",
            "key-new": "/dashboard/keys/new/",
            "key-rotate": "/dashboard/keys/1/rotate/",
            "consumers": "/dashboard/consumers/",
            "consumer": "/dashboard/consumers/1/",
            "config": "/dashboard/config/",
            "config-diff": "/dashboard/config/?to=2",
            "rollback": "/dashboard/config/1/rollback/",
            "start": "/dashboard/start/",
            "docs": "/docs/configuration",
        }


def filled(gateway: Gateway, port: int) -> Showcase:
    """Two versions, three keys, a day that is over and a minute that is not; all of it in the database on return."""
    path = gateway.directory / "showcase.yaml"
    closed = free_port()
    for limit in (LIMIT * 5, LIMIT):
        path.write_text(DOCUMENT.format(port=port, closed=closed, limit=limit))
        gateway.manage("config", "import", str(path))
    keys = {consumer: gateway.key(consumer, "--name", "production") for consumer in CONSUMERS}
    rows = past_write(gateway)
    with httpx.Client(base_url=gateway.url) as client:
        headers = {"apikey": keys["web-shop"]}
        wait_until(lambda: client.get("/users/1", headers=headers).status_code == 200, what="the route is live")
        refused = ""
        for _ in range(LIMIT):
            answer = client.get("/users/1041", headers=headers)
            refused = answer.headers["x-request-id"] if answer.status_code == 429 else refused
        for number in range(24):
            ask(client, number, keys[CONSUMERS[number % 2 + 1]])
        client.get("/orders/9", headers={"Host": HOST})  # without a key
    assert refused
    wait_until(lambda: gateway.query("SELECT count(*) FROM usage_row")[0][0] > rows + LIMIT, what="usage is written")
    return Showcase(keys, refused)


def ask(client: httpx.Client, number: int, key: str) -> None:
    paths = [path for of_route in PATHS.values() for path in of_route]
    client.get(paths[number % len(paths)], headers={"Host": HOST, "apikey": key})


@contextmanager
def connected(gateway: Gateway, showcase: Showcase) -> Iterator[None]:
    """Two open WebSockets, of different consumers."""
    with ExitStack() as stack:
        for consumer in CONSUMERS[:2]:
            sock = socket.create_connection(("127.0.0.1", gateway.port))
            headers = {"apikey": showcase.keys[consumer]}
            stack.enter_context(connect(f"ws://{HOST}/orders/1", sock=sock, additional_headers=headers))
        yield


def past_write(gateway: Gateway) -> int:
    """A segment as a worker would have left it, for the recorder to ship."""
    dice, now_s = random.Random(1), time.time()
    lines = [
        line(one, "gateway-1\tw1")
        for minute in range(PAST_S // 60)
        for one in minute_of(now_s - PAST_S + minute * 60, dice)
    ]
    spool = spool_dir(Path(gateway.env()["GATEWAY_DATA_DIR"]))
    waiting = spool / f"{int(now_s * 1000):013d}-w1-{uuid4().hex}.open"
    waiting.write_text("".join(lines))
    waiting.rename(waiting.with_suffix(READY))
    return len(lines)


def minute_of(start_s: float, dice: random.Random) -> Iterator[Record]:
    """More by day than by night, with an hour in which payments failed."""
    of_day = (start_s % 86_400) / 86_400
    busy = 1.1 - math.cos(of_day * 2 * math.pi)
    for _ in range(round(PER_MINUTE * busy * dice.uniform(0.6, 1.4))):
        yield record(start_s + dice.uniform(0, 60), dice, failing=0.55 < of_day < 0.58)


def record(at_s: float, dice: random.Random, *, failing: bool) -> Record:
    name, route_id, upstream_id = dice.choice([("users", 1, 1), ("users", 1, 1), ("orders", 2, 2), ("payments", 3, 3)])
    caller = dice.randint(1, len(CONSUMERS))
    gateway_ms = dice.lognormvariate(-0.6, 0.3)
    upstream_ms: float | None = dice.lognormvariate(2.6, 0.5)
    status, outcome = 200, "ok"
    if name == "payments" and failing:
        status, outcome, upstream_ms = 502, "upstream_unreachable", 1.2
    elif dice.random() < 0.03:
        status, outcome, upstream_ms = dice.choice([(404, "ok", 8.0), (429, "rate_limited", None), (201, "ok", 20.0)])
    return Record(
        at_s, uuid4().hex, 1, "GET", HOST, dice.choice(PATHS[name]).encode(), status, outcome, "", "192.0.2.7",
        route_id, name, upstream_id, "127.0.0.1:9000", caller, caller, gateway_ms + (upstream_ms or 0.0), gateway_ms,
        upstream_ms, 0, dice.randint(200, 9000), 1, "",
    )  # fmt: skip
