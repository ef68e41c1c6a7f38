"""Every malformed request, on a real socket, whole and byte by byte: the right problem, then the end, and no
application ever called."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.server import listener as listener_module
from tests.server.front import OneByteConnection, front, hello
from tests.server.test_head import REFUSED, H

STATUS = {
    "bad_request": 400, "bad_path": 400, "method_not_allowed": 405, "target_too_long": 414, "expectation_failed": 417,
    "head_too_large": 431, "transfer_coding_unknown": 501, "http_version_not_supported": 505, "body_too_large": 413,
}  # fmt: skip
ENDLESS = [  # never reach the end of a head
    (b"G" * 9000, "target_too_long"),
    (b"GET /" + b"a" * 9000, "target_too_long"),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n", "target_too_long"),
    (b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 40_000, "head_too_large"),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, "head_too_large"),
    (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 33_000 + b"\r\n\r\n", "head_too_large"),
    (b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n" * 100 + b"\r\n", "head_too_large"),
    (b"GET / HTTP/1.1\n", "bad_request"),
    (b"GET / HTTP/1.1\nHost: a\n\n", "bad_request"),
    (b"GET / HTTP/1.1\r\nHost: a\n\n", "bad_request"),
]
CHUNKED = b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n"
BODIES = [
    (CHUNKED + b"x\r\n", "bad_request"),
    (CHUNKED + b"1\r\nab\r\n", "bad_request"),
    (CHUNKED + b"1 \r\na\r\n", "bad_request"),
    (CHUNKED + b"1\na\n", "bad_request"),
    (CHUNKED + b"1;" + b"a" * 5000, "bad_request"),
    (CHUNKED + b"0\r\nX : 1\r\n\r\n", "bad_request"),
    (CHUNKED + b"fffff\r\n", "body_too_large"),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 65537\r\n\r\n", "body_too_large"),
]
ALL = [*REFUSED, *ENDLESS, *BODIES]


async def reads_everything(scope: Any, receive: Any, send: Any) -> None:
    """The body is malformed, so it never ends: nothing is ever answered."""
    while (message := await receive())["type"] != "http.disconnect":
        assert message["more_body"]


@pytest.mark.parametrize("packets", ["whole", "byte by byte"])
@pytest.mark.parametrize(("data", "code"), ALL, ids=[repr(data)[2:60] for data, _ in ALL])
async def test_malformed_requests(data: bytes, code: str, packets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if packets == "byte by byte":
        monkeypatch.setattr(listener_module, "Connection", OneByteConnection)
    async with front(reads_everything, max_body_bytes=65536) as server:
        client = await server.connect()
        answer = await client.ask(data)
        problem = answer.json()
        assert (answer.status, problem["status"], problem["code"]) == (STATUS[code], STATUS[code], code)
        assert (answer["content-type"], answer["connection"]) == ("application/problem+json", "close")
        assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "message"}
        assert await client.rest() == b""
        assert server.refusals == [(STATUS[code], code)]


async def test_what_follows_a_refused_request_is_not_another_request() -> None:
    async with front(hello) as server:
        client = await server.connect()
        smuggled = b"0\r\n\r\nGET /admin HTTP/1.1\r\n" + H + b"\r\n"
        await client.send(
            b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled
        )
        assert (await client.answer()).status == 400
        assert await client.rest() == b""


async def test_a_refused_request_behind_a_good_one_is_answered_after_it() -> None:
    async with front(hello) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\n" + H + b"\r\nGET / HTTP/1.1\r\n\r\n")
        assert [(await client.answer()).status, (await client.answer()).status] == [200, 400]
        assert await client.rest() == b""
