from __future__ import annotations

import asyncio
import json
import random
import urllib.request
from http.cookiejar import CookieJar

import pytest
import redis.asyncio
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client

from dashboard import sockets
from dashboard.live import QUEUE_MAX, Feed, frame_of
from gateway.asgi import Application
from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.histogram import bin_of
from gateway.proxy.live import CHANNEL, ROWS_MAX, WATCH, Live
from gateway.proxy.record import record_of
from tests.proxy.exchanges import finished
from tests.running import Stopwatch


def records(count, **fields):
    return [record_of(finished(**{"status": 200, "outcome": "ok", **fields})) for _ in range(count)]


class Commands:
    """Redis as the batcher shows it: answers MGET as told, keeps what is published."""

    def __init__(self):
        self.watched, self.rows = b"1", None
        self.published = []
        self.away = False

    def __call__(self, *args):
        if self.away:
            raise RedisUnavailable
        answer = asyncio.get_running_loop().create_future()
        if args[0] == "PUBLISH":
            self.published.append(json.loads(args[2]))
            answer.set_result(1)
        else:
            answer.set_result([self.watched, self.rows])
        return answer


@pytest.fixture
def commands():
    return Commands()


@pytest.fixture
def live(commands):
    return Live(commands, source="n1/0", version=lambda: 7)


# --- a worker's half --------------------------------------------------------------------------------------------------


async def test_nobody_watching_costs_and_tells_nothing(live, commands):
    commands.watched = None
    await live.beat()
    live.fold(records(5))
    await live.beat()
    assert commands.published == []
    assert live._second.requests == 0


async def test_a_second_is_told_once(live, commands):
    await live.beat()
    live.fold(records(3, duration_ms=10.0) + records(2, status=429, outcome="rate_limited"))
    await live.beat()
    await live.beat()
    first, second = commands.published
    assert (first["requests"], first["by_class"], first["limited"]) == (5, {"2": 3, "4": 2}, 2)
    assert (first["source"], first["version"], first["rows"]) == ("n1/0", 7, [])
    assert second["requests"] == 0


async def test_rows_come_only_if_wanted_and_never_too_many(live, commands):
    commands.rows = b"1"
    await live.beat()
    live.fold(records(500))
    await live.beat()
    (told,) = commands.published
    assert told["requests"] == 500
    assert len(told["rows"]) == ROWS_MAX
    assert {"at", "request_id", "path", "status", "outcome", "duration_ms"} <= set(told["rows"][0])


async def test_redis_away_raises_only_for_the_beat(live, commands):
    await live.beat()
    commands.away = True
    with pytest.raises(RedisUnavailable):
        await live.beat()
    live.fold(records(1))


# --- merging ----------------------------------------------------------------------------------------------------------


def message(source, durations, version=3, **fields):
    by_class = {"2": len(durations)}
    bins = {}
    for duration_ms in durations:
        bin_ = str(bin_of(duration_ms))
        bins[bin_] = bins.get(bin_, 0) + 1
    base = {"source": source, "version": version, "requests": len(durations), "by_class": by_class, "limited": 0}
    return {**base, "bins": bins, "rows": [], **fields}


def test_workers_are_merged_as_if_they_were_one():
    durations = [random.Random(5).uniform(1, 100) for _ in range(200)]
    frame = frame_of([message("a/0", durations[:50]), message("a/1", durations[50:], version=2)], 100)
    assert (frame["rps"], frame["workers"], frame["version"], frame["by_class"]) == (200, 2, 2, {"2": 200})
    assert frame["p95"] == pytest.approx(sorted(durations)[189], rel=0.06)


def test_nothing_heard_is_a_frame_of_nothing():
    frame = frame_of([], 100)
    assert (frame["rps"], frame["workers"], frame["p95"], frame["version"]) == (0, 0, None, None)


def test_a_slow_browser_is_told_so_and_forgotten():
    feed = Feed("redis://127.0.0.1:1")
    queue = asyncio.Queue(QUEUE_MAX + 1)
    feed._watchers[queue] = False
    for _ in range(QUEUE_MAX + 3):
        feed._tell()
    frames = [queue.get_nowait() for _ in range(queue.qsize())]
    assert len(frames) == QUEUE_MAX + 1
    assert frames[-1] is None
    assert not feed._watchers


# --- the socket -------------------------------------------------------------------------------------------------------


def scope_headers(client=None, origin=b"http://testserver"):
    headers = [(b"host", b"testserver"), (b"origin", origin)]
    if client is not None:
        cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    return headers


@pytest.fixture
async def fresh_feed():
    sockets.feed.cache_clear()
    yield
    feed = sockets.feed()
    sockets.feed.cache_clear()
    for queue in list(feed._watchers):
        feed.leave(queue)
    ending = [task for task in asyncio.all_tasks() if task.get_name() == "live feed"]
    if ending:  # cancelled once more while it closes, by the end of the loop, it would leave its connection behind
        await asyncio.wait(ending, timeout=5)


@pytest.fixture(autouse=True)
async def no_connection_left():
    """Channels asks the database in a thread of asgiref's, which keeps its connection."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def reader(transactional_db):
    user = User.objects.create_user("rita", password="only-for-tests", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_usagerow"))
    client = Client()
    client.force_login(user)
    return client


async def test_a_watcher_sees_what_workers_tell(reader, fresh_feed):
    socket = WebsocketCommunicator(sockets.live, "/dashboard/live", headers=scope_headers(reader))
    assert (await socket.connect())[0]
    await socket.send_json_to({"rows": True})
    worker = json.dumps(message("n1/0", [5.0] * 10, rows=[{"at": 1, "path": "/hello"}]))
    async with redis.asyncio.from_url(settings.REDIS_URL) as client, asyncio.timeout(10):
        while True:
            await client.publish(CHANNEL, worker)
            frame = await socket.receive_json_from(timeout=5)
            await socket.send_json_to({"ack": frame["t"]})
            if frame["rps"] and frame.get("rows"):
                break
        assert await client.exists(WATCH)
    assert frame["rows"][0]["path"] == "/hello"
    assert frame["p50"] == pytest.approx(5, rel=0.05)
    await socket.disconnect()
    assert sockets.feed()._task is None


async def test_who_does_not_answer_is_closed(reader, fresh_feed):
    socket = WebsocketCommunicator(sockets.live, "/dashboard/live", headers=scope_headers(reader))
    assert (await socket.connect())[0]
    feed = sockets.feed()
    async with asyncio.timeout(10):
        while True:
            feed._tell()
            sent = await socket.receive_output(timeout=5)
            if sent["type"] == "websocket.close":
                break
    assert sent["code"] == sockets.TRY_AGAIN
    await socket.wait()


@pytest.mark.parametrize("origin", [b"", b"null", b"https://evil.example", b"http://testserver.evil.example"])
async def test_no_other_site_may_open_it(reader, origin):
    socket = WebsocketCommunicator(sockets.live, "/dashboard/live", headers=scope_headers(reader, origin))
    assert not (await socket.connect())[0]


@pytest.mark.usefixtures("transactional_db")
async def test_strangers_are_refused():
    socket = WebsocketCommunicator(sockets.live, "/dashboard/live", headers=scope_headers())
    assert not (await socket.connect())[0]


async def test_staff_without_the_permission_are_refused(reader):
    user = await User.objects.aget()
    await user.user_permissions.aclear()
    socket = WebsocketCommunicator(sockets.live, "/dashboard/live", headers=scope_headers(reader))
    assert not (await socket.connect())[0]


@pytest.mark.parametrize(("role", "path"), [("all", "/dashboard/other"), ("all", "/api"), ("proxy", "/dashboard/live")])
async def test_every_other_websocket_is_refused(role, path):
    socket = WebsocketCommunicator(Application(role), path, headers=scope_headers())
    assert not (await socket.connect())[0]


# --- through a real worker --------------------------------------------------------------------------------------------


def session_of(gateway):
    """Logs in as a browser does, and gives the Cookie header."""
    gateway.manage(
        "shell", "-c",
        "from django.contrib.auth.models import User; User.objects.create_superuser('root', password='only-for-tests')",
    )  # fmt: skip
    jar = CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    opener.open(f"{gateway.url}/admin/login/", timeout=5).read()
    token = next(cookie.value for cookie in jar if cookie.name == "csrftoken")
    form = f"username=root&password=only-for-tests&csrfmiddlewaretoken={token}".encode()
    opener.open(f"{gateway.url}/admin/login/", form, timeout=5).read()
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)


async def upgraded(gateway, path, **headers):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    fields = {
        "Host": f"127.0.0.1:{gateway.port}", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13", **headers,
    }  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    return reader, writer, await reader.readuntil(b"\r\n\r\n")


async def frame_from(reader):
    """One unmasked text frame of a server, or what it closes with."""
    first, length = await reader.readexactly(2)
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2), "big")
    body = await reader.readexactly(length)
    return json.loads(body) if first & 0x0F == 1 else None


async def test_a_real_request_is_live_within_two_seconds(gateway, plain_upstream):
    await asyncio.to_thread(
        gateway.configure,
        {
            "format": 1,
            "upstreams": [{"name": "plain", "targets": [{"host": "127.0.0.1", "port": plain_upstream}]}],
            "routes": [{"name": "hello", "paths": ["/hello/*"], "upstreams": [{"name": "plain"}]}],
        },
    )
    cookie = await asyncio.to_thread(session_of, gateway)
    reader, writer, head = await upgraded(gateway, "/dashboard/live", Cookie=cookie, Origin=gateway.url)
    assert head.startswith(b"HTTP/1.1 101"), head
    async with asyncio.timeout(15):
        while not (await frame_from(reader))["workers"]:  # the workers have heard that somebody looks
            pass
    watch = Stopwatch()
    await asyncio.to_thread(lambda: urllib.request.urlopen(f"{gateway.url}/hello/x", timeout=5).read())
    async with asyncio.timeout(5):
        while not (frame := await frame_from(reader))["rps"]:
            pass
    assert watch.s < 2.2
    assert frame["by_class"] == {"2": 1}
    assert frame["version"] == 1
    writer.close()


async def test_a_real_handshake_without_a_session_is_refused(gateway):
    for path, origin, status in (
        ("/dashboard/live", gateway.url, b"403"),
        ("/dashboard/live", "https://evil.example", b"403"),
        ("/x", gateway.url, b"404"),
    ):
        _, writer, head = await upgraded(gateway, path, Origin=origin)
        assert head.startswith(b"HTTP/1.1 " + status), head
        writer.close()
