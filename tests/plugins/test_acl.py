from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer, Credential

MEMBER = Consumer(11, "alice", groups=frozenset({"gold", "beta"}))
STRANGER = Consumer(12, "bob")


@pytest.mark.parametrize(
    ("config", "consumer", "passes"),
    [
        ({"allow": ["gold"]}, MEMBER, True),
        ({"allow": ["silver"]}, MEMBER, False),
        ({"allow": ["gold"]}, STRANGER, False),
        ({"deny": ["beta"]}, MEMBER, False),
        ({"deny": ["silver"]}, MEMBER, True),
        ({"deny": ["silver"]}, STRANGER, True),
        ({"deny": ["silver"]}, None, False),
        ({"allow": ["gold"]}, None, False),
        ({"allow": ["gold"], "deny": ["beta"]}, MEMBER, False),
        ({"allow": ["Gold"]}, MEMBER, False),
    ],
)
def test_groups_decide_and_deny_wins(make, exchange_of, config, consumer, passes) -> None:
    plugin, exchange = make("acl", config), exchange_of(consumer=consumer)
    if passes:
        assert plugin.access(exchange) is None
        return
    with pytest.raises(Reject) as caught:
        plugin.access(exchange)
    assert (caught.value.status, caught.value.code, caught.value.outcome) == (403, "acl_denied", "acl_denied")
    assert exchange.detail.startswith("acl:")


@pytest.mark.parametrize(("scopes", "passes"), [
    ({"read", "write", "x"}, True), ({"read"}, False), ({"Read", "write"}, False), ((), False), (None, False),
])  # fmt: skip
def test_scopes_must_all_be_there(make, exchange_of, scopes, passes) -> None:
    credential = None if scopes is None else Credential("key", 1, "hg_live_x", MEMBER, frozenset(scopes))
    exchange = exchange_of(consumer=MEMBER, credential=credential)
    plugin = make("acl", {"scopes_required": ["read", "write"]})
    if passes:
        assert plugin.access(exchange) is None
        return
    with pytest.raises(Reject) as caught:
        plugin.access(exchange)
    assert (caught.value.status, caught.value.code) == (403, "scope_missing")
    assert dict(caught.value.headers)[b"www-authenticate"].endswith(b'scope="read write"')


def test_the_client_is_not_told_about_groups(make, exchange_of) -> None:
    with pytest.raises(Reject) as caught:
        make("acl", {"deny": ["beta"]}).access(exchange_of(consumer=MEMBER))
    assert "beta" not in caught.value.detail


@pytest.mark.parametrize("hidden", [True, False])
def test_groups_can_be_kept_from_the_upstream(make, exchange_of, hidden) -> None:
    exchange = exchange_of(consumer=MEMBER, headers=[(b"x-consumer-groups", b"beta,gold")])
    make("acl", {"allow": ["gold"], "hide_groups_header": hidden}).access(exchange)
    assert (headers.get(exchange.headers, b"x-consumer-groups") is None) == hidden


@pytest.mark.parametrize(
    "config", [{}, {"allow": ["a", "b"], "deny": ["b"]}, {"allow": [""]}, {"scopes_required": ["a b"]}]
)
def test_a_list_that_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("acl", config)
