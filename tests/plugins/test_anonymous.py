"""`anonymous` on several authentications: any of them will do, none is a guest, and a wrong one is refused."""

from __future__ import annotations

import hashlib
import inspect
import json
from base64 import b64encode, urlsafe_b64encode
from email.utils import formatdate
from hmac import digest
from typing import Any

import pytest

from gateway.plugins.passwords import hashed
from gateway.proxy.errors import CredentialsUnavailable, Reject
from gateway.proxy.exchange import Consumer, Credential
from tests.plugins.signing import NOW_S
from tests.plugins.test_mtls_auth import ROOT, pem

SECRET = "sixteen-bytes-at-least-and-32-are-better"
WORD = "correct horse"
CONFIGS: dict[str, dict[str, Any]] = {
    "key-auth": {},
    "basic-auth": {},
    "jwt": {"secret": SECRET, "claims_to_headers": [{"claim": "role", "header": "X-Role"}]},
    "oauth2-introspection": {"introspection_url": "http://127.0.0.1:1/", "client_id": "c", "client_secret": "s"},
    "hmac-auth": {"credentials": [{"username": "anna", "secret": SECRET}]},
    "mtls-auth": {"ca_certificates": pem(ROOT), "claims_to_headers": [{"claim": "ou", "header": "X-Role"}]},
    "openid-connect": {"issuer": "http://127.0.0.1:1", "client_id": "c", "client_secret": "s" * 32},
}


@pytest.fixture(scope="module")
def stored() -> str:
    return hashed(WORD)


@pytest.fixture(autouse=True)
def _known(credentials, alice, clock, stored: str) -> None:
    clock.now_s = NOW_S
    credentials.consumers["username", "guest"] = Consumer(20, "guest")
    credentials.known[hashlib.sha256(b"hg_live_secret").digest()] = alice
    credentials.logins["anna"] = Credential("basic", 4, "anna", Consumer(12, "anna-corp"), proof=stored)


def signed(role: str = "") -> list[tuple[bytes, bytes]]:
    def part(value: Any) -> bytes:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    text = part({"alg": "HS256"}) + b"." + part({"sub": "anna", "exp": NOW_S + 60, "role": role})
    mac = urlsafe_b64encode(digest(SECRET.encode(), text, "sha256")).rstrip(b"=")
    return [(b"authorization", b"Bearer " + text + b"." + mac)]


def by_hmac() -> list[tuple[bytes, bytes]]:
    date = formatdate(NOW_S, usegmt=True)
    mac = b64encode(digest(SECRET.encode(), f"date: {date}\nGET / HTTP/1.1".encode(), "sha256")).decode()
    said = f'hmac username="anna", algorithm="hmac-sha256", headers="date request-line", signature="{mac}"'
    return [(b"date", date.encode()), (b"authorization", said.encode())]


def basic(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Basic " + b64encode(text.encode()))]


async def passed(make, exchange, *names: str, anonymous: str = "guest"):
    for name in names:
        result = make(name, {**CONFIGS[name], "anonymous": anonymous}).access(exchange)
        if inspect.isawaitable(result):
            await result
    return exchange


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_request_without_any_is_the_guests(make, exchange_of, name: str) -> None:
    exchange = await passed(make, exchange_of(headers=[(b"x-consumer-groups", b"admin"), (b"x-role", b"root")]), name)
    assert (exchange.consumer.username, exchange.credential) == ("guest", None)
    assert (b"x-consumer-username", b"guest") in exchange.headers
    assert not [pair for pair in exchange.headers if pair[1] == b"admin"]
    assert name not in ("jwt", "mtls-auth") or not [pair for pair in exchange.headers if pair[1] == b"root"]


@pytest.mark.parametrize("name", CONFIGS)
async def test_without_anonymous_it_is_refused(make, exchange_of, name: str) -> None:
    exchange = exchange_of()
    with pytest.raises(Reject) as refused:
        await passed(make, exchange, name, anonymous="")
    assert refused.value.code.endswith("_missing")
    assert exchange.consumer is None


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_guest_who_does_not_exist_is_trouble_of_ours(make, exchange_of, name: str) -> None:
    with pytest.raises(CredentialsUnavailable):
        await passed(make, exchange_of(), name, anonymous="nobody")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (lambda: [(b"apikey", b"hg_live_secret")], "key"),
        (lambda: basic(f"anna:{WORD}"), "basic"),
        (signed, "jwt"),
        (by_hmac, "hmac"),
    ],
)
async def test_any_will_do(make, exchange_of, fields, kind: str) -> None:
    """`fields` are made now: tokens and dates do not last as long as a suite."""
    names = ["key-auth", "basic-auth", "jwt", "hmac-auth"]
    if kind == "jwt":  # to key-auth a Bearer is a key
        names.remove("key-auth")
    exchange = await passed(make, exchange_of(headers=fields()), *names)
    assert exchange.credential.kind == kind
    assert exchange.consumer.username != "guest"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("key-auth", [(b"apikey", b"unknown")]),
        ("basic-auth", basic("anna:wrong")),
        ("jwt", [(b"authorization", b"Bearer a.b.c")]),
        ("hmac-auth", [(b"authorization", b'hmac username="anna"')]),
    ],
)
async def test_a_wrong_one_is_refused(make, exchange_of, name: str, fields) -> None:
    with pytest.raises(Reject):
        await passed(make, exchange_of(headers=fields), name)


async def test_what_only_a_token_may_say_goes_where_another_has_let_in(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"apikey", b"hg_live_secret"), (b"x_role", b"root")])
    await passed(make, exchange, "key-auth", "jwt", "mtls-auth", "openid-connect")
    assert exchange.credential.kind == "key"
    assert not [pair for pair in exchange.headers if pair[1] == b"root"]
