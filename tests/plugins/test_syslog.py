"""A real syslog server on loopback, which reads what it is sent strictly."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.plugins import attempts
from gateway.plugins.attempts import NotTaken
from gateway.plugins.base import Plugin
from gateway.plugins.batches import MAX_WAITING, Batches
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.fence import Fence
from gateway.proxy.record import record_of
from tests.plugins.syslogd import datagrams, read, streams
from tests.proxy.authority import Authority
from tests.proxy.exchanges import finished
from tests.running import free_port

RECORDS = [record_of(finished(id=f"r{number}", at_s=1_790_000_040.25)) for number in range(3)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_RETRY_S", 0.005)
    monkeypatch.setattr(attempts, "LONGEST_RETRY_S", 0.02)


@pytest.fixture
def syslog(make: Callable[..., Plugin]) -> Callable[..., Any]:
    def build(server: str, **more: Any) -> Any:
        plugin = make("syslog", {"server": server, **more})
        return type(plugin)(plugin.config, replace(plugin.resources, node="gw-1"), 7)

    return build


# --- messages


async def test_a_request_is_a_message_with_its_values(syslog) -> None:
    async with streams() as daemon:
        await syslog(f"tcp://127.0.0.1:{daemon.port}", facility="local0").batch(RECORDS)
    assert len(daemon.messages) == 3
    message = daemon.messages[0]
    assert (message.facility, message.severity) == (16, 6)
    assert (message.at, message.host, message.app) == ("2026-09-21T14:14:00.250Z", "gw-1", "hydragate")
    assert (message.process, message.id, message.values_id) == (str(os.getpid()), "request", "request@32473")
    said = message.values
    assert [one.values["request_id"] for one in daemon.messages] == ["r0", "r1", "r2"]
    assert (said["status"], said["outcome"], said["path"], said["route"]) == ("200", "ok", "/orders/1", "orders")
    assert (said["consumer_id"], said["duration_ms"], said["target"]) == ("5", "12.0", "127.0.0.1:9000")
    assert message.text == "GET /orders/1 200 ok 12.0 ms"
    assert "secret" not in str(message)  # the query


async def test_the_text_may_be_the_whole_record(syslog) -> None:
    async with streams() as daemon:
        await syslog(f"tcp://127.0.0.1:{daemon.port}", message="json").batch(RECORDS)
    said = json.loads(daemon.messages[2].text)
    assert (said["request_id"], said["node"], said["at"]) == ("r2", "gw-1", "2026-09-21T14:14:00.250Z")


@pytest.mark.parametrize(
    "hostile",
    [
        'a"b\\c]d', "a\r\n<0>1 - - - - - - forged", "\x00\x1b[31m", "ü€\U0001f600" * 300, '"' * 8000, "]" * 200,
        "\ud800",
    ],
)  # fmt: skip
@pytest.mark.parametrize("max_bytes", [1024, 2048, 65_000])
@pytest.mark.parametrize("kind", ["line", "json"])
def test_no_request_breaks_a_message(syslog, hostile: str, max_bytes: int, kind: str) -> None:
    path = hostile.encode("utf-8", "surrogatepass")
    record = record_of(finished(id="r", host=hostile, raw_path=path, detail=hostile, client_ip=hostile))
    said: list[bytes] = []

    async def kept(messages: list[bytes]) -> None:
        said.extend(messages)

    plugin = syslog("udp://127.0.0.1:9", max_message_bytes=max_bytes, message=kind)
    plugin._send = kept
    asyncio.run(plugin.batch([record]))
    [raw] = said
    message = read(raw)
    assert len(raw) <= max_bytes
    assert message.values["request_id"] == "r"
    assert message.values["status"] == "200"
    if hostile == 'a"b\\c]d':
        assert message.values["detail"] == message.values["path"] == hostile
    if message.text and kind == "json":
        assert json.loads(message.text)["request_id"] == "r"


@pytest.mark.parametrize(
    ("status", "outcome", "severity"),
    [
        (200, "ok", 5), (304, "ok", 5), (404, "ok", 4), (401, "key_missing", 4), (499, "client_closed", 4),
        (200, "client_closed", 4), (502, "upstream_broke", 3), (200, "upstream_broke", 3), (500, "ok", 3),
    ],
)  # fmt: skip
async def test_a_severity_says_how_it_ended(syslog, status: int, outcome: str, severity: int) -> None:
    record = record_of(finished(status=status, outcome=outcome))
    words = {"successful_severity": "notice", "client_errors_severity": "warning", "server_errors_severity": "err"}
    async with streams() as daemon:
        await syslog(f"tcp://127.0.0.1:{daemon.port}", **words).batch([record])
    assert [message.severity for message in daemon.messages] == [severity]


async def test_what_is_below_the_level_leaves_nothing(syslog) -> None:
    records = [record_of(finished(id=str(status), status=status)) for status in (200, 404, 503)]
    words = {"log_level": "warning", "client_errors_severity": "warning", "server_errors_severity": "alert"}
    async with streams() as daemon:
        plugin = syslog(f"tcp://127.0.0.1:{daemon.port}", **words)
        await plugin.batch(records[:1])
        assert daemon.connections == 0
        await plugin.batch(records)
    assert [message.values["request_id"] for message in daemon.messages] == ["404", "503"]


# --- ways


async def test_by_udp_each_is_a_datagram(syslog) -> None:
    async with datagrams() as daemon:
        await syslog(f"udp://127.0.0.1:{daemon.port}").batch(RECORDS * 20)
        await daemon.wait_for(60)
    assert [message.values["request_id"] for message in daemon.messages] == ["r0", "r1", "r2"] * 20


async def test_by_a_socket_of_this_machine(syslog, tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with datagrams(path) as daemon:
        await syslog(f"unix:{path}").batch(RECORDS * 100)  # more than the kernel queues: it has to wait
        await daemon.wait_for(300)
    assert daemon.messages[0].values["request_id"] == "r0"


async def test_by_tls_checked_by_the_servers_name(syslog, tmp_path: Path) -> None:
    authority = Authority()
    tls = {"ca_certificates": authority.certificate}
    async with streams(authority.server(tmp_path)) as daemon:
        await syslog(f"tls://127.0.0.1:{daemon.port}", tls=tls).batch(RECORDS)
        await syslog(f"tls://127.0.0.1:{daemon.port}", tls=tls | {"server_name": "upstream.test"}).batch(RECORDS)
        await syslog(f"tls://127.0.0.1:{daemon.port}", tls={"verify": False}).batch(RECORDS)
        assert len(daemon.messages) == 9
        for refused in (tls | {"server_name": "other.test"}, {}):
            with pytest.raises(NotTaken, match="certificate verify failed"):
                await syslog(f"tls://127.0.0.1:{daemon.port}", tls=refused, retry_for_s=0).batch(RECORDS)
    assert len(daemon.messages) == 9


async def test_a_server_that_asks_is_shown_our_certificate(syslog, tmp_path: Path) -> None:
    authority, ours = Authority(), Authority("clients")
    certificate, key = ours.issue("gateway.test")
    tls = {"ca_certificates": authority.certificate}
    async with streams(authority.server(tmp_path, clients=ours)) as daemon:
        with pytest.raises(NotTaken):
            await syslog(f"tls://127.0.0.1:{daemon.port}", tls=tls, retry_for_s=0).batch(RECORDS)
        assert daemon.messages == []
        await syslog(f"tls://127.0.0.1:{daemon.port}", tls=tls | {"certificate": certificate, "key": key}).batch(
            RECORDS
        )
    assert len(daemon.messages) == 3


# --- servers that are away


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_a_server_that_comes_back_gets_everything(syslog, scheme: str) -> None:
    port = free_port()
    plugin = syslog(f"{scheme}://127.0.0.1:{port}")
    sending = asyncio.ensure_future(plugin.batch(RECORDS))
    done, _ = await asyncio.wait([sending], timeout=0.1)
    assert not done
    async with streams(port=port) if scheme == "tcp" else datagrams(port=port) as daemon:
        async with asyncio.timeout(5):
            await sending
        await daemon.wait_for(3)
    assert {message.values["request_id"] for message in daemon.messages} == {"r0", "r1", "r2"}


@pytest.mark.parametrize("secure", [False, True])
async def test_what_a_dying_server_had_not_read_is_sent_again(syslog, tmp_path: Path, secure: bool) -> None:
    authority = Authority()
    tls = authority.server(tmp_path) if secure else None
    more = {"tls": {"ca_certificates": authority.certificate}} if secure else {}
    async with streams(tls) as daemon:
        daemon.resets = 2
        async with asyncio.timeout(5):
            await syslog(f"{'tls' if secure else 'tcp'}://127.0.0.1:{daemon.port}", **more).batch(RECORDS)
    assert daemon.connections == 3
    assert [message.values["request_id"] for message in daemon.messages] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("secure", [False, True])
async def test_a_server_that_reads_nothing_has_not_taken_them(syslog, tmp_path: Path, secure: bool) -> None:
    authority = Authority()
    tls = authority.server(tmp_path) if secure else None
    more: dict[str, Any] = {"tls": {"ca_certificates": authority.certificate}} if secure else {}
    async with streams(tls) as daemon:
        daemon.deaf = True
        plugin = syslog(
            f"{'tls' if secure else 'tcp'}://127.0.0.1:{daemon.port}", timeout_ms=100, retry_for_s=0, **more
        )
        with pytest.raises(NotTaken, match="within 100 ms"):
            await plugin.batch(RECORDS)


async def test_requests_wait_for_no_server_and_what_fits_is_kept(syslog) -> None:
    """The batches of a worker: a server that is away for a while, and more requests than fit."""
    dropped: list[int] = []
    batches = Batches(lambda name, count: dropped.append(count))
    port = free_port()
    log = batches.collector(syslog(f"tcp://127.0.0.1:{port}", delay_ms=0, batch_max=1000))
    for number in range(MAX_WAITING + 7):
        log(finished(id=str(number)))
    assert dropped == [1] * 7
    async with streams(port=port) as daemon:
        await daemon.wait_for(MAX_WAITING)
        await batches.aclose()
    assert [message.values["request_id"] for message in daemon.messages] == [str(n) for n in range(MAX_WAITING)]
    assert sum(dropped) == 7


async def test_a_place_that_is_closed_to_the_gateway_is_not_connected_to(syslog) -> None:
    async with streams() as daemon:
        plugin = syslog(f"tcp://127.0.0.1:{daemon.port}", retry_for_s=0)
        plugin.resources = replace(plugin.resources, fence=Fence(deny=["127.0.0.0/8"]))
        with pytest.raises(NotTaken):
            await plugin.batch(RECORDS)
    assert daemon.connections == 0


@pytest.mark.parametrize(
    "config",
    [
        {}, {"server": "logs.test:514"}, {"server": "http://logs.test"}, {"server": "tcp://"}, {"server": "tcp://a:0"},
        {"server": "tcp://a:x"}, {"server": "tcp://a/x"}, {"server": "udp://u:p@a"}, {"server": "unix:log"},
        {"server": "unix://host/log"}, {"server": "unix:/" + "a" * 107}, {"server": "tcp://a b"},
        {"server": "tcp://a", "tls": {"verify": False}}, {"server": "tls://a", "tls": {"ca_certificates": "x"}},
        {"server": "udp://a", "values_id": "request"}, {"server": "udp://a", "values_id": "a]@1"},
        {"server": "udp://a", "app_name": "a b"}, {"server": "udp://a", "facility": "local9"},
        {"server": "udp://a", "log_level": "warn"},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(registry, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("syslog", config)
