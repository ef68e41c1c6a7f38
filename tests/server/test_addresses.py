"""Who counts as one client, and what one client may open."""

from __future__ import annotations

import contextlib
from ipaddress import ip_network

import pytest

from gateway.server.addresses import Addresses
from tests.server.front import front, hello, until

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1%eth0", True),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(one: str, other: str, same: bool) -> None:
    addresses = Addresses()
    addresses.enter(one)
    assert addresses.enter(other)[1] == (2 if same else 1)


@pytest.mark.parametrize("host", ["10.1.2.3", "fd00::1", "/run/gateway.sock"])
def test_trusted_proxies_and_unix_sockets_are_not_counted(host: str) -> None:
    addresses = Addresses([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
    assert addresses.enter(host) == ("", 0)
    assert addresses.enter("192.0.2.1") == ("192.0.2.1", 1)


def test_nothing_is_left_of_those_who_left() -> None:
    addresses = Addresses()
    for _ in range(3):
        origin, _ = addresses.enter("192.0.2.1")
    for _ in range(3):
        addresses.leave(origin)
    assert len(addresses) == 0


async def test_one_address_is_told_when_it_has_too_many_and_then_cut() -> None:
    async with front(hello, max_connections_per_address=2, linger_timeout_s=60) as server:
        kept = [await server.connect() for _ in range(2)]
        assert (await (await server.connect()).answer()).json()["code"] == "too_many_from_address"
        other = await server.connect(local_addr=("127.0.0.2", 0))
        assert (await other.ask(GET)).status == 200
        assert (await kept[0].ask(GET)).status == 200
        told = [await server.connect() for _ in range(20)]  # lingering ones count: nobody gets round it that way
        await until(lambda: len(server.refusals) == 21)
        answered = 0
        for client in told:
            with contextlib.suppress(ConnectionResetError):
                answered += (await client.rest()).startswith(b"HTTP/1.1 429")
        assert 0 < answered < 20
        for client in (*told, *kept, server.clients[2]):
            client.abort()
        await until(lambda: len(server.listener.connections) == 1)
        assert (await (await server.connect()).ask(GET)).status == 200
