"""An issuer's keys: one that dies, hangs, rotates or answers garbage is no outage."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import jwt.algorithms
import pytest

from gateway.plugins import jwks
from gateway.plugins.jwks import KeySet, KeysUnavailable, keys_of
from gateway.proxy.errors import Reject
from tests.plugins.signing import CLAIMS, private_key, signed_by
from tests.plugins.test_jwt import bearer, passes

ALGORITHMS = ("RS256", "ES256", "EdDSA")
KINDS: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm, "EdDSA": jwt.algorithms.OKPAlgorithm,
}  # fmt: skip


def jwk(algorithm: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    public = KINDS[algorithm].to_jwk(private_key(algorithm).public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, **({} if kid is None else {"kid": kid}), **more}


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


class Issuer:
    """Answers `body`, or raises it. `asked` counts; while `gate` is closed nobody is answered."""

    def __init__(self) -> None:
        self.body: bytes | Exception = document(jwk("RS256", "a"))
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, url: str) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def keys(issuer, clock) -> KeySet:
    return KeySet("https://issuer.example/jwks", ALGORITHMS, clock, issuer)


async def settled(keys: KeySet) -> None:
    while keys._task is not None:
        await asyncio.sleep(0)


async def test_all_who_come_first_wait_for_one_fetch(keys, issuer) -> None:
    assert issuer.asked == 0
    found = await asyncio.gather(*(keys.find("a", "RS256") for _ in range(50)))
    assert (issuer.asked, {len(checks) for checks in found}) == (1, {1})
    assert len(await keys.find("a", "RS256")) == 1
    assert issuer.asked == 1


async def test_one_who_leaves_does_not_end_the_fetch_of_others(keys, issuer) -> None:
    issuer.gate.clear()
    first, second = (asyncio.create_task(keys.find("a", "RS256")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    issuer.gate.set()
    assert len(await second) == 1


async def test_old_keys_count_while_new_ones_are_fetched(keys, issuer, clock) -> None:
    await keys.find("a", "RS256")
    clock.now_s += jwks.REFRESH_S
    issuer.gate.clear()  # hangs
    for _ in range(10):
        assert len(await keys.find("a", "RS256")) == 1
    issuer.gate.set()
    await settled(keys)
    assert (issuer.asked, keys.changes) == (2, 1)


async def test_a_rotated_key_is_fetched_at_once_and_the_old_one_ends(keys, issuer, clock) -> None:
    await keys.find("a", "RS256")
    issuer.body = document(jwk("ES256", "b"))
    clock.now_s += jwks.RETRY_S
    assert len(await keys.find("b", "ES256")) == 1
    assert await keys.find("a", "RS256") == ()
    assert keys.changes == 2


async def test_made_up_names_cause_no_flood(keys, issuer, clock) -> None:
    await keys.find("a", "RS256")
    for number in range(100):
        assert await keys.find(f"guess-{number}", "RS256") == ()
    assert issuer.asked == 1
    clock.now_s += jwks.RETRY_S
    await asyncio.gather(*(keys.find(f"guess-{number}", "RS256") for number in range(100)))
    assert issuer.asked == 2


@pytest.mark.parametrize(
    "answer",
    [
        OSError("refused"), TimeoutError(), ValueError("status 500"), b"", b"<html>", b"[]", b"{}", b'{"keys": 1}',
        document(), document(1, None, "a"), document({"kty": "RSA"}), b"[" * 10_000, b"\xff", document(*[{}] * 101),
    ],
)  # fmt: skip
async def test_an_issuer_in_trouble_is_no_outage(keys, issuer, clock, caplog, answer) -> None:
    issuer.body, sound = answer, issuer.body
    with caplog.at_level(logging.CRITICAL):
        for _ in range(2):  # nothing was ever there: a 503, and no second fetch at once
            with pytest.raises(KeysUnavailable):
                await keys.find("a", "RS256")
        assert issuer.asked == 1
        clock.now_s += jwks.RETRY_S
        issuer.body = sound
        assert len(await keys.find("a", "RS256")) == 1
        issuer.body = answer
        clock.now_s += jwks.REFRESH_S
        await keys.find("a", "RS256")
        await settled(keys)
        assert len(await keys.find("a", "RS256")) == 1
        with pytest.raises(KeysUnavailable):  # who knows whether the issuer has such a key by now
            await keys.find("b", "RS256")
    assert (issuer.asked, keys.changes) == (3, 1)


@pytest.mark.parametrize(
    ("key", "usable"),
    [
        (jwk("RS256"), True),
        (jwk("RS256", "a", use="sig", key_ops=["verify"], alg="RS256"), True),
        (jwk("RS256", "a", x5c=["MIIB"], x5t="a"), True),
        (jwk("RS256", "a", use="enc"), False),
        (jwk("RS256", "a", key_ops=["encrypt"]), False),
        (jwk("RS256", "a", key_ops="verify"), False),
        (jwk("RS256", "a", alg="RS512"), False),
        (jwk("RS256", "a", alg="HS256"), False),
        (jwk("RS256", "a", alg="none"), False),
        (jwk("RS256") | {"kid": 7}, False),
        (jwk("RS256", "a", n="AQAB"), False),
        (jwk("ES256", "a", crv="P-384"), False),
        (jwk("ES256", "a", x="AAAA"), False),
        ({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ", "kid": "a"}, False),
        ({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ", "kid": "a", "alg": "RS256"}, False),
    ],
)
def test_only_keys_for_signatures_are_used(key, usable) -> None:
    other = jwk("EdDSA", "other")
    assert len(keys_of(document(other, key), ALGORITHMS)) == 1 + usable


def test_a_private_key_that_slipped_out_is_used_as_a_public_one() -> None:
    leaked = jwt.algorithms.RSAAlgorithm.to_jwk(private_key("RS256"), as_dict=True)
    leaked.pop("key_ops")
    assert len(keys_of(document(leaked), ALGORITHMS)) == 1


async def test_a_token_without_kid_is_checked_with_few_keys_only(keys, issuer) -> None:
    issuer.body = document(*(jwk("RS256", str(number)) for number in range(4)))
    assert len(await keys.find(None, "RS256")) == 4
    many = keys_of(document(*(jwk("RS256", str(number)) for number in range(5))), ALGORITHMS)
    keys._keys = many
    assert await keys.find(None, "RS256") == ()


# --- with the plugin, over a socket -----------------------------------------------------------------------------------


class Server:
    """`answer`: what it writes, whatever it is asked; None: nothing, and the connection stays open."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.asked, self.url = 0, ""

    def shows(self, body: bytes, status: str = "200 OK") -> None:
        self.answer = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
        writer.close()


@pytest.fixture
async def server() -> Any:
    served = Server()
    listening = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/jwks.json"
    yield served
    listening.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_is_checked_with_the_issuers_key(make, exchange_of, server, algorithm) -> None:
    server.shows(document(jwk(algorithm, "a")))
    plugin = make("jwt", {"jwks_url": server.url})
    for _ in range(3):
        exchange = exchange_of(headers=bearer(signed_by(algorithm, kid="a")))
        await passes(plugin, exchange)
        assert exchange.credential.hint == "anna"
    assert server.asked == 1
    for wrong in (signed_by("HS256", kid="a"), signed_by(algorithm, kid="b"), signed_by(algorithm, kid="a")[:-8]):
        with pytest.raises(Reject) as caught:
            await passes(plugin, exchange_of(headers=bearer(wrong)))
        assert caught.value.code == "token_invalid"


async def test_keys_outlive_a_new_configuration(make, exchange_of, server) -> None:
    server.shows(document(jwk("RS256", "a")))
    old = make("jwt", {"jwks_url": server.url})
    await passes(old, exchange_of(headers=bearer(signed_by("RS256", kid="a"))))
    server.answer = None
    new = make("jwt", {"jwks_url": server.url, "leeway_s": 5})
    del old
    await passes(new, exchange_of(headers=bearer(signed_by("RS256", kid="a"))))
    assert server.asked == 1


async def test_a_key_that_is_withdrawn_ends_tokens_that_were_verified(make, exchange_of, server, clock) -> None:
    server.shows(document(jwk("RS256", "a")))
    plugin = make("jwt", {"jwks_url": server.url})
    text = signed_by("RS256", {**CLAIMS, "exp": CLAIMS["exp"] + 9999}, kid="a")
    await passes(plugin, exchange_of(headers=bearer(text)))
    server.shows(document(jwk("ES256", "b")))
    clock.now_s += jwks.REFRESH_S
    assert plugin.access(exchange_of(headers=bearer(text))) is None  # remembered; keys are fetched meanwhile
    await plugin._key_set._task
    with pytest.raises(Reject):
        await passes(plugin, exchange_of(headers=bearer(text)))
    assert server.asked == 2


async def test_own_keys_need_no_issuer(make, exchange_of, server) -> None:
    server.answer = None
    plugin = make("jwt", {"jwks_url": server.url, "secret": "a-secret-of-thirty-two-bytes-or-more" * 3})
    await asyncio.wait_for(passes(plugin, exchange_of(headers=bearer(signed_by("HS256")))), jwks.FETCH_TIMEOUT_S / 5)
    plugin._key_set._task.cancel()  # it goes on asking for the others


@pytest.mark.parametrize("trouble", ["500 Oops", "302 Found", "hangs", "garbage", "too much"])
async def test_trouble_of_the_issuer_is_a_503(make, exchange_of, server, monkeypatch, caplog, trouble) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_S", 0.3)
    match trouble:
        case "hangs":
            server.answer = None
        case "garbage":
            server.answer = b"\x00\x01\r\n\r\n"
        case "too much":
            server.shows(b" " * (jwks.MAX_BYTES + 1))
        case status:
            server.shows(document(jwk("RS256", "a")), status)
    plugin = make("jwt", {"jwks_url": server.url})
    with caplog.at_level(logging.CRITICAL), pytest.raises(KeysUnavailable) as caught:
        await passes(plugin, exchange_of(headers=bearer(signed_by("RS256", kid="a"))))
    assert (caught.value.status, caught.value.code) == (503, "credentials_unavailable")
