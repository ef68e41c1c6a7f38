from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.plugins.secured import Tls
from routes.configs import config_of
from tests.proxy.authority import Authority

CERTIFICATE, KEY = Authority().issue("gateway.test")


def test_contexts_are_shared_by_content_and_name_no_protocol() -> None:
    first, second = (Tls(certificate=CERTIFICATE, key=KEY).context() for _ in range(2))
    assert first is second
    assert first is not Tls().context()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"ca_certificates": "x"}, "ca_certificates: This is not a certificate"),
        ({"certificate": CERTIFICATE}, "key: A client certificate needs"),
        ({"key": KEY}, "certificate: A private key needs"), ({"certificate": KEY, "key": KEY}, "certificate: There is"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Tls(**config)


def test_a_key_may_be_a_reference(registry) -> None:
    """Where it cannot be looked up, it is fine; but what is beside it is not."""
    tls = {"certificate": CERTIFICATE, "key": "${file:key.pem}"}
    assert config_of("syslog", {"server": "tls://a.test", "tls": tls}, registry)[1] == []
    faults = config_of("syslog", {"server": "tls://a.test", "tls": tls, "facility": "x"}, registry)[1]
    assert [path for path, _ in faults] == [("config", "facility")]
