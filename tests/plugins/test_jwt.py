from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from gateway.environment import ROOT
from gateway.plugins.base import Refusal
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import CredentialsUnavailable, Reject
from gateway.proxy.exchange import Consumer
from tests.plugins.signing import CLAIMS, EXP, NOW_S, SECRET, b64, encoded, hs256, pem, private_key, signed_by, token

CONFIG: dict[str, Any] = {"secret": SECRET}
ALGORITHMS = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip


def bearer(text: bytes) -> headers.Pairs:
    return [(b"authorization", b"Bearer " + text)]


async def passes(plugin: Any, exchange: Any) -> None:
    waiting = plugin.access(exchange)
    if waiting is not None:
        await waiting


async def refusal(plugin: Any, exchange: Any) -> Reject:
    with pytest.raises(Reject) as caught:
        await passes(plugin, exchange)
    assert (exchange.consumer, exchange.credential, caught.value.status) == (None, None, 401)
    return caught.value


def key_of(algorithm: str) -> dict[str, str]:
    if algorithm.startswith("HS"):
        return {"algorithm": algorithm, "secret": SECRET * 3}
    return {"algorithm": algorithm, "public_key": pem(algorithm)}


class TestSigned:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_what_another_library_signs_is_taken(self, make, exchange_of, algorithm) -> None:
        exchange = exchange_of(headers=bearer(signed_by(algorithm)))
        await passes(make("jwt", {"keys": [key_of(algorithm)]}), exchange)
        assert exchange.credential.hint == "anna"

    async def test_the_vector_of_rfc_7515_a_1(self, make, exchange_of, clock) -> None:
        vector = (
            b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
            b".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
            b".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        )
        key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
        plugin = make("jwt", {"keys": [{"secret": key, "secret_is_base64": True}], "consumer_claim": "iss"})
        clock.now_s = 1_300_819_379.0
        exchange = exchange_of(headers=bearer(vector))
        await passes(plugin, exchange)
        assert exchange.credential.hint == "joe"
        clock.now_s += 1
        assert (await refusal(plugin, exchange_of(headers=bearer(vector)))).code == "token_expired"

    @pytest.mark.parametrize("wrong", [-1, 0, 5])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    async def test_a_bit_that_changed_is_noticed(self, make, exchange_of, algorithm, wrong) -> None:
        head, payload, signature = signed_by(algorithm).split(b".")
        turned = bytearray(signature)
        turned[wrong] = ord("A") if turned[wrong] != ord("A") else ord("Q")
        text = b".".join([head, payload, bytes(turned)])
        error = await refusal(make("jwt", {"keys": [key_of(algorithm)]}), exchange_of(headers=bearer(text)))
        assert error.code == "token_invalid"

    async def test_a_kid_chooses_the_key(self, make, exchange_of) -> None:
        other = "another-secret-of-thirty-two-bytes!!"
        plugin = make("jwt", {"keys": [{"kid": "new", "secret": SECRET}, {"kid": "old", "secret": other}]})
        for text in (token(kid="new"), token(kid="old", sign=lambda text: hs256(text, other)), token()):
            await passes(plugin, exchange_of(headers=bearer(text)))
        for text in (token(kid="old"), token(kid="gone"), token(sign=lambda text: hs256(text, "a third secret"))):
            assert (await refusal(plugin, exchange_of(headers=bearer(text)))).code == "token_invalid"

    async def test_a_key_without_kid_is_for_all_tokens(self, make, exchange_of) -> None:
        await passes(make("jwt", CONFIG), exchange_of(headers=bearer(token(kid="whatever"))))


def es256_as_der(text: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return bytes(private_key("ES256").sign(text, ECDSA(hashes.SHA256())))


def said(**claims: Any) -> bytes:
    return token({**CLAIMS, **claims})


GOOD = token()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(b".")
RSA_PEM = pem("RS256")
JWK = {"kty": "oct", "k": b64(SECRET.encode()).decode()}
ATTACKS: dict[str, bytes] = {
    # the algorithm
    "none": token(alg="none", sign=lambda _: b""),
    "None": token(alg="None", sign=lambda _: b""),
    "NONE with a signature": token(alg="NONE"),
    "no algorithm": token(header={"typ": "JWT"}),
    "empty algorithm": token(alg=""),
    "algorithm of null": token(alg=None),
    "algorithm in a list": token(alg=["HS256"]),
    "lower case": token(alg="hs256"),
    "HS512 in name only": token(alg="HS512"),
    "HS384 that nobody allowed": token(alg="HS384", sign=lambda text: hs256(text)),
    "RS256 with the secret": token(alg="RS256"),
    "HS256 with the RSA public key": token(sign=lambda text: hs256(text, RSA_PEM)),
    "HS256 with the RSA public key, stripped": token(sign=lambda text: hs256(text, RSA_PEM.strip())),
    "ES256 with DER": token(alg="ES256", sign=es256_as_der),
    "ES256 of zeros": token(alg="ES256", sign=lambda _: bytes(64)),
    "ES256 with an empty signature": token(alg="ES256", sign=lambda _: b""),
    "EdDSA of zeros": token(alg="EdDSA", sign=lambda _: bytes(64)),
    "PS256 by the key of RS256": signed_by("PS256"),
    # the signature
    "no signature": HEAD + b"." + PAYLOAD + b".",
    "signature cut": GOOD[:-4],
    "another secret": token(sign=lambda text: hs256(text, "another secret")),
    "an empty secret": token(sign=lambda text: hs256(text, b"")),
    "a secret that many use": token(sign=lambda text: hs256(text, "secret")),
    "claims of another token": HEAD + b"." + encoded({**CLAIMS, "sub": "root"}) + b"." + SIGNATURE,
    # the form
    "two parts": HEAD + b"." + PAYLOAD,
    "four parts": GOOD + b".AAAA",
    "five parts": b".".join([HEAD, b"", PAYLOAD, SIGNATURE, b""]),
    "only dots": b"..",
    "padding": HEAD + b"." + PAYLOAD + b"." + SIGNATURE + b"=",
    "padding in the header": token().replace(HEAD, HEAD + b"=="),
    "the other base64": HEAD + b"." + PAYLOAD + b"." + SIGNATURE.replace(b"-", b"+").replace(b"_", b"/") + b"+",
    "spare bits": GOOD[:-1] + bytes([GOOD[-1] + 1]),
    "a blank inside": HEAD + b". " + PAYLOAD + b"." + SIGNATURE,
    "a line break": GOOD.replace(b".", b".\n", 1),
    "no ASCII": GOOD + "ä".encode(),
    "JSON instead of compact": json.dumps({"payload": PAYLOAD.decode(), "signature": SIGNATURE.decode()}).encode(),
    "more than 8 KB": said(padding="x" * 7000),
    # the header
    "crit": token(crit=["exp"]),
    "empty crit": token(crit=[]),
    "b64 false": token(b64=False, crit=["b64"]),
    "embedded jwk": token(jwk=JWK),
    "jku": token(jku="https://evil.example/jwks.json"),
    "x5u": token(x5u="https://evil.example/cert.pem"),
    "x5c": token(x5c=["MIIB"]),
    "kid of a number": token(kid=7),
    "kid of null": token(kid=None),
    "kid of a list": token(kid=["new"]),
    "kid without end": token(kid="x" * 257),
    "a typ of another kind": token(typ="logout+jwt"),
    "typ of a number": token(typ=1),
    "header twice": token(header=b'{"alg":"HS256","typ":"JWT","alg":"none"}'),
    "header of a list": token(header=b'["HS256"]'),
    "header of nothing": token(header=b""),
    "header in UTF-16": token(header='{"alg":"HS256"}'.encode("utf-16")),
    "header with a BOM": token(header=b'\xef\xbb\xbf{"alg":"HS256"}'),
    "header nested without end": token(header=b'{"alg":"HS256","a":' + b"[" * 5000),
    # the claims
    "no exp": token({"sub": "anna"}),
    "exp of null": said(exp=None),
    "exp of text": said(exp=str(EXP)),
    "exp of true": said(exp=True),
    "exp of a list": said(exp=[EXP]),
    "exp in milliseconds": said(exp=EXP * 1000),
    "exp without end": said(exp=10**30),
    "exp beyond floats": token(b'{"sub":"anna","exp":1e999}'),
    "exp of Infinity": token(b'{"sub":"anna","exp":Infinity}'),
    "exp of NaN": token(b'{"sub":"anna","exp":NaN}'),
    "exp below zero": said(exp=-1),
    "exp twice": token(b'{"sub":"anna","exp":1,"exp":%d}' % EXP),
    "sub twice": token(b'{"sub":"anna","sub":"root","exp":%d}' % EXP),
    "twice within": token(b'{"sub":"anna","exp":%d,"realm":{"a":1,"a":2}}' % EXP),
    "nbf ahead": said(nbf=NOW_S + 1),
    "nbf of text": said(nbf="0"),
    "iat ahead": said(iat=NOW_S + 1),
    "iat of text": said(iat="0"),
    "aud that is not ours": said(aud="other"),
    "aud of a number": said(aud=7),
    "aud with a number": said(aud=["other", 7]),
    "iss of a number": said(iss=7),
    "sub of a number": said(sub=7),
    "sub of nothing": said(sub=""),
    "sub with a line break": said(sub="anna\r\nx-consumer-id: 1"),
    "sub with NUL": said(sub="anna\0"),
    "sub between blanks": said(sub=" anna"),
    "sub of half a character": said(sub="\ud800"),
    "jti of a number": said(jti=7),
    "claims of a list": token([CLAIMS]),
    "claims of a text": token(b'"anna"'),
    "claims of nothing": token(b""),
    "claims not in UTF-8": token(b'{"sub":"\xff","exp":%d}' % EXP),
    "claims with a tail": token(b'{"sub":"anna","exp":%d} {}' % EXP),
}


class TestAttacks:
    def test_there_are_enough(self) -> None:
        assert len(ATTACKS) >= 80
        assert len(set(ATTACKS.values())) == len(ATTACKS)

    @pytest.fixture
    def plugin(self, make) -> Any:
        """Takes HS256, RS256, ES256 and EdDSA, so that one key's algorithm may be tried on another's."""
        keys = [{"secret": SECRET}, *(key_of(algorithm) for algorithm in ("RS256", "ES256", "EdDSA"))]
        return make("jwt", {"keys": keys})

    @pytest.mark.parametrize("attack", ATTACKS)
    async def test_none_is_taken(self, plugin, exchange_of, attack) -> None:
        error = await refusal(plugin, exchange_of(headers=bearer(ATTACKS[attack])))
        assert error.code == "token_invalid"
        challenge = dict(error.headers)[b"www-authenticate"].decode("ascii")
        assert challenge == f'Bearer realm="hydragate", error="invalid_token", error_description="{error.detail}"'
        assert error.detail.isprintable()
        assert not set(error.detail) & set('"\\')

    async def test_the_same_without_the_attack_is(self, plugin, exchange_of) -> None:
        for text in (
            GOOD,
            said(nbf=NOW_S, iat=NOW_S),
            token(typ="application/AT+JWT"),
            said(exp=EXP + 0.5),
        ):
            await passes(plugin, exchange_of(headers=bearer(text)))

    async def test_a_refused_token_is_not_remembered(self, plugin, exchange_of) -> None:
        for attack in ATTACKS.values():
            await refusal(plugin, exchange_of(headers=bearer(attack)))
        assert not plugin._verified


class TestTime:
    async def test_a_token_ends_at_its_second_also_when_remembered(self, make, exchange_of, clock) -> None:
        plugin = make("jwt", CONFIG)
        clock.now_s = EXP - 0.001
        for _ in range(2):
            await passes(plugin, exchange_of(headers=bearer(GOOD)))
        assert len(plugin._verified) == 1
        clock.now_s = float(EXP)
        error = await refusal(plugin, exchange_of(headers=bearer(GOOD)))
        assert (error.code, error.outcome) == ("token_expired", "token_expired")
        assert b'error="invalid_token"' in dict(error.headers)[b"www-authenticate"]
        assert not plugin._verified

    async def test_clocks_may_differ_by_the_leeway(self, make, exchange_of, clock) -> None:
        plugin = make("jwt", {**CONFIG, "leeway_s": 10})
        await passes(plugin, exchange_of(headers=bearer(said(nbf=NOW_S + 10, iat=NOW_S + 10))))
        assert (await refusal(plugin, exchange_of(headers=bearer(said(nbf=NOW_S + 11))))).code == "token_invalid"
        await passes(plugin, exchange_of(headers=bearer(GOOD)))
        clock.now_s = EXP + 9.9
        await passes(plugin, exchange_of(headers=bearer(GOOD)))
        clock.now_s = EXP + 10.0
        assert (await refusal(plugin, exchange_of(headers=bearer(GOOD)))).code == "token_expired"

    async def test_without_exp_in_the_list_a_token_need_not_end(self, make, exchange_of, clock) -> None:
        plugin = make("jwt", {**CONFIG, "claims_required": ["sub", "realm.roles"]})
        text = token({"sub": "anna", "realm": {"roles": []}})
        await passes(plugin, exchange_of(headers=bearer(text)))
        clock.now_s += 10**9
        await passes(plugin, exchange_of(headers=bearer(text)))
        error = await refusal(plugin, exchange_of(headers=bearer(token({"sub": "anna"}))))
        assert error.detail == "The token lacks the claim realm.roles."

    async def test_only_so_many_are_remembered(self, make, exchange_of, monkeypatch) -> None:
        monkeypatch.setattr("gateway.plugins.jwt.MAX_VERIFIED", 2)
        plugin, texts = make("jwt", CONFIG), [token(kid=str(number)) for number in range(3)]
        for text in (texts[0], texts[1], texts[0], texts[2]):
            await passes(plugin, exchange_of(headers=bearer(text)))
        assert list(plugin._verified) == [hashlib.sha256(text).digest() for text in (texts[0], texts[2])]


class TestPlaces:
    PLACES = {"uri_param_names": ["jwt"], "cookie_names": ["session"], "header_names": ["authorization", "x-token"]}
    WHERE = (
        {"headers": bearer(GOOD)},
        {"headers": [(b"authorization", b"bEARER  " + GOOD + b" ")]},
        {"headers": [(b"x-token", GOOD)]},
        {"headers": [(b"x-token", b"Bearer " + GOOD)]},
        {"headers": [(b"cookie", b"a=1; session=" + GOOD + b"; b=2")]},
        {"query": b"a=1&jwt=" + GOOD},
        {"query": b"jwt=" + GOOD, "headers": bearer(GOOD)},
    )

    @pytest.mark.parametrize("where", WHERE)
    async def test_it_is_found_and_may_be_taken_out(self, make, exchange_of, where) -> None:
        exchange = exchange_of(**where)
        await passes(make("jwt", {**CONFIG, **self.PLACES, "hide_credentials": True}), exchange)
        assert exchange.credential.hint == "anna"
        assert SIGNATURE not in b"".join(value for _, value in exchange.headers)
        wire = exchange.query if exchange.upstream_query is None else exchange.upstream_query
        assert SIGNATURE not in wire
        if b"cookie" in dict(where.get("headers", [])):
            assert headers.get_all(exchange.headers, b"cookie") == [b"a=1; b=2"]

    async def test_upstreams_get_it_otherwise(self, make, exchange_of) -> None:
        exchange = exchange_of(headers=[*bearer(GOOD), (b"cookie", b"session=1")])
        await passes(make("jwt", CONFIG), exchange)
        assert headers.get(exchange.headers, b"authorization") == b"Bearer " + GOOD
        assert headers.get(exchange.headers, b"cookie") == b"session=1"

    async def test_a_hidden_token_leaves_other_credentials(self, make, exchange_of) -> None:
        exchange = exchange_of(
            headers=[(b"x-token", GOOD), (b"authorization", b"Basic YTpi"), (b"cookie", b"session=")]
        )
        await passes(make("jwt", {**CONFIG, **self.PLACES, "hide_credentials": True}), exchange)
        assert headers.get(exchange.headers, b"authorization") == b"Basic YTpi"

    @pytest.mark.parametrize("where", WHERE[2:6])
    async def test_other_places_are_not_looked_at_by_default(self, make, exchange_of, where) -> None:
        assert (await refusal(make("jwt", CONFIG), exchange_of(**where))).code == "token_missing"

    @pytest.mark.parametrize("sent", [[], [(b"authorization", b"Basic YTpi")], [(b"authorization", b"Bearer ")]])
    async def test_without_a_token_the_client_learns_where_to_put_one(self, make, exchange_of, sent) -> None:
        error = await refusal(make("jwt", {**CONFIG, **self.PLACES, "realm": "orders"}), exchange_of(headers=sent))
        assert (error.code, error.outcome) == ("token_missing", "token_missing")
        assert dict(error.headers) == {b"www-authenticate": b'Bearer realm="orders"'}
        assert error.detail.endswith(
            "Send one as `Authorization: Bearer <token>` or in the header `x-token` or in the query parameter `jwt` or "
            "in the cookie `session`."
        )

    async def test_several_different_tokens_are_none(self, make, exchange_of) -> None:
        plugin = make("jwt", {**CONFIG, **self.PLACES})
        for where in (
            {"headers": bearer(GOOD) + bearer(token(kid="b"))},
            {"headers": bearer(GOOD), "query": b"jwt=" + token(kid="b")},
            {"headers": [*bearer(GOOD), (b"cookie", b"session=x")]},
            {"headers": [(b"cookie", b"session=x; session=" + GOOD)]},
            {"headers": [(b"authorization", b"Bearer " + GOOD + b", Bearer " + GOOD)]},
        ):
            assert (await refusal(plugin, exchange_of(**where))).code == "token_invalid"

    async def test_only_real_preflights_pass_without_one_and_only_if_told(self, make, exchange_of) -> None:
        preflight = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"PUT")]
        lenient = make("jwt", {**CONFIG, "run_on_preflight": False})
        await passes(lenient, exchange_of("OPTIONS", headers=preflight))
        for plugin, exchange in (
            (make("jwt", CONFIG), exchange_of("OPTIONS", headers=preflight)),
            (lenient, exchange_of("OPTIONS")),
            (lenient, exchange_of("GET", headers=preflight)),
        ):
            assert (await refusal(plugin, exchange)).code == "token_missing"


class TestAudience:
    @pytest.mark.parametrize(
        ("config", "claims", "taken"),
        [
            ({"audience": "api"}, {"aud": "api"}, True),
            ({"audience": ["api", "web"]}, {"aud": ["other", "web"]}, True),
            ({"audience": "api"}, {}, False),
            ({"audience": "api"}, {"aud": []}, False),
            ({"audience": "api"}, {"aud": "API"}, False),
            ({"audience": "api"}, {"aud": "api.example"}, False),
            ({"issuer": "https://a"}, {"iss": "https://a"}, True),
            ({"issuer": "https://a"}, {"iss": "https://a/"}, False),
            ({"issuer": "https://a"}, {}, False),
            ({"issuer": ["https://a", "https://b"]}, {"iss": "https://b"}, True),
            ({}, {"iss": "anybody"}, True),
        ],
    )
    async def test_issuer_and_audience_are_exact(self, make, exchange_of, config, claims, taken) -> None:
        plugin, exchange = make("jwt", {**CONFIG, **config}), exchange_of(headers=bearer(said(**claims)))
        if taken:
            await passes(plugin, exchange)
        else:
            assert (await refusal(plugin, exchange)).code == "token_invalid"


class TestCaller:
    ANNA = Consumer(11, "anna", "crm-42", frozenset({"gold"}))

    async def test_whom_only_the_token_names_is_no_consumer_to_the_upstream(self, make, exchange_of) -> None:
        forged = [(b"x-consumer-id", b"1"), (b"x-consumer-username", b"root"), (b"x-consumer-groups", b"admin")]
        exchange = exchange_of(headers=[*bearer(GOOD), *forged])
        await passes(make("jwt", {**CONFIG, "hide_credentials": True}), exchange)
        assert exchange.headers == [(b"x-credential-identifier", b"anna")]
        assert (exchange.consumer.id, exchange.consumer.username, exchange.credential.kind) == (0, "anna", "jwt")

    @pytest.mark.parametrize("remembered", [True, False])
    async def test_a_consumer_of_that_name_is_found(self, make, exchange_of, credentials, remembered) -> None:
        credentials.remembers, credentials.consumers["username", "anna"] = remembered, self.ANNA
        plugin = make("jwt", {**CONFIG, "hide_credentials": True, "consumer_by": "username", "groups_claim": "groups"})
        exchange = exchange_of(headers=bearer(said(groups=["beta"])))
        await passes(plugin, exchange)
        assert exchange.consumer == replace(self.ANNA, groups=frozenset({"gold", "beta"}))
        assert sorted(exchange.headers) == [
            (b"x-consumer-custom-id", b"crm-42"),
            (b"x-consumer-groups", b"beta,gold"),
            (b"x-consumer-id", b"11"),
            (b"x-consumer-username", b"anna"),
            (b"x-credential-identifier", b"anna"),
        ]

    async def test_a_change_of_the_consumer_reaches_remembered_tokens(self, make, exchange_of, credentials) -> None:
        plugin = make("jwt", {**CONFIG, "consumer_by": "custom_id"})
        for consumer in (self.ANNA, replace(self.ANNA, groups=frozenset())):
            credentials.consumers["custom_id", "anna"] = consumer
            exchange = exchange_of(headers=bearer(GOOD))
            await passes(plugin, exchange)
            assert exchange.consumer == consumer
        credentials.consumers["custom_id", "anna"] = Refusal("consumer_disabled")
        assert (await refusal(plugin, exchange_of(headers=bearer(GOOD)))).code == "consumer_disabled"

    async def test_without_a_consumer_a_token_passes_unless_one_is_required(self, make, exchange_of) -> None:
        exchange = exchange_of(headers=bearer(GOOD))
        await passes(make("jwt", {**CONFIG, "consumer_by": "username"}), exchange)
        assert exchange.consumer.id == 0
        plugin = make("jwt", {**CONFIG, "consumer_by": "username", "consumer_required": True})
        for text in (GOOD, token({"exp": EXP})):
            assert (await refusal(plugin, exchange_of(headers=bearer(text)))).code == "token_invalid"

    async def test_our_own_trouble_is_never_a_401(self, make, exchange_of, credentials) -> None:
        credentials.down = True
        with pytest.raises(CredentialsUnavailable):
            await passes(make("jwt", {**CONFIG, "consumer_by": "username"}), exchange_of(headers=bearer(GOOD)))
        await passes(make("jwt", CONFIG), exchange_of(headers=bearer(GOOD)))

    async def test_a_token_that_names_nobody_leaves_whom_another_plugin_found(self, make, exchange_of, alice) -> None:
        nobody = token({"exp": EXP})
        exchange = exchange_of(headers=bearer(nobody))
        await passes(make("jwt", CONFIG), exchange)
        assert (exchange.consumer, exchange.credential) == (None, None)
        exchange = exchange_of(headers=[*bearer(nobody), *alice.fields], consumer=alice.consumer, credential=alice)
        await passes(make("jwt", CONFIG), exchange)
        assert exchange.credential is alice
        assert headers.get(exchange.headers, b"x-consumer-username") == b"alice"

    async def test_callers_are_counted_apart(self, make, exchange_of, limiter) -> None:
        plugin, limit = make("jwt", CONFIG), make("rate-limiting", {"minute": 5})
        for claims in ({"sub": "anna"}, {"sub": "bob"}, {"sub": "anna", "iss": "b"}, {"sub": "anna", "jti": "2"}, {}):
            exchange = exchange_of(headers=bearer(token({"exp": EXP, **claims})))
            await passes(plugin, exchange)
            await limit.access(exchange)
        counted = [key.split(":", 4)[4] for key in limiter.keys]
        kinds = [key.partition(":")[0] for key in counted]
        assert (kinds, len(set(counted)), counted[0]) == (["jwt"] * 4 + ["ip"], 4, counted[3])

    @pytest.mark.parametrize(
        ("claims", "groups"),
        [
            ({"groups": ["a b", "c"]}, {"a b", "c"}),
            ({"groups": "a b"}, {"a", "b"}),
            ({"groups": []}, set()),
            ({}, set()),
        ],
    )
    async def test_groups_for_acl(self, make, exchange_of, claims, groups) -> None:
        exchange = exchange_of(headers=bearer(said(**claims)))
        await passes(make("jwt", {**CONFIG, "groups_claim": "groups"}), exchange)
        assert exchange.consumer.groups == groups

    @pytest.mark.parametrize("groups", [7, ["a,b"], ["a", 7], [""], ["a\n"], {"a": 1}, ["x"] * 201, ["x" * 129]])
    async def test_groups_that_cannot_be_are_not_left_out(self, make, exchange_of, groups) -> None:
        plugin = make("jwt", {**CONFIG, "groups_claim": "groups"})
        assert (await refusal(plugin, exchange_of(headers=bearer(said(groups=groups))))).code == "token_invalid"

    async def test_claims_become_headers_that_clients_cannot_send(self, make, exchange_of) -> None:
        names = {"email": "X-Email", "realm.roles": "X-Roles", "https://a.example/n": "X-N", "gone": "X-Gone"}
        plugin = make("jwt", {
            **CONFIG, "hide_credentials": True, "run_on_preflight": False,
            "claims_to_headers": [{"claim": claim, "header": header} for claim, header in names.items()],
        })  # fmt: skip
        text = said(email="Änne@a.example", realm={"roles": ["a", "b"]}, **{"https://a.example/n": 1.5})
        forged = [(b"x-gone", b"1"), (b"x_email", b"root@a.example"), (b"x.roles", b"root"), (b"x-other", b"1")]
        exchange = exchange_of(headers=[*bearer(text), *forged])
        await passes(plugin, exchange)
        assert exchange.headers == [
            (b"x-other", b"1"),
            (b"x-credential-identifier", b"anna"),
            (b"x-email", "Änne@a.example".encode()),
            (b"x-roles", b'["a","b"]'),
            (b"x-n", b"1.5"),
        ]
        preflight = [(b"access-control-request-method", b"PUT"), *forged]
        exchange = exchange_of("OPTIONS", headers=preflight)
        await passes(plugin, exchange)
        assert exchange.headers == [preflight[0], (b"x-other", b"1")]
        for value in ("a\r\nb: c", "\0", "\ud800"):
            assert (await refusal(plugin, exchange_of(headers=bearer(said(email=value))))).code == "token_invalid"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, ""),
        ({"secret": "short"}, "secret"),
        ({"secret": pem("RS256")}, "secret"),
        ({"keys": [{"algorithm": "HS256"}]}, "keys.0"),
        ({"keys": [{"algorithm": "HS256", "secret": pem("RS256")}]}, "keys.0"),
        ({"keys": [{"algorithm": "HS256", "public_key": pem("RS256")}]}, "keys.0"),
        ({"keys": [{"algorithm": "HS256", "secret": SECRET, "public_key": pem("RS256")}]}, "keys.0"),
        ({"keys": [{"algorithm": "HS256", "secret": "no base64!", "secret_is_base64": True}]}, "keys.0"),
        ({"keys": [{"algorithm": "RS256", "secret": SECRET}]}, "keys.0"),
        ({"keys": [{"algorithm": "RS256", "public_key": pem("ES256")}]}, "keys.0"),
        ({"keys": [{"algorithm": "ES256", "public_key": pem("ES384")}]}, "keys.0"),
        ({"keys": [{"algorithm": "ES256", "public_key": "MFkwEwYH"}]}, "keys.0"),
        ({"keys": [{"algorithm": "ES256", "public_key": pem("ES256").replace("PUBLIC", "PRIVATE")}]}, "keys.0"),
        ({"keys": [{"algorithm": "none"}]}, "keys.0.algorithm"),
        ({**CONFIG, "header_names": []}, ""),
        ({**CONFIG, "consumer_required": True}, ""),
        ({**CONFIG, "claims_to_headers": [{"claim": "a", "header": "X-Consumer-ID"}]}, "claims_to_headers.0.header"),
        ({**CONFIG, "claims_to_headers": [{"claim": "a", "header": "X_Forwarded_For"}]}, "claims_to_headers.0.header"),
        ({**CONFIG, "claims_to_headers": [{"claim": "a", "header": "Host"}]}, "claims_to_headers.0.header"),
        ({**CONFIG, "claims_to_headers": [{"claim": "a", "header": "Content-Length"}]}, "claims_to_headers.0.header"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_field(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("jwt", config)
    assert [place for place, _ in caught.value.problems] == [path]
    assert SECRET not in str(caught.value)


def test_a_pem_may_have_lost_its_line_breaks(registry) -> None:
    registry.validate("jwt", {"keys": [{"algorithm": "RS256", "public_key": " ".join(pem("RS256").split("\n"))}]})


def test_secrets_do_without_the_library_that_takes_10_mb() -> None:
    code = (
        "import sys\n"
        "from gateway.environment import PLUGINS\n"
        "from gateway.plugins.registry import Registry\n"
        f"Registry.load(PLUGINS).validate('jwt', {CONFIG!r})\n"
        "sys.exit(bool({'jwt', 'cryptography'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


# --- an OpenID provider that tells where its keys are ----------------------------------------------------------------


async def test_an_openid_provider_tells_where_its_keys_are(make, exchange_of, service) -> None:
    plugin = make("jwt", {"openid_issuer": service.issuer, "audience": "gw"})
    for claims, admitted in (({}, True), ({"iss": "http://evil"}, False), ({"iss": service.issuer + "/"}, True)):
        exchange = exchange_of(headers=[(b"authorization", b"Bearer " + service.id_token(**claims).encode())])
        if admitted:
            await plugin.access(exchange)
            assert exchange.credential.hint == "anna"
        else:
            with pytest.raises(Reject):
                await plugin.access(exchange)
    assert [path.rpartition("/")[2] for path in service.asked] == ["openid-configuration", "jwks"]


async def test_an_openid_provider_that_is_away_is_no_fault_of_the_client(make, exchange_of, service) -> None:
    service.metadata = {"issuer": "http://evil"}
    plugin = make("jwt", {"openid_issuer": service.issuer, "audience": "gw"})
    with pytest.raises(CredentialsUnavailable):
        await plugin.access(exchange_of(headers=[(b"authorization", b"Bearer " + service.id_token().encode())]))


@pytest.mark.parametrize(("claims", "scopes"), [
    ({"scope": "a b"}, {"a", "b"}), ({"scp": ["a", 7]}, {"a"}), ({"scp": "a"}, {"a"}), ({"scope": 7}, set()),
    ({}, set()),
])  # fmt: skip
def test_a_token_says_what_it_allows(make, exchange_of, claims, scopes) -> None:
    exchange = exchange_of(headers=[(b"authorization", b"Bearer " + token({**CLAIMS, **claims}))])
    assert make("jwt", {"secret": SECRET}).access(exchange) is None
    assert exchange.credential.scopes == scopes
