"""Where connections may lead: the rules, and that a connection is held to them whatever its name says."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from gateway.plugins.endpoints import Endpoint
from gateway.proxy.balancer import Balancer
from gateway.proxy.calls import Calls
from gateway.proxy.errors import UpstreamForbidden
from gateway.proxy.fence import Fence, place
from gateway.proxy.forward import Forwarder
from gateway.proxy.prober import probe
from gateway.proxy.snapshot import ProbePolicy
from gateway.proxy.transport import Transports, transport_to
from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.proxy.sending import read, request, specs
from tests.upstream import OK, answering, serving

METADATA = "169.254.169.254"


@pytest.mark.parametrize(
    "host",
    [
        METADATA, "169.254.0.1", "fe80::1", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "0.0.0.0", "::",
        "224.0.0.1", "ff02::1", "255.255.255.255",
        # other spellings of the same
        "2852039166", "0xa9fea9fe", "0xa9.254.169.254", "169.16689662", "0251.0376.0251.0376", "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254", "0", "fe80::1%1",
    ],
)  # fmt: skip
def test_what_is_built_in_is_refused_in_every_spelling(host: str) -> None:
    assert "upstreams may not be there" in Fence().fault(host, 80)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "127.0.0.1", "::1", "192.168.1.1", "fd00::1", "8.8.8.8", "api.test", "unix:/run/app", "face"]
)
def test_private_networks_and_loopback_are_where_upstreams_are(host: str) -> None:
    assert Fence(own_ports=[8080]).fault(host, 8081) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "10.0.0.9"])
def test_the_gateways_own_port_is_no_upstream(host: str) -> None:
    fence = Fence(allow=["0.0.0.0/0"], own_ports=[8080], own_address="10.0.0.9")
    assert fence.fault(host, 8080).endswith(" is the gateway's own: upstreams may not be there.")
    assert fence.fault(host, 8081) == ""
    assert fence.fault("10.0.0.8", 8080) == ""


@pytest.mark.parametrize(
    ("allow", "deny", "refused", "let"),
    [
        (["169.254.20.10"], [], [METADATA, "169.254.20.11"], ["169.254.20.10"]),
        (["169.254.0.0/16"], [], [METADATA], ["169.254.20.11"]),
        ([METADATA], [], ["169.254.0.1"], [METADATA]),
        (["0.0.0.0/0"], [], [METADATA], ["10.0.0.1"]),
        ([], ["10.0.0.0/8"], ["10.1.1.1", "::ffff:10.1.1.1"], ["11.0.0.1"]),
        (["10.1.0.0/16"], ["0.0.0.0/0", "::/0"], ["10.2.0.1", "8.8.8.8", "fd00::1"], ["10.1.0.1"]),
        (["10.1.0.0/16"], ["10.0.0.0/8", "10.1.2.3"], ["10.1.2.3", "10.2.0.1"], ["10.1.2.4"]),
        (["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"], []),
        ([], ["bad.test", "*.evil.test"], ["bad.test", "BAD.test.", "x.evil.test"], ["evil.test", "good.test"]),
    ],
)
def test_the_narrowest_network_decides(allow: list[str], deny: list[str], refused: list[str], let: list[str]) -> None:
    fence = Fence(allow, deny)
    assert [host for host in (*refused, *let) if fence.fault(host, 80)] == refused


@pytest.mark.parametrize("word", ["10.0.0.1/8", "1.2.3", "a b", "http://x", "*", "1.2.3.4/33", ""])
def test_what_is_neither_network_nor_name_is_told(word: str) -> None:
    with pytest.raises(ValueError, match="no network such as"):
        place(word)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str | list[str]) -> list[str]:
    """The system's resolver gives these for `app.test`, one after the other; the last one for ever."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name != "app.test":
            return real(host, *rest, **more)
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(name)
        return [row for one in ([found] if isinstance(found, str) else found) for row in real(one, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


@pytest.mark.parametrize("transport", ["native", "httpx"])
async def test_a_name_that_leads_elsewhere_the_second_time_is_refused(
    monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    resolving(monkeypatch, "127.0.0.1", "127.0.0.2")
    closing = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with serving(answering(closing), host="0.0.0.0") as up:
        one, spec = specs("app.test", up.port, transport=transport)
        sender = transport_to(one, spec, fence=Fence(deny=["127.0.0.2"]))
        response = await sender.handle_async_request(request())
        assert await read(response) == b"ok"
        with pytest.raises(UpstreamForbidden) as caught:
            await sender.handle_async_request(request())
        await sender.aclose()
    assert (caught.value.status, caught.value.code, caught.value.safe_to_retry) == (502, "upstream_forbidden", True)
    assert len(up.heads) == 1  # nothing was sent


async def test_a_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at the name, not one for the check and one for the connection."""
    asked = resolving(monkeypatch, "127.0.0.1", METADATA)
    async with serving(answering(OK), host="0.0.0.0") as up:
        sender = transport_to(*specs("app.test", up.port))
        assert await read(await sender.handle_async_request(request())) == b"ok"
        await sender.aclose()
    assert asked == ["app.test"]


async def test_of_several_addresses_those_that_may_be_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, [METADATA, "127.0.0.3", "127.0.0.1"])
    async with serving(answering(OK)) as up:  # at 127.0.0.1 only
        sender = transport_to(*specs("app.test", up.port))
        assert await read(await sender.handle_async_request(request())) == b"ok"
        await sender.aclose()


async def test_an_allowed_name_may_lead_to_what_is_denied_but_not_to_what_is_built_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving(monkeypatch, "127.0.0.1", METADATA)
    fence = Fence(allow=["app.test"], deny=["0.0.0.0/0", "::/0", METADATA])
    assert await fence.addresses("app.test", 80) == ["127.0.0.1"]
    with pytest.raises(UpstreamForbidden):
        await fence.addresses("app.test", 80)
    with pytest.raises(UpstreamForbidden):
        await fence.addresses("127.0.0.1", 80)


@pytest.mark.parametrize("transport", ["native", "httpx"])
async def test_it_is_a_502_that_counts_against_nobody_and_another_target_is_tried(transport: str) -> None:
    async with serving(answering(OK)) as up:
        bad, good = target(80, host=METADATA), target(up.port, number=2)
        both = upstream("up", bad, good, transport=transport)
        alone = upstream("alone", bad, transport=transport)
        routes = [route("all", "/both", to=[("up", 1)]), route("one", "/alone", to=[("alone", 1)], id=2)]
        async with Bench(table(routes, [both, alone])) as bench:
            seen = [(await bench.get("/both"))[0].status for _ in range(20)]
            assert seen == [200] * 20
            exchange, _ = await bench.get("/alone")
            assert (exchange.status, exchange.outcome) == (502, "upstream_forbidden")
            reports = {one.address: (one.failures, one.ejected) for one in bench.forwarder.balancer.reports()}
    assert reports[bad.address] == (0, False)


async def test_probes_and_what_plugins_call_are_held_to_it() -> None:
    policy = ProbePolicy("http", "/", "", 1.0, 1.0, 1, 1, ((200, 299),), b"")
    aim = target(80, host=METADATA)
    for kind in ("http", "tcp"):
        fault = await probe(upstream("up", aim), aim, replace(policy, kind=kind))  # type: ignore[arg-type]
        assert "may not connect to" in fault
    async with serving(answering(OK)) as up:
        endpoint = Endpoint.of(f"http://localhost:{up.port}/", 1.0)
        calls = Calls(Fence(own_ports=[up.port]))
        with pytest.raises(UpstreamForbidden):
            await calls.call(endpoint, "GET")
        await calls.aclose()
    assert up.connections == 0


async def test_a_request_over_an_open_connection_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "127.0.0.1")
    async with serving(answering(OK)) as up:
        spec = upstream("up", target(up.port, host="app.test"))
        forwarder = Forwarder(Transports(), Balancer())
        transport = forwarder.transports.get(spec, spec.targets[0])
        for _ in range(10):
            await read(await transport.handle_async_request(request()))
        await forwarder.transports.aclose()
    assert len(asked) == up.connections == 1
