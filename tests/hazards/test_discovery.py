"""Targets that DNS and a JSON document name, behind a real gateway: both change, die and lie, and traffic goes on."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.dns import DnsServer
from tests.e2e.gateway import Gateway, route, wait_until
from tests.e2e.load import Load
from tests.hazards.targets import ask, ask_anew, named, target
from tests.running import Stopwatch
from tests.upstream import Wire

GATEWAY_WORKERS = 2
SERVICE = "_http._tcp.app.test"
TTL_S = 1


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.zone["a.test.", "A"] = TTL_S, ["127.0.0.1"]
        yield server


def point(dns: DnsServer, *ports: int, priority: int = 0) -> None:
    dns.zone[f"{SERVICE}.", "SRV"] = TTL_S, [f"{priority} 10 {port} a.test." for port in ports]


def configure(gateway: Gateway, **fields: Any) -> None:
    document = {"format": 1, "upstreams": [{"name": "up", **fields}], "routes": [route("all", "/*", "up")]}
    gateway.configure(document)


def by_srv(gateway: Gateway, dns: DnsServer, **fields: Any) -> None:
    configure(gateway, discovery="srv", discovery_name=SERVICE, discovery_resolver=dns.place, **fields)


def answered_by(gateway: Gateway, times: int = 40) -> Counter[str]:
    return Counter(body for _, body, _ in ask_anew(gateway.port, times))


def status(gateway: Gateway) -> dict[str, Any]:
    return dict(gateway.get_json("/status")["discovery"][0])


def test_the_first_request_after_a_configuration_is_answered(gateway: Gateway, dns: DnsServer) -> None:
    with target(named("one")) as one:
        point(dns, one)
        by_srv(gateway, dns)
        assert answered_by(gateway) == {"one": 40}
        assert status(gateway)["targets"] == [f"127.0.0.1:{one}"]


def test_traffic_moves_within_the_ttl_and_no_request_fails(gateway: Gateway, dns: DnsServer) -> None:
    with target(named("one")) as one, target(named("two")) as two:
        point(dns, one)
        by_srv(gateway, dns)
        assert answered_by(gateway) == {"one": 40}
        load = Load(gateway.port, "/x").start()
        point(dns, two)
        watch = Stopwatch()
        wait_until(lambda: answered_by(gateway, 8) == {"two": 8}, 5, "traffic at the new target")
        assert watch.s < TTL_S + 1
        load.stop()
        assert (set(load.statuses()), load.errors) == ({200}, [])


@pytest.mark.parametrize("manner", ["silent", "garbage", "servfail", "gone"])
def test_traffic_goes_on_when_the_source_dies(gateway: Gateway, dns: DnsServer, manner: str) -> None:
    with target(named("one")) as one:
        point(dns, one)
        by_srv(gateway, dns)
        if manner == "gone":
            dns.zone.clear()
        dns.manner = manner if manner != "gone" else "well"
        wait_until(lambda: status(gateway)["state"] == "stale", 10, "stale")
        assert set(ask(gateway.port, 200)) == {200}
        assert status(gateway)["error"]
        assert status(gateway)["refreshed_s_ago"] > 0


def test_a_worker_that_starts_while_the_source_is_dead_serves(gateway: Gateway, dns: DnsServer) -> None:
    with target(named("one")) as one:
        point(dns, one)
        by_srv(gateway, dns)
        kept = gateway.directory / "var" / "health" / "discovered.json"
        wait_until(lambda: kept.exists() and f"{one}" in kept.read_text(), 10, "kept on disk")
        dns.manner = "silent"
        gateway.stop()
        gateway.start()
        assert answered_by(gateway) == {"one": 40}
        assert status(gateway)["state"] == "stale"


def test_a_spare_takes_over_when_the_lowest_priority_is_down(gateway: Gateway, dns: DnsServer) -> None:
    probe = {"probe": "tcp", "probe_interval_ms": 100, "probe_unhealthy_after": 1, "probe_healthy_after": 1}
    with target(named("spare")) as spare:
        with target(named("one")) as one:
            point(dns, one)
            dns.zone[f"{SERVICE}.", "SRV"][1].append(f"7 10 {spare} a.test.")
            by_srv(gateway, dns, **probe)
            assert answered_by(gateway) == {"one": 40}
        wait_until(lambda: answered_by(gateway, 8) == {"spare": 8}, 10, "traffic at the spare")


def test_a_name_that_is_rebound_leads_nowhere_new(gateway: Gateway, dns: DnsServer) -> None:
    """To the metadata service, and to the gateway's own port."""
    with target(named("one")) as one:
        point(dns, one)
        by_srv(gateway, dns)
        assert answered_by(gateway) == {"one": 40}
        point(dns, one, gateway.port)
        wait_until(lambda: dns.asked.count((f"{SERVICE}.", "SRV")) > 6, 10, "asked again")
        assert answered_by(gateway) == {"one": 40}
        assert status(gateway)["targets"] == [f"127.0.0.1:{one}"]
        dns.zone["a.test.", "A"] = TTL_S, ["169.254.169.254"]
        wait_until(lambda: "metadata" in status(gateway)["error"], 10, "refused")
        assert answered_by(gateway) == {"one": 40}


def test_a_name_that_leads_to_the_gateway_itself_is_a_502(gateway: Gateway) -> None:
    """`/status` asks for no login: it is for this machine only."""
    configure(gateway, targets=[{"host": "localhost", "port": gateway.port}])
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{gateway.url}/x", timeout=5)
    assert (caught.value.code, json.load(caught.value)["code"]) == (502, "upstream_forbidden")
    assert caught.value.headers["proxy-status"] == "hydragate; error=destination_ip_prohibited"
    assert [one["failures"] for one in gateway.get_json("/status")["targets"]] == [0]


@contextmanager
def source(said: list[Any]) -> Iterator[int]:
    async def script(wire: Wire) -> None:
        while await wire.head():
            body = json.dumps(said[0]).encode()
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    with target(script) as port:
        yield port


def test_a_json_list_is_followed_and_kept_when_its_source_dies(gateway: Gateway) -> None:
    with target(named("one")) as one, target(named("two")) as two:
        said: list[Any] = [[{"host": "127.0.0.1", "port": one}]]
        with source(said) as port:
            configure(gateway, discovery="http", discovery_url=f"http://127.0.0.1:{port}/", discovery_interval_ms=1000)
            assert answered_by(gateway) == {"one": 40}
            said[0] = [{"host": "127.0.0.1", "port": one}, {"host": "127.0.0.1", "port": two, "weight": 300}]
            wait_until(lambda: answered_by(gateway, 8)["two"], 5, "the second target")
            counted = answered_by(gateway, 400)
            assert counted["two"] == pytest.approx(300, abs=20)
        wait_until(lambda: status(gateway)["state"] == "stale", 10, "stale")
        assert set(answered_by(gateway)) == {"one", "two"}
