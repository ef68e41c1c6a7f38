"""Policies on traffic, each on a route of its own, over real connections through a real gateway."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import subprocess
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from tests.e2e.gateway import Gateway, route, running, upstream, wait_until
from tests.hazards.origin import Origin, RawClient, origin

SECRET = "sixteen-bytes-at-least"
SOON_S = 10.0  # the bound is 2 s, and this machine may be busy
#: Route → its settings. A route `x` is at `/x/*`.
POLICIES: dict[str, dict[str, dict[str, Any]]] = {
    "office": {"ip-restriction": {"allow": ["203.0.113.0/24", "2001:db8::/32"]}},
    "closed": {"request-termination": {"message": "We are moving."}},
    "mocked": {"request-termination": {"status_code": 201, "body": '{"id": 7}', "trigger": "mock"}},
    "echoed": {"request-termination": {"status_code": 200, "echo": True}},
    "secure": {"redirect": {"location": "https://{host}{path}", "status_code": 308}},
    "small": {"request-size-limiting": {"allowed_payload_size": 1, "size_unit": "kilobytes"}},
    "people": {"bot-detection": {"allow": ["GoodBot/"], "deny": ["^$"]}},
    "safe": {"security-headers": {"content_security_policy": "default-src 'self'"}},
    "named": {"request-id": {"header_name": "Correlation-Id", "generator": "uuid#counter"}},
    "faulty": {"fault-injection": {
        "abort": {"percentage": 100, "status": 500}, "delay": {"percentage": 100, "duration_ms": 100},
        "trigger": "X-Fail",
    }},
    "narrow": {
        "concurrency-limiting": {"max_in_flight": 3, "error_code": 503, "retry_after_s": 2},
        "fault-injection": {"delay": {"percentage": 100, "duration_ms": 3000}, "trigger": "X-Slow"},
    },
    "signed": {
        "hmac-auth": {"credentials": [{"username": "billing", "secret": SECRET}], "validate_request_body": True},
    },
    "private": {"basic-auth": {"realm": "The office"}},
    "kept": {
        "file-log": {"file": "kept.log"}, "http-log": {"url": "http://127.0.0.1:1/in"},
        "syslog": {"server": "tcp://127.0.0.1:1"}, "kafka-log": {"brokers": ["127.0.0.1:1"], "topic": "requests"},
    },
    "jq": {
        "body-transformer": {"response": {"jq": "{n: .a, seen: env}"}},
        "request-termination": {"status_code": 200, "body": '{"a": 7}', "content_type": "application/json"},
    },
    "stuck": {
        "body-transformer": {"response": {"jq": "def f: f; f"}, "timeout_ms": 300},
        "request-termination": {"status_code": 200, "body": "{}", "content_type": "application/json"},
    },
    "packed": {"compression": {}, "request-termination": {"status_code": 200, "body": "[1, 2]" * 1000}},
}  # fmt: skip


@pytest.fixture(scope="module")
def recording() -> Iterator[Origin]:
    with origin() as served:
        yield served


@pytest.fixture(scope="module")
def traffic(directory: Path, database_url: str, recording: Origin) -> Iterator[Gateway]:
    environment = {
        "DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL, "GATEWAY_REDIS_TIMEOUT_MS": "1000",
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.1/32",
    }  # fmt: skip
    with running(Gateway(directory, environment)) as gateway:
        gateway.configure({
            "format": 1,
            "upstreams": [upstream("origin", recording.port)],
            "routes": [route(name, f"/{name}/*", "origin") for name in POLICIES],
            "plugins": [
                {"name": plugin, "route": name, "config": config}
                for name, used in POLICIES.items()
                for plugin, config in used.items()
            ],
        })  # fmt: skip
        yield gateway


@pytest.fixture
def client(traffic: Gateway, recording: Origin) -> Iterator[httpx.Client]:
    recording.take()
    with httpx.Client(base_url=traffic.url) as client:
        yield client


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [("203.0.113.9", 200), ("2001:db8::7", 200), ("198.51.100.1", 403), ("203.0.113.9, 198.51.100.1", 403), ("", 403)],
)
def test_ip_restriction_asks_for_the_client_the_trusted_proxy_saw(
    client: httpx.Client, forwarded: str, status: int
) -> None:
    answer = client.get("/office/x", headers={"X-Forwarded-For": forwarded} if forwarded else {})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "ip_not_allowed"


def test_request_termination_closes_mocks_and_echoes(client: httpx.Client, recording: Origin) -> None:
    closed = client.post("/closed/x", content=b"x" * 100_000)
    assert (closed.status_code, closed.json()["detail"]) == (503, "We are moving.")
    mocked = client.get("/mocked/x?mock")
    assert (mocked.status_code, mocked.json(), mocked.headers["content-type"]) == (201, {"id": 7}, "application/json")
    echoed = client.get("/echoed/x?a=1", headers={"Cookie": "s=1", "X-A": "1"}).json()
    assert (echoed["path"], echoed["query"], echoed["route"]) == ("/echoed/x", "a=1", "echoed")
    assert {("x-a", "1"), ("cookie", "(hidden)")} <= {tuple(pair) for pair in echoed["headers"]}
    assert not recording.take()
    assert client.get("/mocked/x").text == "ok"


def test_redirect_upgrades_the_scheme_and_leaves_those_who_have_it(client: httpx.Client) -> None:
    answer = client.get("/secure/a%20b?x=1", headers={"Host": "Shop.test:8080"})
    assert (answer.status_code, answer.headers["location"]) == (308, "https://shop.test/secure/a%20b?x=1")
    answer = client.get("/secure/a", headers={"Host": "shop.test", "X-Forwarded-Proto": "https"})
    assert (answer.status_code, answer.text) == (200, "ok")


def test_request_size_limiting_refuses_in_the_place_of_100(traffic: Gateway, recording: Origin) -> None:
    recording.take()
    head = "POST /small/x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    with RawClient(traffic.port) as waiting:
        waiting.send(head.format(1025).encode())
        refused = waiting.reply()
        assert refused is not None
        assert refused.status == 413
    assert not recording.take()
    with RawClient(traffic.port) as waiting:
        waiting.send(head.format(1024).encode())
        called = waiting.reply()
        assert called is not None
        assert called.status == 100
        waiting.send(b"x" * 1024)
        answer = waiting.reply()
        assert answer is not None
        assert answer.status == 200
    assert [len(seen.body) for seen in recording.take()] == [1024]


def test_request_size_limiting_cuts_a_body_without_a_length(client: httpx.Client, recording: Origin) -> None:
    assert client.post("/small/x", content=iter([b"x" * 1000, b"x" * 24])).status_code == 200
    assert [len(seen.body) for seen in recording.take()] == [1024]
    answer = client.post("/small/x", content=iter([b"x" * 1000, b"x" * 25]))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert not recording.take()


@pytest.mark.parametrize(("agent", "status"), [("Firefox/140", 200), ("GoodBot/1", 200), ("BadBot/1", 403), ("", 403)])
def test_bot_detection_goes_by_the_name(client: httpx.Client, agent: str, status: int) -> None:
    assert client.get("/people/x", headers={"User-Agent": agent}).status_code == status


def test_security_headers_are_on_every_answer(client: httpx.Client) -> None:
    plain = client.get("/safe/x")
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert plain.headers["content-security-policy"] == "default-src 'self'"
    assert "strict-transport-security" not in plain.headers
    secure = client.get("/safe/x", headers={"X-Forwarded-Proto": "https"})
    assert secure.headers["strict-transport-security"] == "max-age=31536000"


def test_request_id_counts_from_one_uuid(client: httpx.Client, recording: Origin) -> None:
    ids = [client.get("/named/x").headers["correlation-id"] for _ in range(3)]
    assert [seen["correlation-id"] for seen in recording.take()] == ids
    [worker] = {id_.partition("#")[0] for id_ in ids}
    assert [int(id_.removeprefix(f"{worker}#")) for id_ in ids] == sorted({int(id_.partition("#")[2]) for id_ in ids})


def test_fault_injection_is_for_those_who_ask_for_it(client: httpx.Client, recording: Origin) -> None:
    failed = client.get("/faulty/x", headers={"X-Fail": "1"})
    assert (failed.status_code, failed.json()["code"]) == (500, "fault_injected")
    assert failed.elapsed.total_seconds() >= 0.1
    assert not recording.take()
    assert client.get("/faulty/x").text == "ok"


async def test_concurrency_limiting_admits_exactly_so_many(traffic: Gateway, recording: Origin) -> None:
    recording.take()
    async with httpx.AsyncClient(base_url=traffic.url, timeout=30) as client:
        answers = await asyncio.gather(*(client.get("/narrow/x", headers={"X-Slow": "1"}) for _ in range(20)))
        assert Counter(answer.status_code for answer in answers) == {200: 3, 503: 17}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert (refused.json()["code"], refused.headers["retry-after"]) == ("concurrency_limited", "2")
        assert len(recording.take()) == 3
        assert (await client.get("/narrow/x")).status_code == 200


def test_concurrency_limiting_takes_back_the_places_of_those_who_leave(client: httpx.Client) -> None:
    head = b"GET /narrow/x HTTP/1.1\r\nHost: a.test\r\nX-Slow: 1\r\n\r\n"
    port = client.base_url.port
    assert port is not None
    slow = [RawClient(port) for _ in range(3)]
    for one in slow:
        one.send(head)
    wait_until(lambda: client.get("/narrow/x").status_code == 503, 2.5, "all places are taken")
    for one in slow:
        one.socket.close()
    wait_until(lambda: client.get("/narrow/x").status_code == 200, 2.0, "places are free again")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_compression_is_for_those_who_can_read_it(client: httpx.Client, method: str) -> None:
    packed = client.request(method, "/packed/x", headers={"Accept-Encoding": "gzip"})
    plain = client.request(method, "/packed/x", headers={"Accept-Encoding": "identity"})
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert (packed.headers["content-encoding"], plain.headers["content-length"]) == ("gzip", "6000")
    assert "content-length" not in packed.headers
    assert packed.text == plain.text == ("" if method == "HEAD" else "[1, 2]" * 1000)
    assert packed.num_bytes_downloaded < 100


def test_hmac_auth_takes_what_is_signed(client: httpx.Client, recording: Origin) -> None:
    body, names = b"x" * 200_000, "date request-line host digest"
    fields = {
        "Date": formatdate(usegmt=True), "Host": "api.test",
        "Digest": f"SHA-256={b64encode(hashlib.sha256(body).digest()).decode()}",
    }  # fmt: skip
    lines = [f"date: {fields['Date']}", "POST /signed/a?b=1 HTTP/1.1", "host: api.test", f"digest: {fields['Digest']}"]
    mac = b64encode(hmac.digest(SECRET.encode(), "\n".join(lines).encode(), "sha256")).decode()
    fields["Authorization"] = f'hmac username="billing", algorithm="hmac-sha256", headers="{names}", signature="{mac}"'
    assert client.post("/signed/a?b=1", content=body, headers=fields).status_code == 200
    [seen] = recording.take()
    assert (seen.body, seen["x-credential-identifier"], seen["authorization"]) == (body, "billing", "")
    for path, sent in (("/signed/a?b=2", body), ("/signed/a?b=1", body[:-1] + b"y")):
        answer = client.post(path, content=sent, headers=fields)
        assert (answer.status_code, answer.json()["code"]) == (401, "signature_invalid")
    assert client.get("/signed/a").json()["code"] == "signature_missing"
    assert not recording.take()


def curl(*words: str) -> tuple[str, str]:
    """Status and body, as curl's own `-u` has them."""
    command = ["curl", "-s", "-w", "\n%{http_code}", *words]
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return status, body


def test_basic_auth_takes_what_curl_sends_until_it_is_deleted(traffic: Gateway, recording: Origin) -> None:
    make = (
        "from keys import services; consumer = services.consumer_create('office'); "
        "services.basic_create(consumer, username='alice', password='corréct: horse')"
    )
    traffic.manage("shell", "--no-imports", "-c", make)
    recording.take()
    url = f"{traffic.url}/private/x"
    assert curl("-u", "alice:corréct: horse", url) == ("200", "ok")
    [seen] = recording.take()
    assert (seen["x-consumer-username"], seen["x-credential-identifier"]) == ("office", "alice")
    assert seen["authorization"] == ""
    assert curl("-u", "alice:wrong", url)[0] == curl("-u", "bob:corréct: horse", url)[0] == curl(url)[0] == "401"
    assert httpx.get(url).headers["www-authenticate"] == 'Basic realm="The office", charset="UTF-8"'
    traffic.query("DELETE FROM keys_basiccredential RETURNING id")
    wait_until(lambda: curl("-u", "alice:corréct: horse", url)[0] == "401", SOON_S, "the deletion")


def test_jq_makes_answers_sees_nothing_and_is_stopped(client: httpx.Client) -> None:
    for _ in range(3):
        assert client.get("/jq/x").json() == {"n": 7, "seen": {}}
        stopped = client.get("/stuck/x")
        assert (stopped.status_code, stopped.json()["code"]) == (503, "transform_failed")


def test_file_log_keeps_a_line_for_each_request_and_the_other_logs_are_in_nobodys_way(
    traffic: Gateway, client: httpx.Client
) -> None:
    for number in range(20):
        assert client.get(f"/kept/{number}?secret=1").status_code == 200
    file = traffic.directory / "var" / "logs" / "kept.log"
    lines = wait_until(lambda: file.exists() and len(found := file.read_text().splitlines()) == 20 and found, SOON_S)
    said = [json.loads(line) for line in lines]
    assert {one["path"] for one in said} == {f"/kept/{number}" for number in range(20)}
    assert {(one["route"], one["status"], one["outcome"]) for one in said} == {("kept", 200, "ok")}
    assert "secret" not in file.read_text()
