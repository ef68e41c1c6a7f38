"""WebSockets through a real worker: a real client, a real upstream, and frames no library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.gateway import Gateway, free_port, route, wait_until

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


class Chat:
    """The upstream: `/echo` echoes, `/say` sends what the query says, others as their names are."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.closed: list[tuple[int | None, str | None]] = []
        self.open: set[ServerConnection] = set()

    async def handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.requests.append(socket.request)
        self.open.add(socket)
        try:
            await self._act(socket, socket.request.path)
        except ConnectionClosed:
            pass
        finally:
            await socket.wait_closed()
            self.open.discard(socket)
            self.closed.append((socket.close_code, socket.close_reason))

    async def _act(self, socket: ServerConnection, path: str) -> None:
        if path.startswith("/close/"):
            await socket.close(int(path.rpartition("/")[2]), "as asked")
        elif path == "/die":
            await socket.recv()
            socket.transport.abort()
        elif path == "/flood":
            for _ in range(300):
                await socket.send(b"x" * 200_000)
        elif path == "/deaf":
            await socket.wait_closed()
        elif path == "/large":
            await socket.send("x" * 2000)
        elif path == "/fragments":
            await socket.send(["one", "-", "two"])
        else:
            async for message in socket:
                await socket.send(message)


def refuse(socket: ServerConnection, request: Any) -> Any:
    if request.path == "/refused":
        response = socket.respond(418, "short and stout\n")
        response.headers["X-Why"] = "teapot"
        return response
    return None


def choose(socket: ServerConnection, offered: Any) -> Any:
    return next((name for name in ("v2.chat", "v1.chat") if name in offered), None)


@pytest.fixture(scope="module")
def chat_port() -> int:
    return free_port()


@pytest.fixture
async def chat(chat_port: int) -> AsyncIterator[Chat]:
    chat = Chat()
    async with serve(
        chat.handle, "127.0.0.1", chat_port, process_request=refuse, select_subprotocol=choose, max_size=None,
        write_limit=1 << 16,
    ):  # fmt: skip
        yield chat
        for socket in chat.open:
            socket.transport.abort()


#: What the gateway serves: most tests want the same.
SERVED: dict[str, Any] = {}


@pytest.fixture
def configured(gateway: Gateway, chat: Chat, chat_port: int) -> Any:
    def configure(plugins: list[dict[str, Any]] | None = None, **fields: Any) -> str:
        up = {"name": "chat", "targets": [{"host": "127.0.0.1", "port": chat_port}], "eject_after": 0, **fields}
        document = {"format": 1, "upstreams": [up], "routes": [route("chat", "/*", "chat")], "plugins": plugins or []}
        if SERVED.get(gateway.url) != document:
            gateway.configure(document)
            SERVED[gateway.url] = document
        return f"ws://127.0.0.1:{gateway.port}"

    return configure


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def closing(socket: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(10):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


def reset(socket: ClientConnection) -> None:
    linger = struct.pack("ii", 1, 0)
    socket.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
    socket.transport.abort()


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_ten_thousand_echoes_come_in_order(configured: Any) -> None:
    async with connect(configured() + "/echo", compression=None) as socket:

        async def send() -> None:
            for number in range(10_000):
                await socket.send(str(number) if number % 2 else number.to_bytes(4, "big"))

        sending = asyncio.create_task(send())
        async with asyncio.timeout(60):
            for number in range(10_000):
                got = await socket.recv()
                assert got == (str(number) if number % 2 else number.to_bytes(4, "big"))
        await sending


@pytest.mark.parametrize("message", ["", b"", "ä€😀", b"\x00\xff" * 500, "x" * 1_000_000, b"y" * 1_048_576])
async def test_a_message_is_what_it_was(configured: Any, message: str | bytes) -> None:
    async with connect(configured() + "/echo", max_size=None) as socket:
        await socket.send(message)
        assert await socket.recv() == message


async def test_fragments_are_one_message_both_ways(configured: Any) -> None:
    url = configured()
    async with connect(url + "/echo") as socket:
        await socket.send(["a", "", "b", "c"])
        assert await socket.recv() == "abc"
        await socket.send([b"a", b"b"])
        assert await socket.recv() == b"ab"
    async with connect(url + "/fragments") as socket:
        assert await socket.recv() == "one-two"


async def test_pings_are_answered(configured: Any) -> None:
    async with connect(configured() + "/echo") as socket:
        async with asyncio.timeout(5):
            await (await socket.ping(b"are you there"))


# --- the handshake ----------------------------------------------------------------------------------------------------


async def test_the_upstream_sees_the_client_as_in_any_request(
    configured: Any, chat: Chat, chat_port: int, gateway: Gateway
) -> None:
    url = configured([{"name": "request-transformer", "config": {"add": {"headers": ["x-added:yes"]}}}])
    headers = {"X-Mine": "1", "X-Consumer-Username": "root", "Cookie": "a=1"}
    async with connect(url + "/echo?q=%20x", additional_headers=headers, origin="https://a.example") as socket:  # type: ignore[arg-type]
        await socket.send("x")
        await socket.recv()
    seen = chat.requests[0]
    assert seen.path == "/echo?q=%20x"
    assert seen.headers["Host"] == f"127.0.0.1:{chat_port}"
    assert seen.headers["X-Forwarded-For"] == "127.0.0.1"
    assert seen.headers["X-Forwarded-Host"] == f"127.0.0.1:{gateway.port}"
    assert (seen.headers["X-Added"], seen.headers["X-Mine"], seen.headers["Cookie"]) == ("yes", "1", "a=1")
    assert seen.headers["Origin"] == "https://a.example"
    assert "X-Consumer-Username" not in seen.headers
    assert len(seen.headers.get_all("Sec-WebSocket-Key")) == 1


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["v1.chat"], "v1.chat"), (["v0", "v1.chat", "v2.chat"], "v2.chat"), ([], None)]
)
async def test_subprotocols_are_the_upstreams_to_choose(configured: Any, offered: Any, chosen: str | None) -> None:
    async with connect(configured() + "/echo", subprotocols=offered or None) as socket:
        assert socket.subprotocol == chosen


async def refusal(url: str, **options: Any) -> Any:
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, **options)
    return caught.value.response


async def test_what_is_refused_is_a_real_answer(configured: Any, gateway: Gateway) -> None:
    url = configured([{"name": "key-auth", "route": "chat", "config": {}}])
    answer = await refusal(url + "/echo")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'ApiKey realm="hydragate"'
    assert json.loads(answer.body)["code"] == "key_missing"


async def test_limits_hold_for_handshakes(configured: Any) -> None:
    url = configured([{"name": "rate-limiting", "route": "chat", "config": {"minute": 2, "by": "route"}}])
    for _ in range(2):
        async with connect(url + "/echo") as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
    answer = await refusal(url + "/echo")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


async def test_the_upstreams_own_refusal_is_passed_on(configured: Any) -> None:
    answer = await refusal(configured() + "/refused")
    assert (answer.status_code, answer.body, answer.headers["X-Why"]) == (418, b"short and stout\n", "teapot")


async def test_an_upstream_that_is_not_there_is_502_and_another_target_is_tried(
    configured: Any, chat_port: int
) -> None:
    dead = {"host": "127.0.0.1", "port": 1}
    answer = await refusal(configured(targets=[dead]) + "/echo")
    assert (answer.status_code, json.loads(answer.body)["code"]) == (502, "upstream_unreachable")
    url = configured(targets=[dead, {"host": "127.0.0.1", "port": chat_port}])
    for _ in range(3):
        async with connect(url + "/echo") as socket:
            await socket.send("x")
            assert await socket.recv() == "x"


async def test_origins_can_be_named(configured: Any) -> None:
    url = configured(
        [{"name": "websocket-limits", "route": "chat", "config": {"allowed_origins": ["https://a.example"]}}]
    )
    async with connect(url + "/echo", origin="https://a.example"):  # type: ignore[arg-type]
        pass
    for origin in (None, "https://b.example"):
        assert (await refusal(url + "/echo", origin=origin)).status_code == 403


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4000, 4999])
async def test_codes_of_the_upstream_reach_the_client(configured: Any, code: int) -> None:
    async with connect(configured() + f"/close/{code}") as socket:
        assert await closing(socket) == (code, "as asked")


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1009, 1011, 3000, 4999])
async def test_codes_of_the_client_reach_the_upstream(configured: Any, chat: Chat, code: int) -> None:
    async with connect(configured() + "/echo") as socket:
        await socket.close(code, "enough")
    await until(lambda: chat.closed)
    assert chat.closed[0][0] == code


async def test_an_upstream_that_breaks_off_is_1011(configured: Any) -> None:
    async with connect(configured() + "/die") as socket:
        await socket.send("now")
        assert (await closing(socket))[0] == 1011


@pytest.mark.parametrize("path", ["/echo", "/deaf", "/flood"])
async def test_a_client_that_breaks_off_takes_the_upstream_along_within_a_second(
    configured: Any, chat: Chat, path: str
) -> None:
    socket = await connect(configured() + path)
    if path == "/flood":
        await socket.recv()
    await until(lambda: chat.open)
    reset(socket)
    await until(lambda: not chat.open, 1.0)
    assert chat.closed[0][0] in (1006, 1011)


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_messages_that_are_too_large_or_too_many(configured: Any) -> None:
    limits = {"client_max_payload": 100, "upstream_max_payload": 1000, "messages_per_second": 5}
    url = configured([{"name": "websocket-limits", "route": "chat", "config": limits}])
    async with connect(url + "/echo") as socket:
        await socket.send("x" * 101)
        assert (await closing(socket))[0] == 1009
    async with connect(url + "/large") as socket:
        assert (await closing(socket))[0] == 1009
    async with connect(url + "/echo") as socket:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(50):
                await socket.send("x")
        assert (await closing(socket))[0] == 1008


async def test_an_open_socket_is_one_request_under_way(configured: Any) -> None:
    url = configured([{"name": "concurrency-limiting", "route": "chat", "config": {"max_in_flight": 1}}]) + "/echo"

    async def opened() -> ClientConnection:
        """As soon as the place of the one before is free."""
        async with asyncio.timeout(5):
            while True:
                try:
                    return await connect(url)
                except InvalidStatus:
                    await asyncio.sleep(0.01)

    for leave in (ClientConnection.close, reset):
        socket = await opened()
        answer = await refusal(url)
        assert (answer.status_code, json.loads(answer.body)["code"]) == (429, "concurrency_limited")
        if (waiting := leave(socket)) is not None:
            await waiting
    await (await opened()).close()


async def test_silence_has_an_end(configured: Any, chat: Chat) -> None:
    url = configured([{"name": "websocket-limits", "route": "chat", "config": {"idle_timeout_s": 1}}])
    async with connect(url + "/echo") as socket:
        for _ in range(4):  # who speaks is not silent
            await asyncio.sleep(0.4)
            await socket.send("x")
            await socket.recv()
        assert (await closing(socket))[0] == 1001
    await until(lambda: chat.closed)


def metric(gateway: Gateway, name: str) -> str:
    with urllib.request.urlopen(gateway.url + "/metrics", timeout=5) as answer:
        return next(line for line in answer.read().decode().splitlines() if line.startswith(name))


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_who_does_not_read_fills_no_memory(configured: Any, chat: Chat, gateway: Gateway) -> None:
    url = configured()
    async with connect(url + "/echo") as socket:
        await socket.send("x")
        await socket.recv()
    pid = gateway.get_json("/status")["pid"]
    before = rss(pid)
    clients = [await connect(url + "/flood", max_size=None, max_queue=1) for _ in range(5)]  # 60 MB each, not read
    deaf = [await connect(url + "/deaf", write_limit=1 << 20) for _ in range(5)]

    async def pour(socket: ClientConnection) -> None:
        for _ in range(300):
            await socket.send(b"y" * 200_000)

    pouring = [asyncio.create_task(pour(socket)) for socket in deaf]
    await asyncio.sleep(3)  # a time in which 600 MB would have come
    grown = rss(pid) - before
    for task in pouring:
        task.cancel()
    for socket in [*clients, *deaf]:
        reset(socket)
    await asyncio.gather(*pouring, return_exceptions=True)
    assert grown < 10 * 4 << 20, grown
    await until(lambda: " 0.0" in metric(gateway, "hydragate_websockets_open"), 10)


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_one_usage_row_tells_all_of_it(configured: Any, gateway: Gateway) -> None:
    async with connect(configured() + "/told") as socket:
        for message in ("abc", b"12345"):
            await socket.send(message)
            await socket.recv()
    detail = "WebSocket: 2 messages in, 2 out, closed with 1000"

    def rows() -> list[Any]:
        with psycopg.connect(gateway.environment["DATABASE_URL"]) as database:
            return database.execute(
                "SELECT status, bytes_in, bytes_out, outcome FROM usage_row WHERE detail = %s AND path = '/told'",
                [detail],
            ).fetchall()

    await asyncio.to_thread(wait_until, rows)  # the upstream, in this loop, has its part in the end
    assert rows() == [(101, 8, 8, "ok")]


async def test_a_worker_that_ends_says_so(configured: Any, chat: Chat, gateway: Gateway) -> None:
    async with connect(configured() + "/echo") as socket:
        await socket.send("x")
        await socket.recv()
        before = gateway.get_json("/status")["pid"]
        os.kill(before, signal.SIGTERM)
        assert (await closing(socket))[0] == 1001
    await until(lambda: chat.closed)
    assert chat.closed[0][0] == 1001
    wait_until(lambda: gateway.is_ready() and gateway.get_json("/status")["pid"] != before, 20)


# --- frames no library would send -------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes = b"", *, fin: int = 1, rsv: int = 0, masked: bool = True) -> bytes:
    head = bytes([fin << 7 | rsv << 4 | opcode])
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    elif len(payload) < 65536:
        head += bytes([mask | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", len(payload))
    return head + (b"\0\0\0\0" + payload if masked else payload)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


async def shaken(port: int, path: str = "/echo", extra: bytes = b"") -> tuple[Any, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET %s HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n%s\r\n" % (path.encode(), extra)
    )
    return reader, writer


async def read_frame(reader: Any) -> tuple[int, bytes]:
    async with asyncio.timeout(10):
        first, size = await reader.readexactly(2)
        length = size & 127
        if length == 126:
            length = struct.unpack("!H", await reader.readexactly(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", await reader.readexactly(8))[0]
        return first & 15, await reader.readexactly(length)


ECHOED: dict[str, tuple[bytes, list[tuple[int, bytes]]]] = {
    "text": (frame(TEXT, b"hi"), [(TEXT, b"hi")]),
    "binary": (frame(BINARY, b"\xff\0"), [(BINARY, b"\xff\0")]),
    "empty text": (frame(TEXT), [(TEXT, b"")]),
    "empty binary": (frame(BINARY), [(BINARY, b"")]),
    "125 bytes": (frame(TEXT, b"x" * 125), [(TEXT, b"x" * 125)]),
    "126 bytes": (frame(TEXT, b"x" * 126), [(TEXT, b"x" * 126)]),
    "65535 bytes": (frame(BINARY, b"x" * 65535), [(BINARY, b"x" * 65535)]),
    "65536 bytes": (frame(BINARY, b"x" * 65536), [(BINARY, b"x" * 65536)]),
    "two fragments": (frame(TEXT, b"a", fin=0) + frame(CONTINUATION, b"b"), [(TEXT, b"ab")]),
    "empty fragments": (
        frame(BINARY, fin=0) + frame(CONTINUATION, fin=0) + frame(CONTINUATION), [(BINARY, b"")],
    ),
    "a character cut by a fragment": (
        frame(TEXT, b"\xe2\x82", fin=0) + frame(CONTINUATION, b"\xac"), [(TEXT, b"\xe2\x82\xac")],
    ),
    "a ping between fragments": (
        frame(TEXT, b"a", fin=0) + frame(PING, b"p") + frame(CONTINUATION, b"b"), [(PONG, b"p"), (TEXT, b"ab")],
    ),
    "a ping with 125 bytes": (frame(PING, b"p" * 125), [(PONG, b"p" * 125)]),
    "an empty ping": (frame(PING), [(PONG, b"")]),
    "a pong nobody asked for": (frame(PONG, b"x") + frame(TEXT, b"y"), [(TEXT, b"y")]),
    "two messages at once": (frame(TEXT, b"1") + frame(TEXT, b"2"), [(TEXT, b"1"), (TEXT, b"2")]),
}  # fmt: skip

FAILED: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(TEXT, b"x", masked=False), 1002),
    "rsv1": (frame(TEXT, b"x", rsv=4), 1002),
    "rsv2": (frame(TEXT, b"x", rsv=2), 1002),
    "rsv3": (frame(TEXT, b"x", rsv=1), 1002),
    "rsv on a ping": (frame(PING, b"x", rsv=4), 1002),
    **{f"opcode {code}": (frame(code, b"x"), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a pong of 126 bytes": (frame(PONG, b"x" * 126), 1002),
    "a close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=0), 1002),
    "a close in fragments": (frame(CLOSE, b"\x03\xe8", fin=0), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a last continuation of nothing": (frame(CONTINUATION, b"x", fin=0), 1002),
    "text within fragments": (frame(TEXT, b"a", fin=0) + frame(TEXT, b"b"), 1002),
    "invalid UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "a lone surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "an overlong slash": (frame(TEXT, b"\xc0\xaf"), 1007),
    "beyond Unicode": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "a character that ends too soon": (frame(TEXT, b"\xe2\x82"), 1007),
    "invalid UTF-8 in a second fragment": (frame(TEXT, b"a", fin=0) + frame(CONTINUATION, b"\xff"), 1007),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    **{f"close {code}": (close(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000)},
    "a close whose reason is not UTF-8": (close(1000, b"\xff"), 1007),
    "a message of more than 1 MiB": (frame(BINARY, b"x" * 1_048_577), 1009),
}

HANDSHAKES: dict[str, tuple[bytes, bytes, set[int]]] = {
    "no key": (b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n", b"", {400}),
    "a short key": (b"PEC==\r\n", b"\r\n", {400}),
    "an old version": (b"Version: 13", b"Version: 7", {400, 426}),
    "no version": (b"Sec-WebSocket-Version: 13\r\n", b"", {400, 426}),
    "a second key": (b"Version: 13\r\n", b"Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n", {400}),
}


@pytest.mark.parametrize("case", ECHOED)
async def test_sound_frames(configured: Any, gateway: Gateway, case: str) -> None:
    configured()
    sent, expected = ECHOED[case]
    reader, writer = await shaken(gateway.port)
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    writer.write(sent)
    assert [await read_frame(reader) for _ in expected] == expected
    writer.write(close(1000, b"done"))
    opcode, payload = await read_frame(reader)
    assert (opcode, payload[:2]) == (CLOSE, b"\x03\xe8")
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("case", FAILED)
async def test_frames_that_break_the_rules(configured: Any, chat: Chat, gateway: Gateway, case: str) -> None:
    configured()
    sent, code = FAILED[case]
    for _ in range(3):  # what the kernel of a client holds is lost to it if the connection is cut in that moment
        reader, writer = await shaken(gateway.port)
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        try:
            opcode, payload = await read_frame(reader)
            assert (opcode, struct.unpack("!H", payload[:2])[0]) == (CLOSE, code)
            break
        except ConnectionResetError:
            continue
        finally:
            writer.close()
    else:  # a close frame that is none ends the connection at once, which RFC 6455 §7.1.7 allows
        assert "close" in case
    await until(lambda: not chat.open)


@pytest.mark.parametrize("case", HANDSHAKES)
async def test_handshakes_that_are_none(configured: Any, gateway: Gateway, case: str) -> None:
    configured()
    old, new, statuses = HANDSHAKES[case]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    sound = (
        b"GET /echo HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n\r\n"
    )
    assert old in sound
    writer.write(sound.replace(old, new, 1))
    async with asyncio.timeout(10):
        status = int((await reader.readline()).split()[1])
    assert status in statuses
    writer.close()
