"""Against a real broker of another make than the producer (librdkafka's own, for its tests)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.environment import ROOT
from gateway.plugins import attempts, extras
from gateway.plugins.attempts import NotTaken
from gateway.plugins.base import Plugin
from gateway.plugins.kept import Kept
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.fence import Fence
from gateway.proxy.record import record_of
from tests.plugins.brokers import Broker, relaying
from tests.proxy.authority import Authority
from tests.proxy.exchanges import finished
from tests.running import free_port

RECORDS = [record_of(finished(id=f"r{number}", at_s=1_790_000_040.25)) for number in range(3)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_RETRY_S", 0.005)
    monkeypatch.setattr(attempts, "LONGEST_RETRY_S", 0.02)


@pytest.fixture(scope="module")
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def kafka(make: Callable[..., Plugin]) -> AsyncIterator[Callable[..., Any]]:
    kept = Kept()

    def build(*brokers: str, fence: Fence | None = None, **more: Any) -> Any:
        plugin = make("kafka-log", {"brokers": list(brokers), **more})
        plugin.resources = replace(plugin.resources, kept=kept, node="gw-1", fence=fence or Fence())
        return plugin

    yield build
    await kept.aclose()


async def test_each_request_is_a_message(kafka, broker: Broker) -> None:
    await kafka(broker.address, topic="plain").batch(RECORDS)
    found = sorted(await broker.read("plain", 3), key=lambda message: message.value())
    said = [json.loads(message.value()) for message in found]
    assert sorted(one["request_id"] for one in said) == ["r0", "r1", "r2"]
    assert (said[0]["node"], said[0]["route"], said[0]["status"]) == ("gw-1", "orders", 200)
    assert {message.timestamp()[1] for message in found} == {1_790_000_040_250}
    assert {message.key() for message in found} == {None}
    assert b"secret" not in found[0].value()  # the query


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("acks", ["leader", "all"])
async def test_in_any_compression(kafka, broker: Broker, compression: str, acks: str) -> None:
    topic = f"{compression}-{acks}"
    await kafka(broker.address, topic=topic, compression=compression, acks=acks).batch(RECORDS * 100)
    assert len(await broker.read(topic, 300)) == 300


async def test_messages_of_a_key_keep_their_order(kafka, broker: Broker) -> None:
    records = [record_of(finished(id=f"{number}", client_ip=f"192.0.2.{number % 10}")) for number in range(200)]
    plugin = kafka(broker.address, topic="keyed", key="client_ip")
    await plugin.batch(records[:100])
    await plugin.batch(records[100:])
    by_key: dict[bytes, list[Any]] = {}
    for message in await broker.read("keyed", 200):
        by_key.setdefault(message.key(), []).append(message)
    assert len(by_key) == 10
    assert len({message.partition() for messages in by_key.values() for message in messages}) > 1
    for messages in by_key.values():
        assert len({message.partition() for message in messages}) == 1
        numbers = [int(json.loads(message.value())["request_id"]) for message in messages]
        assert numbers == sorted(numbers)
        assert len(numbers) == 20


async def test_one_producer_serves_settings_alike(kafka, broker: Broker) -> None:
    first, second = (kafka(broker.address, topic="shared") for _ in range(2))
    other = kafka(broker.address, topic="shared", acks="leader")
    for plugin in (first, second, other):
        await plugin.batch(RECORDS)
    assert len(first.resources.kept._entries) == 2
    assert len(await broker.read("shared", 9)) == 9


async def test_brokers_that_come_back_get_everything(kafka, broker: Broker) -> None:
    port = free_port()
    plugin = kafka(f"127.0.0.1:{port}", topic="back")
    sending = asyncio.ensure_future(plugin.batch(RECORDS))
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done
    async with relaying(broker, port):
        async with asyncio.timeout(10):
            await sending
    assert len(await broker.read("back", 3)) == 3


async def test_brokers_that_stay_away_are_given_up(kafka) -> None:
    plugin = kafka(f"127.0.0.1:{free_port()}", topic="away", retry_for_s=0)
    with pytest.raises(NotTaken, match="Unable to bootstrap"):
        await plugin.batch(RECORDS)


async def test_a_broker_that_dies_ends_no_worker_and_keeps_none(kafka) -> None:
    """What waits for it is given up with the worker, within a moment."""
    mortal = Broker()
    plugin = kafka(mortal.address, topic="dying", retry_for_s=0, timeout_ms=60_000)
    await plugin.batch(RECORDS)
    mortal._owner = None
    sending = asyncio.ensure_future(plugin.batch(RECORDS))
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    async with asyncio.timeout(3):
        await plugin.resources.kept.aclose()


async def test_tls_is_checked(kafka, broker: Broker, tmp_path: Path) -> None:
    authority = Authority()
    async with relaying(broker, tls=authority.server(tmp_path)) as (port, relayed):
        for tls in ({"ca_certificates": Authority("others").certificate}, {}):
            plugin = kafka(f"127.0.0.1:{port}", topic="tls", secure=True, tls=tls, retry_for_s=0)
            with pytest.raises(NotTaken):
                await plugin.batch(RECORDS)
        assert relayed == []
        tls = {"ca_certificates": authority.certificate}
        plugin = kafka(f"127.0.0.1:{port}", topic="tls", secure=True, tls=tls, retry_for_s=0, timeout_ms=300)
        with pytest.raises(NotTaken):  # the broker tells of itself, which speaks no TLS
            await plugin.batch(RECORDS)
        assert len(relayed) >= 2  # its versions, and where everybody is


async def test_where_brokers_may_not_be_no_connection_is_made(kafka, broker: Broker) -> None:
    plugin = kafka(broker.address, topic="fence", retry_for_s=0, fence=Fence(deny=["127.0.0.0/8"]))
    with pytest.raises(NotTaken, match="UpstreamForbidden"):
        await plugin.batch(RECORDS)


async def test_nor_where_they_say_that_they_are(kafka, broker: Broker) -> None:
    """The name may lead to this machine; the broker says that it is at 127.0.0.1, which may not."""
    fence = Fence(deny=["127.0.0.0/8", "::1/128"], allow=["localhost"])
    async with relaying(broker) as (port, relayed):
        plugin = kafka(f"localhost:{port}", topic="told", retry_for_s=0, timeout_ms=300, fence=fence)
        with pytest.raises(NotTaken):
            await plugin.batch(RECORDS)
        assert relayed
    assert await broker.read("told", 1, wait_s=0.5) == []


# --- settings


def test_without_the_package_a_setting_is_told_what_to_install(registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigProblems, match=r"pip install 'aiokafka\[lz4,snappy,zstd\]>=0.14,<0.15'"):
        registry.validate("kafka-log", {"brokers": ["a:9092"], "topic": "t"})


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    assert sorted(text for texts in optional.values() for text in texts) == sorted(extras.EXTRAS.values())
    assert set(extras.EXTRAS.values()) <= set(project["dependency-groups"]["dev"])


@pytest.mark.parametrize(
    "config",
    [
        {}, {"brokers": []}, {"brokers": ["a"]}, {"brokers": ["a:0"]}, {"brokers": ["a:99999"]}, {"brokers": ["::1:9"]},
        {"brokers": ["http://a:1"]}, {"topic": ""}, {"topic": "a b"}, {"key": "path"}, {"sasl": "PLAIN"},
        {"username": "u"}, {"sasl": "GSSAPI", "username": "u"}, {"tls": {"verify": False}},
        {"secure": True, "tls": {"certificate": "x"}}, {"compression": "brotli"},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(registry, config: dict[str, Any]) -> None:
    registry.validate("kafka-log", {"brokers": ["a:9092"], "topic": "t"})
    with pytest.raises(ConfigProblems):
        registry.validate("kafka-log", {"brokers": ["a:9092"], "topic": "t"} | config if config else config)
