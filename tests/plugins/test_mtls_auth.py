"""Certificates as people make them, and as attackers would."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.plugins.base import Refusal
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer
from tests.plugins.signing import NOW_S

NOW = datetime.fromtimestamp(NOW_S, UTC)
FIELD = b"client-cert"


@cache
def key(name: str) -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    name: str, issuer: str = "root", *, by: str | None = None, authority: bool | None = None, usages: Any = None,
    begins: timedelta = timedelta(-1), ends: timedelta = timedelta(1), more: Any = (), serial: int | None = None,
) -> x509.Certificate:  # fmt: skip
    """`by`: whose key signs, the issuer's unless told. `authority`: None has no basic constraints."""

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), *more] if text else [*more])

    builder = x509.CertificateBuilder(named(issuer) if issuer != name else named(name), named(name))
    builder = builder.public_key(key(name).public_key()).serial_number(serial or x509.random_serial_number())
    builder = builder.not_valid_before(NOW + begins).not_valid_after(NOW + ends)
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(key(by or issuer), SHA256())


ROOT = certificate("root", authority=True)
MIDDLE = certificate("middle", authority=True)
ANNA = certificate("anna")


def pem(one: x509.Certificate) -> str:
    return one.public_bytes(Encoding.PEM).decode()


def base64(*chain: x509.Certificate) -> bytes:
    return b",".join(b64encode(one.public_bytes(Encoding.DER)) for one in chain)


def rfc9440(one: x509.Certificate) -> bytes:
    return b":" + base64(one) + b":"


@pytest.fixture
def plugin_of(make: Any) -> Any:
    return lambda **config: make("mtls-auth", {"ca_certificates": pem(ROOT), **config})


def shown(exchange_of: Any, *values: bytes, trusted: bool = True, **more: Any) -> Any:
    return exchange_of(headers=[(FIELD, value) for value in values], peer_trusted=trusted, **more)


async def refusal(plugin: Any, exchange: Any) -> Reject:
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    assert caught.value.status == 401
    return caught.value


async def test_who_shows_a_certificate_is_known_by_its_name(plugin_of, exchange_of) -> None:
    exchange = shown(exchange_of, rfc9440(ANNA))
    await plugin_of().access(exchange)
    assert exchange.consumer == Consumer(0, "anna")
    assert exchange.claims["fingerprint"] == ANNA.fingerprint(SHA256()).hex()
    assert headers.get(exchange.headers, FIELD) is None
    assert headers.get(exchange.headers, b"x-credential-identifier") == b"anna"


async def test_names_become_consumers_groups_and_fields(plugin_of, exchange_of, credentials) -> None:
    credentials.consumers["custom_id", "anna@example.com"] = Consumer(7, "anna")
    anna = certificate("anna", more=[x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "staff")], by="root")
    plugin = plugin_of(
        consumer_by="custom_id", consumer_claim="dn", groups_claim="ou", forward_certificate=True,
        claims_to_headers=[{"claim": "serial", "header": "X-Serial"}],
    )  # fmt: skip
    credentials.consumers["custom_id", anna.subject.rfc4514_string()] = Consumer(7, "anna")
    # The issuer's name has the unit, too, in this test's certificates: it is the signature that counts.
    root = certificate("root", more=[x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "staff")], authority=True)
    plugin = plugin_of(**{**plugin.config.model_dump(mode="json"), "ca_certificates": pem(root)})
    exchange = shown(exchange_of, rfc9440(anna))
    await plugin.access(exchange)
    assert exchange.consumer == Consumer(7, "anna", groups=frozenset({"staff"}))
    assert headers.get(exchange.headers, b"x-serial") == f"{anna.serial_number:x}".encode()
    assert headers.get(exchange.headers, FIELD) == rfc9440(anna)


async def test_the_certificate_of_the_connection_goes_before_a_field(plugin_of, exchange_of) -> None:
    der = ANNA.public_bytes(Encoding.DER)
    for trusted in (True, False):
        exchange = shown(exchange_of, rfc9440(certificate("bob")), certificate=der, trusted=trusted)
        await plugin_of().access(exchange)
        assert exchange.consumer == Consumer(0, "anna")
        assert headers.get(exchange.headers, FIELD) is None
    forged = certificate("anna", by="evil").public_bytes(Encoding.DER)
    assert (await refusal(plugin_of(), exchange_of(certificate=forged))).code == "certificate_invalid"


@pytest.mark.parametrize(("form", "value"), [
    ("rfc9440", rfc9440(ANNA)),
    ("url_encoded", quote(pem(ANNA), safe="").encode()),
    ("url_encoded", quote(pem(ANNA)).encode()),
    ("base64", base64(ANNA)),
    ("base64", quote(base64(ANNA).decode()).encode()),
])  # fmt: skip
async def test_proxies_hand_it_over_in_their_ways(plugin_of, exchange_of, form, value) -> None:
    exchange = shown(exchange_of, value)
    await plugin_of(certificate_header_format=form).access(exchange)
    assert exchange.consumer == Consumer(0, "anna")


async def test_a_chain_leads_to_an_authority(plugin_of, exchange_of) -> None:
    bob = certificate("bob", "middle")
    plugin = plugin_of(certificate_header_format="base64")
    exchange = shown(exchange_of, base64(bob, MIDDLE))
    await plugin.access(exchange)
    assert exchange.consumer == Consumer(0, "bob")
    assert (await refusal(plugin, shown(exchange_of, base64(bob)))).code == "certificate_invalid"


@pytest.mark.parametrize("one", [
    certificate("anna", by="evil"),
    certificate("evil", "evil"),
    certificate("anna", begins=timedelta(-9), ends=timedelta(seconds=-1)),
    certificate("anna", begins=timedelta(seconds=60)),
    certificate("anna", usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
    certificate("", more=[x509.NameAttribute(NameOID.COMMON_NAME, " x ")], issuer="root"),
], ids=["signature", "self", "expired", "early", "server", "name"])  # fmt: skip
async def test_what_does_not_count(plugin_of, exchange_of, one) -> None:
    assert (await refusal(plugin_of(), shown(exchange_of, rfc9440(one)))).code == "certificate_invalid"


@pytest.mark.parametrize("authority", [None, False])
async def test_a_client_cannot_issue_certificates(plugin_of, exchange_of, authority) -> None:
    client = certificate("anna", authority=authority)
    forged = certificate("boss", "anna")
    plugin = plugin_of(certificate_header_format="base64")
    assert (await refusal(plugin, shown(exchange_of, base64(forged, client)))).code == "certificate_invalid"


async def test_usage_for_clients_counts(plugin_of, exchange_of) -> None:
    for usages in ([ExtendedKeyUsageOID.CLIENT_AUTH], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]):
        await plugin_of().access(shown(exchange_of, rfc9440(certificate("anna", usages=usages))))


async def test_only_a_trusted_peer_is_believed(plugin_of, exchange_of) -> None:
    exchange = shown(exchange_of, rfc9440(ANNA), trusted=False)
    assert (await refusal(plugin_of(), exchange)).code == "certificate_missing"
    assert headers.get(exchange.headers, FIELD) is None
    assert "GATEWAY_TRUSTED_PROXIES" in exchange.detail


GARBAGE = [b"x", b":", b"::", b":x:", b":" + b"A" * 40_000 + b":", b":" + b64encode(b"no certificate") + b":"]


@pytest.mark.parametrize(("form", "value"), [
    *((form, value) for form in ("rfc9440", "url_encoded", "base64") for value in GARBAGE),
    ("rfc9440", base64(ANNA)), ("rfc9440", rfc9440(ANNA) + b";a=1"), ("url_encoded", base64(ANNA)),
    ("base64", rfc9440(ANNA)), ("base64", base64(*[ANNA] * 9)),
])  # fmt: skip
async def test_garbage_is_no_certificate(plugin_of, exchange_of, form, value) -> None:
    plugin = plugin_of(certificate_header_format=form)
    assert (await refusal(plugin, shown(exchange_of, value))).code == "certificate_invalid"


async def test_none_and_two_are_refused(plugin_of, exchange_of) -> None:
    plugin = plugin_of()
    assert (await refusal(plugin, shown(exchange_of))).code == "certificate_missing"
    assert (await refusal(plugin, shown(exchange_of, b""))).code == "certificate_missing"
    assert (await refusal(plugin, shown(exchange_of, rfc9440(ANNA), rfc9440(ANNA)))).code == "certificate_invalid"


async def test_some_may_be_allowed_or_denied(plugin_of, exchange_of) -> None:
    digits = ANNA.fingerprint(SHA256()).hex().upper()
    colons = ":".join(digits[place : place + 2] for place in range(0, 64, 2))
    await plugin_of(allowed_fingerprints=[colons]).access(shown(exchange_of, rfc9440(ANNA)))
    other = shown(exchange_of, rfc9440(certificate("bob")))
    assert (await refusal(plugin_of(allowed_fingerprints=[colons]), other)).code == "certificate_invalid"
    denied = plugin_of(denied_serials=[f"{ANNA.serial_number:X}"])
    assert (await refusal(denied, shown(exchange_of, rfc9440(ANNA)))).code == "certificate_invalid"


async def test_what_is_remembered_ends_with_the_certificate(plugin_of, exchange_of, clock) -> None:
    clock.now_s = NOW_S
    soon = certificate("anna", ends=timedelta(seconds=20))
    plugin = plugin_of()
    for _ in range(2):
        await plugin.access(shown(exchange_of, rfc9440(soon)))
    clock.now_s += 21
    assert (await refusal(plugin, shown(exchange_of, rfc9440(soon)))).code == "certificate_invalid"


async def test_a_disabled_owner_is_told_so(plugin_of, exchange_of, credentials) -> None:
    credentials.consumers["username", "anna"] = Refusal("consumer_disabled")
    error = await refusal(plugin_of(consumer_by="username"), shown(exchange_of, rfc9440(ANNA)))
    assert error.code == "consumer_disabled"


async def test_without_a_certificate_it_may_be_the_guests_and_a_wrong_one_is_refused(
    plugin_of, exchange_of, credentials
) -> None:
    credentials.consumers["username", "guest"] = Consumer(20, "guest")
    plugin = plugin_of(anonymous="guest")
    for exchange in (shown(exchange_of), shown(exchange_of, rfc9440(ANNA), trusted=False)):
        await plugin.access(exchange)
        assert (exchange.consumer.username, exchange.credential) == ("guest", None)
        assert headers.get(exchange.headers, FIELD) is None
    known = shown(exchange_of, rfc9440(ANNA))
    await plugin.access(known)
    assert known.credential.hint == "anna"
    with pytest.raises(Reject):
        await plugin.access(shown(exchange_of, b":AAAA:"))


async def test_preflights_may_pass(plugin_of, exchange_of) -> None:
    fields = [(b"origin", b"https://a"), (b"access-control-request-method", b"GET")]
    await plugin_of(run_on_preflight=False).access(exchange_of("OPTIONS", headers=fields))


@pytest.mark.parametrize("config", [
    {"ca_certificates": ""}, {"ca_certificates": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
    {"certificate_header_name": "a b"}, {"certificate_header_format": "der"}, {"allowed_fingerprints": ["xyz"]},
    {"ca_certificates": pem(ROOT) * 101},
])  # fmt: skip
def test_a_config_that_cannot_work_is_refused(registry, config) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("mtls-auth", {"ca_certificates": pem(ROOT), **config})
