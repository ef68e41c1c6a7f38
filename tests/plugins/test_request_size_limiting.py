from __future__ import annotations

import asyncio

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.plugins.request_size_limiting import RequestSizeLimiting, RequestSizeLimitingConfig
from gateway.proxy.errors import BodyTooLarge, Reject
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, Wire, serving


@pytest.mark.parametrize(
    ("config", "largest"),
    [
        ({}, 128 * 1024 * 1024),
        ({"allowed_payload_size": 2, "size_unit": "kilobytes"}, 2048),
        ({"allowed_payload_size": 10, "size_unit": "bytes"}, 10),
        ({"allowed_payload_size": 0}, 0),
    ],
)
def test_an_announced_length_is_refused_at_once(make, exchange_of, config, largest) -> None:
    plugin = make("request-size-limiting", config)
    plugin.access(exchange_of(body=object(), content_length=largest))  # not even looked at
    with pytest.raises(BodyTooLarge) as caught:
        plugin.access(exchange_of(body=object(), content_length=largest + 1))
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")
    assert str(largest) in caught.value.detail


def test_a_length_can_be_asked_for_where_there_is_a_body(make, exchange_of) -> None:
    plugin = make("request-size-limiting", {"require_content_length": True})
    plugin.access(exchange_of())
    plugin.access(exchange_of(body=object(), content_length=7))
    with pytest.raises(Reject) as caught:
        plugin.access(exchange_of(body=object()))
    assert (caught.value.status, caught.value.code) == (411, "length_required")


async def test_a_stream_is_cut_where_it_passes_the_limit() -> None:
    received: list[bytes] = []

    async def reading(wire: Wire) -> None:
        while await wire.head():
            body = b""
            try:
                while not body.endswith(b"0\r\n\r\n"):
                    if not (data := await wire.reader.read(65536)):
                        return
                    body += data
            finally:
                received.append(body)
            await wire.send(OK)

    config = RequestSizeLimitingConfig(allowed_payload_size=10, size_unit="bytes")
    settings = [setting(RequestSizeLimiting, config=config)]
    async with serving(reading) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [RequestSizeLimiting], settings)
        async with Bench(routing) as bench:
            fits, _ = await bench.get("/", method="POST", body=[b"x" * 6, b"x" * 4])
            over, _ = await bench.get("/", method="POST", body=[b"x" * 6, b"x" * 5])
            announced, _ = await bench.get("/", method="POST", body=[b"x" * 11], length=11)
        async with asyncio.timeout(5):
            while len(received) < 2:
                await asyncio.sleep(0.005)
    assert [exchange.status for exchange in (fits, over, announced)] == [200, 413, 413]
    assert [exchange.outcome for exchange in (over, announced)] == ["body_too_large"] * 2
    assert (over.tries, announced.tries) == (1, 0)
    assert received[0].endswith(b"0\r\n\r\n")
    assert not received[1].endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("config", [
    {"allowed_payload_size": -1}, {"allowed_payload_size": "1m"}, {"size_unit": "gigabytes"},
])  # fmt: skip
def test_what_is_no_size_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("request-size-limiting", config)
