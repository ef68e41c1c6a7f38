from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.plugins.ip_restriction import MAX_REMEMBERED, IpRestriction, IpRestrictionConfig
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import Reject
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, answering, serving


@pytest.mark.parametrize(
    ("config", "address", "passes"),
    [
        ({"allow": ["192.0.2.0/24"]}, "192.0.2.7", True),
        ({"allow": ["192.0.2.0/24"]}, "192.0.3.7", False),
        ({"allow": ["192.0.2.7"]}, "192.0.2.7", True),
        ({"allow": ["0.0.0.0/0"]}, "198.51.100.1", True),
        ({"allow": ["0.0.0.0/0"]}, "2001:db8::1", False),
        ({"deny": ["192.0.2.0/24"]}, "192.0.2.7", False),
        ({"deny": ["192.0.2.0/24"]}, "2001:db8::1", True),
        ({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]}, "192.0.2.7", False),
        ({"allow": ["192.0.2.7"], "deny": ["192.0.2.0/24"]}, "192.0.2.7", False),
        ({"allow": ["2001:db8::/32"]}, "2001:db8:ffff::1", True),
        ({"allow": ["2001:db8::/32"]}, "2001:db9::1", False),
        ({"allow": ["fe80::/10"]}, "fe80::1%eth0", True),
        ({"allow": ["192.0.2.0/24"]}, "::ffff:192.0.2.7", True),
        ({"deny": ["192.0.2.0/24"]}, "::ffff:192.0.2.7", False),
        ({"deny": ["192.0.2.0/24"]}, "", False),
        ({"allow": ["0.0.0.0/0", "::/0"]}, "unknown", False),
    ],
)
def test_addresses_decide_and_deny_wins(make, exchange_of, config, address, passes) -> None:
    plugin = make("ip-restriction", config)
    for _ in range(2):  # the second time it is remembered
        exchange = exchange_of(client_ip=address)
        if passes:
            assert plugin.access(exchange) is None
            continue
        with pytest.raises(Reject) as caught:
            plugin.access(exchange)
        assert (caught.value.status, caught.value.code) == (403, "ip_not_allowed")
        assert exchange.detail.startswith("ip-restriction: ")


def test_the_refusal_can_be_worded(make, exchange_of) -> None:
    plugin = make("ip-restriction", {"allow": ["10.0.0.0/8"], "status": 404, "message": "Nothing here."})
    with pytest.raises(Reject) as caught:
        plugin.access(exchange_of())
    assert (caught.value.status, caught.value.detail) == (404, "Nothing here.")


def test_what_is_remembered_is_bounded(make, exchange_of) -> None:
    plugin = make("ip-restriction", {"deny": ["10.0.0.0/8"]})
    for number in range(MAX_REMEMBERED + 10):
        plugin.access(exchange_of(client_ip=f"192.0.{number >> 8}.{number & 255}"))
    assert len(plugin._known) == 10


async def test_only_trusted_proxies_may_say_who_their_client_is() -> None:
    config = IpRestrictionConfig(allow=("203.0.113.9",))
    settings = [setting(IpRestriction, config=config)]
    claim = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-real-ip", b"203.0.113.9")]
    async with serving(answering(OK)) as up:
        routing = table([route("r")], [upstream("up", target(up.port))], [IpRestriction], settings)
        async with Bench(routing, trusted=[ip_network("10.0.0.0/8")]) as bench:
            proxied, _ = await bench.get("/", headers=claim, peer="10.0.0.8")
            stranger, _ = await bench.get("/", headers=claim, peer="192.0.2.1")
    assert (proxied.status, stranger.status, stranger.outcome) == (200, 403, "rejected")
    assert stranger.detail == "ip-restriction: 192.0.2.1 is not allowed"
    assert len(up.heads) == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "at least one"),
        ({"allow": ["10.0.0.5/8"]}, "The network is 10.0.0.0/8"),
        ({"allow": ["example.com"]}, "neither an address nor a network"),
        ({"deny": ["10.0.0.0/33"]}, "neither an address nor a network"),
        ({"allow": ["10.0.0.0/8"], "deny": ["10.0.0.0/8"]}, "both lists"),
        ({"allow": ["2001:DB8::/32"], "deny": ["2001:db8:0::/32"]}, "both lists"),
        ({"allow": ["10.0.0.1"], "status": 200}, "greater than or equal to 400"),
    ],
)
def test_lists_that_cannot_work_are_refused(registry, config, said) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("ip-restriction", config)
    assert said in str(caught.value)
