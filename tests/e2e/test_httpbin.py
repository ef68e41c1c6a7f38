"""The httpbin package behind the gateway: what a client sees must be what the upstream said."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import pytest

from tests.e2e.gateway import Gateway, route, upstream, wait_until


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def httpbin_port() -> Iterator[int]:
    from httpbin import app

    server = make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def client(gateway: Gateway, httpbin_port: int) -> Iterator[httpx.Client]:
    gateway.configure({
        "format": 1,
        "upstreams": [upstream("httpbin", httpbin_port)],
        "routes": [route("bin", "/bin/*", "httpbin", strip_path=True)],
        "plugins": [],
    })  # fmt: skip
    with httpx.Client(base_url=f"{gateway.url}/bin", timeout=30) as client:
        wait_until(lambda: client.get("/get").status_code == 200, what="the route is live")
        yield client


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_anything_arrives_as_it_was_sent(client: httpx.Client, method: str) -> None:
    answer = client.request(
        method, "/anything/a%20b?x=1&x=2&show_env=1", content=b"caf\xc3\xa9", headers={"X-Two": "a, b"}
    )
    seen = answer.json()
    assert answer.status_code == 200
    assert seen["method"] == method
    assert seen["args"]["x"] == ["1", "2"]
    assert seen["data"] == "café"
    assert seen["headers"]["X-Two"] == "a, b"
    assert seen["headers"]["Via"] == "1.1 hydragate"
    assert seen["headers"]["X-Forwarded-Prefix"] == "/bin"


def test_a_stream_of_lines(client: httpx.Client) -> None:
    with client.stream("GET", "/stream/20") as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [line["id"] for line in lines] == list(range(20))


def test_drip_arrives_while_it_drips(client: httpx.Client) -> None:
    with client.stream("GET", "/drip?duration=1&numbytes=5&delay=0") as answer:
        chunks = list(answer.iter_raw())
    assert b"".join(chunks) == b"*" * 5
    assert len(chunks) > 1


def test_a_redirect_is_the_clients_to_follow(client: httpx.Client) -> None:
    answer = client.get("/redirect/2")
    assert answer.status_code == 302
    assert answer.headers["location"].endswith("/relative-redirect/1")


def test_cookies_are_set_and_never_kept(client: httpx.Client, gateway: Gateway) -> None:
    first = httpx.get(f"{gateway.url}/bin/cookies/set?a=1&b=2")
    assert sorted(value.split(";")[0] for value in first.headers.get_list("set-cookie")) == ["a=1", "b=2"]
    assert httpx.get(f"{gateway.url}/bin/cookies").json() == {"cookies": {}}


def test_gzip_is_byte_identical(gateway: Gateway, client: httpx.Client, httpbin_port: int) -> None:
    """httpbin writes the time into its gzip header and echoes the request: only the payload's shape can be compared."""

    def raw(port: int, path: str) -> tuple[str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        body = answer.read()
        assert int(answer.headers["Content-Length"]) == len(body)
        connection.close()
        return answer.headers["Content-Encoding"], body

    through, direct = raw(gateway.port, "/bin/gzip"), raw(httpbin_port, "/gzip")
    assert through[0] == direct[0] == "gzip"
    assert through[1][:2] == b"\x1f\x8b"
    # Bytes that are the same at each call must be the same through the gateway.
    assert raw(gateway.port, "/bin/image/png") == raw(httpbin_port, "/image/png")
    assert raw(gateway.port, "/bin/brotli")[0] == "br"


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 404, 418, 429, 500, 503])
def test_every_status_passes(client: httpx.Client, status: int) -> None:
    answer = client.get(f"/status/{status}")
    assert answer.status_code == status
    if status in (204, 304):
        assert answer.content == b""


def test_head_has_the_length_and_no_body(client: httpx.Client) -> None:
    answer = client.head("/image/png")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 1000
    assert answer.content == b""
