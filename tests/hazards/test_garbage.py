"""Whatever a client sends: the right 4xx, never a 500, never a traceback in the log."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.gateway import Gateway, route, upstream

HEAD = b"GET /open/x HTTP/1.1\r\nHost: a.test\r\n"
POST = b"POST /open/x HTTP/1.1\r\nHost: a\r\n"
PREFLIGHT = (
    b"OPTIONS /open/x HTTP/1.1\r\nHost: a\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
)


@pytest.fixture(scope="module", autouse=True)
def configured(gateway: Gateway, plain_upstream: int) -> None:
    gateway.configure({
        "format": 1,
        "upstreams": [upstream("plain", plain_upstream)],
        "routes": [
            route("open", "/open/*", "plain", max_body_bytes=1000),
            route("keyed", "/keyed/*", "plain"),
            route("hosted", "/*", "plain", hosts=["only.test"]),
        ],
        "plugins": [
            {"name": "key-auth", "route": "keyed", "config": {}},
            {"name": "rate-limiting", "route": "keyed", "config": {"minute": 500, "by": "ip"}},
            {"name": "cors", "route": "open", "config": {"origins": ["https://app.test"]}},
        ],
    })  # fmt: skip


def say(gateway: Gateway, data: bytes) -> tuple[int, dict[str, object]]:
    """The first answer's status and problem."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR) if not data else None
        answer = b""
        while b"\r\n\r\n" not in answer and (more := client.recv(65536)):
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        while len(body) < length and (more := client.recv(65536)):
            body += more
    status = int(head.split(b" ")[1]) if head else 0
    return status, json.loads(body) if body.startswith(b"{") else {}


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (HEAD + b"\r\n", 200, None),
        (b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", 404, "no_route"),
        (b"GET /elsewhere HTTP/1.1\r\nHost: other.test\r\n\r\n", 404, "no_route"),
        (b"GET /elsewhere HTTP/1.1\r\nHost: ONLY.test:80\r\n\r\n", 200, None),
        (b"GET /open/\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
        (b"GET /open/%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
        (b"GET /open/%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
        (b"GET /open/%2e%2e/keyed/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
        (b"GET /open/..%2fkeyed/x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ambiguous_path"),
        (HEAD + b"X: " + b"y" * 40_000 + b"\r\n\r\n", 431, "head_too_large"),
        (HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(150)) + b"\r\n", 431, "head_too_large"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
        (POST + b"Content-Length: 1001\r\n\r\n", 413, "body_too_large"),
        (POST + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n", 413, "body_too_large"),
        (POST + b"Content-Length: -1\r\n\r\n", 400, "bad_request"),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "transfer_coding_unknown"),
        (b"GET /open/x HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /open/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (b"GET /open/x HTTP/3.0\r\nHost: a\r\n\r\n", 505, "http_version_not_supported"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n", 400, "bad_request"),
        (b"GET /keyed/x HTTP/1.1\r\nHost: a\r\n\r\n", 401, "key_missing"),
        (b"GET /keyed/x HTTP/1.1\r\nHost: a\r\napikey: hg_live_\xff\xfe\r\n\r\n", 401, "key_invalid"),
        (b"GET /keyed/x?apikey=%00%ff HTTP/1.1\r\nHost: a\r\n\r\n", 401, "key_invalid"),
        (b"GET /keyed/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\n\r\n", 401, "key_missing"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
        (b"GET http://only.test/x HTTP/1.1\r\nHost: liar\r\n\r\n", 200, None),
        (b"BREW /open/pot HTTP/1.1\r\nHost: a\r\n\r\n", 200, None),
        (PREFLIGHT, 204, None),
        (b"GET /open/x HTTP/1.1\r\nHost: a\r\nOrigin: \xff\xfe\r\nCookie: \xff=\xfe\r\n\r\n", 200, None),
        (b"GET /open/x?%ff=%fe&&&=&a HTTP/1.1\r\nHost: a\r\n\r\n", 200, None),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_each_gets_its_answer(gateway: Gateway, data: bytes, status: int, code: str | None) -> None:
    got, problem = say(gateway, data)
    assert (got, problem.get("code")) == (status, code)


def test_no_traceback_was_logged(gateway: Gateway) -> None:
    for junk in (
        b"",
        b"\x00" * 1000,
        b"\r\n" * 100 + b"GET",
        bytes(range(256)) * 20,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
            client.sendall(junk)
    assert say(gateway, HEAD + b"\r\n")[0] == 200
    log = (gateway.directory / "serve.log").read_text()
    assert "Traceback" not in log
