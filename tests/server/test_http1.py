"""Requests and answers over a real socket: framing, persistence, pipelining, ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.proxy.headers import Lasting
from gateway.server import listener as listener_module
from tests.server.front import Client, OneByteConnection, echo, front, hello, read_body, until

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a.test\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["whole", "byte by byte"])
def packets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "byte by byte":
        monkeypatch.setattr(listener_module, "Connection", OneByteConnection)


def answering(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


# ---- requests


async def test_scope() -> None:
    async with front(echo) as server:
        client = await server.connect()
        seen = (await client.ask(b"GET /%C3%A4/b?c=%20 HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nX-A: 2\r\n\r\n")).json()
        assert seen == {
            "method": "GET", "path": "/ä/b", "raw_path": "/%C3%A4/b", "query_string": "c=%20", "root_path": "",
            "http_version": "1.1", "scheme": "http", "body": "",
            "headers": [["host", "a.test"], ["x-a", "1"], ["x-a", "2"]],
            "client": list(client.writer.get_extra_info("sockname")), "server": list(server.address),
        }  # fmt: skip


async def test_unix_socket_has_no_client_address(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    async with front(echo, sock) as server:
        seen = (await (await server.connect()).ask(GET)).json()
        assert (seen["client"], seen["server"]) == (None, [server.address, None])


REQUESTS = [
    (GET, "GET", ""),
    (b"\r\n" + GET, "GET", ""),
    (b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "OPTIONS", ""),
    (b"PROPFIND / HTTP/1.1\r\nHost: a.test\r\n\r\n", "PROPFIND", ""),
    (b"GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET", ""),
    (b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello", "POST", "hello"),
    (b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", "POST", ""),
    (CHUNKED + b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nT: 1\r\n\r\n", "POST", "hello!"),
    (CHUNKED + b"0\r\n\r\n", "POST", ""),
]


@pytest.mark.usefixtures("packets")
@pytest.mark.parametrize(("data", "method", "sent"), REQUESTS)
async def test_requests_arrive_and_the_connection_goes_on(data: bytes, method: str, sent: str) -> None:
    async with front(echo) as server:
        client = await server.connect()
        for _ in range(2):
            seen = (await client.ask(data)).json()
            assert (seen["method"], seen["body"]) == (method, sent)


@pytest.mark.usefixtures("packets")
async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        await echo(scope, receive, send)

    async with front(app) as server:
        client = await server.connect()
        await client.send(b"".join(request for request, _, _ in REQUESTS) * 20)
        for _, method, sent in REQUESTS * 20:
            seen = (await client.answer()).json()
            assert (seen["method"], seen["body"]) == (method, sent)


@pytest.mark.parametrize(("most", "later", "taken"), [(5, b"", True), (4, b"", False), (5, b"lo", False)])
async def test_a_body_is_taken_at_once_only_if_it_is_all_there(most: int, later: bytes, taken: bool) -> None:
    looked = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = scope["extensions"]["hydragate.cycle"].at_once(most)
        looked.set()
        if body is None:
            await echo(scope, receive, send)
        else:
            assert scope["extensions"]["hydragate.cycle"].at_once(most) is None
            await echo(
                scope, partial(asyncio.sleep, 0, {"type": "http.request", "body": body, "more_body": False}), send
            )
        assert (body is not None) is taken

    async with front(app) as server:
        client = await server.connect()
        for _ in range(2):
            looked.clear()
            head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n"
            await client.send(head + b"hello"[: 5 - len(later)])
            await looked.wait()
            if later:
                await client.send(later)
            assert (await client.answer()).json()["body"] == "hello"


async def test_body_is_handed_over_as_it_arrives() -> None:
    pieces: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["more_body"]:
            pieces.append(message["body"])
        await hello(scope, receive, send)

    async with front(app) as server:
        client = await server.connect()
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        await until(lambda: pieces == [b"abc"])
        await client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert (await client.answer()).status == 200


EXPECT = b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"


async def test_100_continue_comes_when_the_body_is_wanted() -> None:
    wanted = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await wanted.wait()
        await echo(scope, receive, send)

    async with front(app) as server:
        client = await server.connect()
        await client.send(EXPECT)
        await until(lambda: len(server.listener.requests) == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)
        wanted.set()
        assert (await client.answer()).status == 100
        assert (await client.ask(b"abc")).json()["body"] == "abc"


async def test_no_100_continue_for_a_body_nobody_wants_or_that_is_here() -> None:
    async with front(hello) as server:
        answer = await (client := await server.connect()).ask(EXPECT)
        assert (answer.status, answer["connection"]) == (200, "close")
        assert await client.rest() == b""
    async with front(echo) as server:
        assert (await (await server.connect()).ask(EXPECT + b"abc")).json()["body"] == "abc"


# ---- answers


async def test_whole_answer_gets_its_length_and_a_date() -> None:
    async with front(answering(start(), body(b"abc"))) as server:
        answer = await (await server.connect()).ask(GET)
        assert (answer["content-length"], answer.body) == ("3", b"abc")
        assert answer["date"].endswith(" GMT")
        assert {name for name, _ in answer.headers} == {"content-length", "date"}


async def test_date_of_the_application_is_kept() -> None:
    async with front(answering(start(200, (b"Date", b"then")), body())) as server:
        assert (await (await server.connect()).ask(GET))["date"] == "then"


async def test_streamed_answer_is_chunked_for_1_1_and_ends_with_the_connection_for_1_0() -> None:
    async with front(answering(start(), body(b"ab", True), body(b"", True), body(b"c"))) as server:
        client = await server.connect()
        answer = await client.ask(GET)
        assert (answer["transfer-encoding"], answer["content-length"], answer.body) == ("chunked", "", b"abc")
        assert (await client.ask(GET)).body == b"abc"
        old = await (await server.connect()).ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (old["transfer-encoding"], old["connection"], old.body) == ("", "close", b"abc")


async def test_an_empty_first_piece_sends_the_head_at_once() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"", True))
        await go.wait()
        await send(body(b"x"))

    async with front(app) as server:
        client = await server.connect()
        await client.send(GET)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        go.set()
        assert await client.reader.readexactly(11) == b"1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "status", "headers", "data", "length"),
    [
        ("HEAD", 200, [(b"content-length", b"9")], b"", "9"),
        ("HEAD", 200, [], b"abc", "3"),
        ("HEAD", 200, [], b"", ""),
        ("GET", 204, [], b"", ""),
        ("GET", 204, [(b"content-length", b"0")], b"", ""),
        ("GET", 204, [], b"abc", ""),
        ("GET", 304, [], b"", ""),
        ("GET", 304, [(b"content-length", b"9")], b"", "9"),
    ],
)
async def test_answers_without_a_body(method: str, status: int, headers: Any, data: bytes, length: str) -> None:
    async with front(answering(start(status, *headers), body(data))) as server:
        client = await server.connect()
        for _ in range(2):
            answer = await client.ask(GET.replace(b"GET", method.encode()), method)
            assert (answer.status, answer["content-length"], answer["transfer-encoding"]) == (status, length, "")


async def test_http_1_0_keeps_alive_only_when_asked() -> None:
    async with front(hello) as server:
        client = await server.connect()
        kept = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (kept["connection"], kept.body) == ("keep-alive", b"hello")
        assert (await client.ask(b"GET / HTTP/1.0\r\n\r\n"))["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.parametrize("by", ["client", "application"])
async def test_either_side_can_close(by: str) -> None:
    headers = [(b"Connection", b"Close")] if by == "application" else []
    async with front(answering(start(200, *headers), body(b"x"))) as server:
        client = await server.connect()
        answer = await client.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if by == "client" else GET)
        assert (answer["connection"], answer.body) == ("close", b"x")
        assert await client.rest() == b""


async def test_framing_is_ours() -> None:
    headers = [(b"transfer-encoding", b"chunked"), (b"connection", b"keep-alive"), (b"X-Kept", b"1")]
    async with front(answering(start(200, *headers), body(b"abc"))) as server:
        answer = await (await server.connect()).ask(GET)
        assert {name for name, _ in answer.headers} == {"x-kept", "date", "content-length"}


# ---- ends


def fails_at_once(_: Any) -> Any:
    raise ValueError("boom")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [start()],
        [start(), start()],
        [body(b"x")],
        [{"type": "nonsense"}],
        [start(101), body()],
        [start(200, (b"x", b"a\r\nset-cookie: b")), body()],
        [start(200, (b"x\r\ny", b"a")), body()],
        [start(200, (b"x", b"a\0")), body()],
        [start(200, (b"content-length", b"1"), (b"content-length", b"2")), body()],
        [start(200, (b"content-length", b"-1")), body()],
        [start(200, (b"content-length", b"2")), body(b"abc")],
        [start(200, (b"content-length", b"2")), body(b"a")],
    ],
)
async def test_a_failure_before_the_answer_is_a_500_and_logged(messages: Any, caplog: Any) -> None:
    async with front(answering(*messages)) as server:
        client = await server.connect()
        answer = await client.ask(GET)
        assert (answer.status, answer["content-type"]) == (500, "application/problem+json")
        assert answer.json()["code"] == "internal_error"
        assert len(answer.json()["instance"]) == 32
        assert await client.rest() == b""
        assert server.refusals == [(500, "internal_error")]
    assert [record.name for record in caplog.records if record.levelno == logging.ERROR] == ["gateway.server"]


async def test_a_500_for_head_has_no_body() -> None:
    async with front(answering()) as server:
        client = await server.connect()
        assert (await client.ask(GET.replace(b"GET", b"HEAD"), "HEAD")).status == 500
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(b"x", True)],
        [start(), body(b"x", True), {"type": "nonsense"}],
        [start(200, (b"content-length", b"3")), body(b"ab", True), body(b"")],
        [start(200, (b"content-length", b"3")), body(b"ab", True), body(b"cd")],
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_broken_answer_never_looks_whole(messages: Any, version: bytes) -> None:
    async with front(answering(*messages)) as server:
        client = await server.connect()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.ask(GET.replace(b"1.1", version))
        await until(lambda: not server.listener.connections)


async def test_the_application_can_abort_without_hearing_of_it_as_a_disconnect() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["hydragate.cycle"].on_disconnect(lambda: heard.append("left"))
        await send(start())
        await send(body(b"x", True))
        scope["extensions"]["hydragate.cycle"].abort()
        with pytest.raises(OSError, match="left"):
            await send(body())
        heard.append("aborted")

    async with front(app) as server:
        client = await server.connect()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.ask(GET)
        await until(lambda: heard == ["aborted"])


async def leaves_reset(client: Client) -> None:
    client.abort()


async def leaves_quietly(client: Client) -> None:
    client.writer.close()


@pytest.mark.parametrize("leave", [leaves_reset, leaves_quietly])
@pytest.mark.parametrize("request_", [GET, EXPECT, CHUNKED + b"3\r\nabc\r\n"])
async def test_a_client_that_leaves_is_noticed_at_once(leave: Callable[[Client], Any], request_: bytes) -> None:
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["hydragate.cycle"].on_disconnect(lambda: heard.append("callback"))
        while (message := await receive())["type"] == "http.request":
            pass
        heard.append(message["type"])
        with pytest.raises(OSError, match="left"):
            await send(start())
        scope["extensions"]["hydragate.cycle"].on_disconnect(lambda: heard.append("late"))

    async with front(app) as server:
        client = await server.connect()
        await client.send(request_)
        await until(lambda: len(server.listener.requests) == 1)
        await leave(client)
        await until(lambda: heard == ["callback", "http.disconnect", "late"])
        await until(lambda: not server.listener.connections and not server.listener.requests)
        assert server.refusals == []


async def test_after_the_answer_receive_says_disconnect_and_no_callback_is_called() -> None:
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["hydragate.cycle"].on_disconnect(lambda: heard.append("callback"))
        await hello(scope, receive, send)
        heard.append((await receive())["type"])

    async with front(app) as server:
        client = await server.connect()
        await client.ask(GET)
        client.abort()
        await until(lambda: not server.listener.connections and heard != [])
        assert heard == ["http.disconnect"]


# ---- an answer before the body was read


async def test_a_small_rest_of_the_body_is_read_away() -> None:
    async with front(hello) as server:
        client = await server.connect()
        assert (await client.ask(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 50000\r\n\r\n")).status == 200
        await client.send(b"x" * 50_000 + GET)
        assert (await client.answer()).status == 200
        assert (await client.ask(CHUNKED + b"3\r\n")).status == 200
        assert (await client.ask(b"abc\r\n0\r\n\r\n" + GET)).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 10000000", b"Transfer-Encoding: chunked"])
async def test_a_large_rest_of_the_body_ends_the_connection_but_not_the_answer(framing: bytes) -> None:
    async with front(hello) as server:
        client = await server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\n" + framing + b"\r\n\r\n")
        writing = asyncio.create_task(client.send(b"1000000\r\n" + b"x" * 9_000_000))
        answer = await client.answer()
        assert answer.body == b"hello"
        said = answer["connection"] == "close"  # of a chunked body nobody knows how much is to come
        assert said == framing.startswith(b"Content-Length")
        assert await client.rest() == b""
        await writing


async def test_an_early_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with front(hello, max_body_bytes=1000) as server:
        client = await server.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8000000\r\n\r\n")
        await client.send(b"x" * 8_000_000)
        assert (await client.answer()).json()["code"] == "body_too_large"
        assert await client.rest() == b""
        assert server.refusals == [(413, "body_too_large")]


async def test_a_length_over_the_limit_is_refused_without_100_continue() -> None:
    async with front(hello, max_body_bytes=2) as server:
        assert (await (await server.connect()).ask(EXPECT)).status == 413


@pytest.mark.parametrize(("broken", "status"), [(b"zz\r\n", 400), (b"ffff\r\n", 413)])
async def test_a_body_that_goes_wrong(broken: bytes, status: int) -> None:
    """Before the answer: refused. After its beginning: aborted. The application hears a disconnect in both cases."""
    started, heard = False, 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal heard
        assert (await receive())["body"] == b"abc"
        if started:
            await send(start())
            await send(body(b"x", True))
        heard += 1
        with pytest.raises(ConnectionError):
            await read_body(receive)
        heard += 1

    async with front(app, max_body_bytes=1000) as server:
        client = await server.connect()
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        await until(lambda: heard == 1)
        assert (await client.ask(broken)).status == status
        await until(lambda: heard == 2)
        started, client = True, await server.connect()
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        await client.reader.readuntil(b"x\r\n")
        await client.send(broken)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.reader.readexactly(1)
        await until(lambda: heard == 4)


# ---- numbers and the end


async def test_one_connection_too_many_is_told_so() -> None:
    async with front(hello, max_connections=2) as server:
        held = [await server.connect() for _ in range(2)]
        assert (await held[0].ask(GET)).status == 200
        surplus = await server.connect()
        answer = await surplus.ask(GET)
        assert (answer.status, answer["retry-after"], server.refusals) == (503, "1", [(503, "too_many_connections")])
        surplus.abort()
        held[1].abort()
        await until(lambda: len(server.listener.connections) == 1)
        assert (await (await server.connect()).ask(GET)).status == 200


async def test_draining_ends_idle_connections_and_answers_what_is_under_way() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await hello(scope, receive, send)

    async with front(app) as server:
        idle, busy, fresh, active = [await server.connect() for _ in range(4)]
        await idle.ask(GET)
        await active.ask(GET)
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await until(lambda: len(server.listener.requests) == 1 and len(server.listener.connections) == 4)
        server.listener.begin_drain()
        assert (await active.ask(GET))["connection"] == "close"  # its request may have been on its way
        assert (await fresh.ask(GET))["connection"] == "close"
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            await server.connect()
        drained = asyncio.create_task(server.listener.drained())
        go.set()
        answer = await busy.answer()
        assert (answer["connection"], answer.body) == ("close", b"hello")
        assert await busy.rest() == b""
        fresh.abort()
        async with asyncio.timeout(5):
            await drained


async def test_draining_ends_a_connection_whose_answer_came_before_its_body() -> None:
    async with front(hello) as server:
        client = await server.connect()
        await client.ask(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5000\r\n\r\n")
        server.listener.begin_drain()
        await client.send(b"x" * 5000)
        assert await client.rest() == b""


async def test_an_answer_begun_before_draining_is_finished_and_then_closed() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"a", True))
        await go.wait()
        await send(body(b"b"))

    async with front(app) as server:
        client = await server.connect()
        await client.send(GET)
        await client.reader.readuntil(b"a\r\n")
        server.listener.begin_drain()
        go.set()
        assert await client.rest() == b"1\r\nb\r\n0\r\n\r\n"


async def test_a_hard_close_cancels_applications() -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with front(app) as server:
        client = await server.connect()
        await client.send(GET)
        await until(lambda: len(server.listener.requests) == 1)
        await server.listener.close()
        assert ended.is_set()
        assert not server.listener.requests


# ---- answers that are sent again and again


LASTING = [(b"a", b"1"), (b"date", b"Mon, 21 Sep 2026 14:14:00 GMT"), (b"a", b"2"), (b"content-length", b"2")]


@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n",
])  # fmt: skip
async def test_lasting_fields_are_on_the_wire_what_others_are(head: bytes) -> None:
    fields = Lasting(LASTING)
    given: list[list[tuple[bytes, bytes]]] = [LASTING, fields, fields]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["extensions"]["hydragate.cycle"].answer(200, given.pop(0), b"ok")

    async with front(app) as server:
        method = head.split(b" ")[0].decode()
        first, *others = [await (await server.connect()).ask(head, method) for _ in range(3)]
    assert fields.written is not None
    assert first.body == (b"" if method == "HEAD" else b"ok")
    assert others == [first, first]
