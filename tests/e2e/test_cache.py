"""Two real workers, Redis between them: what one keeps the other has, and a purge by the admin API ends it for both."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from tests.e2e.gateway import Gateway, route, upstream, wait_until
from tests.hazards.origin import Origin, RawClient, origin
from tests.running import Stopwatch

GATEWAY_WORKERS = 2
_numbers = count()


@pytest.fixture(scope="module")
def recording() -> Iterator[Origin]:
    with origin() as served:
        served.says = b"cache-control: max-age=1000\r\nsurrogate-key: red blue\r\n"
        yield served


@pytest.fixture(scope="module")
def token(gateway: Gateway, recording: Origin) -> str:
    gateway.configure({
        "format": 1,
        "upstreams": [upstream("origin", recording.port)],
        "routes": [
            route("kept", "/kept/*", "origin"), route("other", "/other/*", "origin"), route("plain", "/*", "origin"),
        ],
        "plugins": [{"name": "response-cache", "route": name, "config": {}} for name in ("kept", "other")],
    })  # fmt: skip
    gateway.manage("shell", "-c", MAKE_ADMIN)
    return gateway.manage("token", "create", "--user", "root", "--scopes", "write", "--quiet").strip()


MAKE_ADMIN = """
from django.contrib.auth.models import User
User.objects.create(username="root", is_superuser=True, is_staff=True)
"""


def asked(gateway: Gateway, path: str, times: int = 1) -> list[str]:
    """`Cache-Status` of each, over connections of their own, which the kernel spreads over the workers."""
    found = []
    for _ in range(times):
        with RawClient(gateway.port) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: two.test\r\nConnection: close\r\n\r\n".encode())
            reply = client.reply()
            assert reply is not None
            assert reply.status == 200
            fields = dict(line.lower().split(": ", 1) for line in reply.head.decode().splitlines()[1:])
            assert "surrogate-key" not in fields or not path.startswith(("/kept", "/other"))
            found.append(fields.get("cache-status", ""))
    return found


def test_two_hundred_clients_of_two_workers_are_one_request_upstream(
    gateway: Gateway, token: str, recording: Origin
) -> None:
    path, before = f"/kept/crowd-{next(_numbers)}", len(recording.seen)
    recording.takes_s = 0.5
    try:
        with ThreadPoolExecutor(200) as clients:
            said = [one for (one,) in clients.map(lambda _: asked(gateway, path), range(200))]
    finally:
        recording.takes_s = 0.0
    assert len(recording.seen) - before == 1
    assert sum("fwd=uri-miss" in one for one in said) == 1
    assert sum("hit" in one for one in said) == 199


def test_nobody_waits_long_for_what_is_for_others(gateway: Gateway, token: str, recording: Origin) -> None:
    """One by one, a worker at a time, they would take a second each."""
    path, watch = f"/kept/private-{next(_numbers)}", Stopwatch()
    kept, recording.says, recording.takes_s = recording.says, b"cache-control: private\r\n", 0.5
    try:
        with ThreadPoolExecutor(40) as clients:
            said = [one for (one,) in clients.map(lambda _: asked(gateway, path), range(40))]
    finally:
        recording.says, recording.takes_s = kept, 0.0
    assert not any("hit" in one for one in said)
    assert watch.s < 1.9  # whoever is first, then all others


def purge(gateway: Gateway, token: str, **body: Any) -> int:
    wanted = urllib.request.Request(
        gateway.url + "/admin/v1/cache/purge",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(wanted, timeout=10) as answer:
        return int(json.load(answer)["purged"])


def filled(gateway: Gateway, recording: Origin, path: str) -> None:
    """Until both workers have it: many connections in a row all get a kept one."""
    wait_until(lambda: all("hit" in said for said in asked(gateway, path, 20)), what=f"{path} is kept by both")
    recording.take()


@pytest.mark.parametrize(
    ("body", "ends", "stays"),
    [
        ({"urls": ["/kept/{n}?a"]}, "/kept/{n}?a", "/kept/{n}"),
        ({"urls": ["http://two.test/kept/{n}"]}, "/kept/{n}", "/kept/{n}?a"),
        ({"prefixes": ["https://two.test/kept/{n}"]}, "/kept/{n}/x", "/other/{n}"),
        ({"tags": ["blue"], "route": "kept"}, "/kept/{n}", "/other/{n}"),
        ({"everything": True, "route": "other"}, "/other/{n}", "/kept/{n}"),
    ],
)
def test_a_purge_ends_it_for_both_workers(
    gateway: Gateway, recording: Origin, token: str, body: dict[str, Any], ends: str, stays: str
) -> None:
    number = f"{next(_numbers)}-{gateway.port}"
    ends, stays = ends.replace("{n}", number), stays.replace("{n}", number)
    body = json.loads(json.dumps(body).replace("{n}", number))
    filled(gateway, recording, ends)
    filled(gateway, recording, stays)
    assert purge(gateway, token, **body) == 1

    def fetched() -> bool:
        asked(gateway, ends)
        return any(seen.target == ends for seen in recording.take())

    wait_until(fetched, 5, "the origin is asked anew")
    assert all("hit" in said for said in asked(gateway, stays, 20))
    assert all(seen.target != stays for seen in recording.take())
    filled(gateway, recording, ends)


def test_an_unsafe_request_to_one_worker_ends_it_for_the_other(gateway: Gateway, recording: Origin, token: str) -> None:
    path = f"/kept/{next(_numbers)}"
    for _ in range(5):
        filled(gateway, recording, path)
        with RawClient(gateway.port) as client:
            client.send(f"DELETE {path} HTTP/1.1\r\nHost: two.test\r\n\r\n".encode())
            assert client.reply() is not None
        assert [seen.method for seen in recording.take()] == ["DELETE"]

        def fetched() -> bool:
            asked(gateway, path)
            return bool(recording.take())

        wait_until(fetched, 5, "the origin is asked anew")


def test_other_routes_are_untouched(gateway: Gateway, recording: Origin, token: str) -> None:
    recording.take()
    assert asked(gateway, "/plain", 3) == ["", "", ""]
    assert len(recording.take()) == 3


def test_events_pass_as_they_come(gateway: Gateway, recording: Origin, token: str) -> None:
    """Through a cached route: not kept, not held back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("events", server.getsockname()[1])],
            "routes": [route("events", "/*", "events")],
            "plugins": [{"name": "response-cache", "route": "events", "config": {"cache_ttl": 60}}],
        })  # fmt: skip
        for _ in range(2):
            with RawClient(gateway.port) as client:
                client.send(b"GET /events HTTP/1.1\r\nHost: two.test\r\n\r\n")
                connection, _address = server.accept()
                with connection:
                    assert b"GET /events" in connection.recv(4096)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    connection.sendall(b"9\r\ndata: 1\n\n\r\n")
                    received = b""
                    while b"data: 1" not in received:
                        received += client.socket.recv(4096)
                    assert b"event stream" in received  # why it is not kept
                    connection.sendall(b"0\r\n\r\n")
