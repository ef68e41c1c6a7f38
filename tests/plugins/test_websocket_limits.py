from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import Reject


def test_it_leaves_its_limits_for_the_connection_and_plain_requests_alone(make, exchange_of) -> None:
    plugin = make("websocket-limits", {"client_max_payload": 10, "allowed_origins": ["https://app.example.com"]})
    plain = exchange_of()
    assert plugin.access(plain) is None
    assert plain.notes == {}
    handshake = exchange_of(headers=[(b"origin", b"https://APP.example.com")], notes={"websocket": True})
    assert plugin.access(handshake) is None
    assert handshake.notes["websocket-limits"].client_max_payload == 10


@pytest.mark.parametrize("origin", [[], [(b"origin", b"https://evil.example")], [(b"origin", b"null")]])
def test_other_origins_are_refused(make, exchange_of, origin) -> None:
    plugin = make("websocket-limits", {"allowed_origins": ["https://app.example.com"]})
    with pytest.raises(Reject) as caught:
        plugin.access(exchange_of(headers=origin, notes={"websocket": True}))
    assert (caught.value.status, caught.value.code) == (403, "origin_denied")


@pytest.mark.parametrize("config", [
    {"client_max_payload": 0}, {"idle_timeout_s": 0}, {"allowed_origins": ["app.example.com"]},
    {"allowed_origins": ["https://app.example.com/path"]},
])  # fmt: skip
def test_what_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("websocket-limits", config)
