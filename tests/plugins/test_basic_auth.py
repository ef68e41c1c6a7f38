from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest

from gateway.plugins.base import Refusal
from gateway.plugins.passwords import hashed
from gateway.proxy import headers
from gateway.proxy.errors import CredentialsUnavailable, Reject
from gateway.proxy.exchange import Consumer, Credential

WORD = "corréct:horse"
CHALLENGE = {b"www-authenticate": b'Basic realm="hydragate", charset="UTF-8"'}


@pytest.fixture(scope="module")
def stored() -> str:
    return hashed(WORD)


@pytest.fixture
def login(stored: str) -> Credential:
    return Credential("basic", 4, "alice", Consumer(11, "alice-corp", "crm-42", frozenset({"gold"})), proof=stored)


@pytest.fixture(autouse=True)
def _known(credentials, login) -> None:
    credentials.logins["alice"] = login


def basic(text: str, scheme: str = "Basic", encoding: str = "utf-8") -> tuple[bytes, bytes]:
    return b"authorization", scheme.encode() + b" " + b64encode(text.encode(encoding))


async def refusal(plugin, exchange) -> Reject:
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    assert exchange.consumer is None
    assert caught.value.status == 401
    assert dict(caught.value.headers) == CHALLENGE
    return caught.value


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
async def test_username_and_password_are_checked_and_taken_out(
    make, exchange_of, credentials, login, scheme, remembered
) -> None:
    credentials.remembers = remembered
    exchange = exchange_of(headers=[basic(f"alice:{WORD}", scheme), (b"x-consumer-id", b"1")])
    await make("basic-auth").access(exchange)
    assert (exchange.consumer, exchange.credential) == (login.consumer, login)
    assert sorted(exchange.headers) == [
        (b"x-consumer-custom-id", b"crm-42"),
        (b"x-consumer-groups", b"gold"),
        (b"x-consumer-id", b"11"),
        (b"x-consumer-username", b"alice-corp"),
        (b"x-credential-identifier", b"alice"),
    ]


async def test_letters_written_in_two_ways_are_the_same_password(make, exchange_of) -> None:
    exchange = exchange_of(headers=[basic("alice:corre\u0301ct:horse")])
    await make("basic-auth").access(exchange)
    assert exchange.consumer is not None


async def test_they_may_be_left_for_the_upstream(make, exchange_of) -> None:
    exchange = exchange_of(headers=[sent := basic(f"alice:{WORD}")])
    await make("basic-auth", {"hide_credentials": False}).access(exchange)
    assert sent in exchange.headers


@pytest.mark.parametrize(
    "fields",
    [
        [basic("alice:wrong")],
        [basic("nobody:wrong")],
        [basic("Alice:" + WORD)],
        [basic("alice")],
        [basic(":" + WORD)],
        [basic("alice:")],
        [basic(f"alice:{WORD}\0")],
        [basic(f"alice:{WORD}", encoding="latin-1")],
        [(b"authorization", b"Basic ?")],
        [(b"authorization", b"Basic " + b"QUJD" * 5000)],
        [basic("alice:" + WORD), basic("alice:" + WORD)],
        [basic("alice:" + WORD), (b"authorization", b"Bearer x")],
    ],
)
async def test_what_is_wrong_is_told_apart_by_nothing(make, exchange_of, fields) -> None:
    refused = await refusal(make("basic-auth"), exchange_of(headers=fields))
    assert (refused.code, refused.detail) == ("credentials_invalid", "Username or password is wrong.")


@pytest.mark.parametrize("fields", [[], [(b"authorization", b"Bearer hg_live_x")], [(b"authorization", b"Basic")]])
async def test_a_request_without_any_is_asked_for_them(make, exchange_of, fields) -> None:
    assert (await refusal(make("basic-auth"), exchange_of(headers=fields))).code == "credentials_missing"


async def test_the_realm_is_the_operators(make, exchange_of) -> None:
    with pytest.raises(Reject) as caught:
        await make("basic-auth", {"realm": "The office"}).access(exchange_of())
    assert dict(caught.value.headers)[b"www-authenticate"] == b'Basic realm="The office", charset="UTF-8"'


async def test_only_the_right_password_tells_that_the_owner_is_disabled(make, exchange_of, credentials, stored) -> None:
    credentials.logins["alice"] = Refusal("consumer_disabled", stored)
    plugin = make("basic-auth")
    assert (await refusal(plugin, exchange_of(headers=[basic("alice:wrong")]))).code == "credentials_invalid"
    assert (await refusal(plugin, exchange_of(headers=[basic(f"alice:{WORD}")]))).code == "consumer_disabled"


async def test_trouble_of_ours_is_no_401(make, exchange_of, credentials) -> None:
    credentials.down = True
    with pytest.raises(CredentialsUnavailable):
        await make("basic-auth").access(exchange_of(headers=[basic(f"alice:{WORD}")]))


async def test_preflights_can_be_let_through(make, exchange_of) -> None:
    preflight = [(b"origin", b"https://a"), (b"access-control-request-method", b"GET")]
    exchange = exchange_of("OPTIONS", headers=preflight)
    await make("basic-auth", {"run_on_preflight": False}).access(exchange)
    assert exchange.consumer is None


class TestAnonymous:
    @pytest.fixture(autouse=True)
    def _guest(self, credentials) -> None:
        credentials.consumers["username", "guest"] = Consumer(20, "guest")

    async def test_a_request_without_credentials_counts_as_that_consumer(self, make, exchange_of) -> None:
        exchange = exchange_of(headers=[(b"x-consumer-groups", b"admin")])
        await make("basic-auth", {"anonymous": "guest"}).access(exchange)
        assert exchange.consumer == Consumer(20, "guest")
        assert exchange.credential is None
        assert headers.get_all(exchange.headers, b"x-consumer-username") == [b"guest"]
        assert not headers.get_all(exchange.headers, b"x-consumer-groups")

    async def test_wrong_credentials_are_refused_all_the_same(self, make, exchange_of) -> None:
        plugin = make("basic-auth", {"anonymous": "guest"})
        assert (await refusal(plugin, exchange_of(headers=[basic("alice:wrong")]))).code == "credentials_invalid"

    async def test_a_consumer_who_is_missing_is_our_trouble(self, make, exchange_of) -> None:
        with pytest.raises(CredentialsUnavailable):
            await make("basic-auth", {"anonymous": "nobody"}).access(exchange_of())

    @pytest.mark.parametrize(
        ("fields", "username"),
        [
            ([(b"apikey", b"hg_live_secret")], "alice"),
            ([basic(f"alice:{WORD}")], "alice-corp"),
            ([], "guest"),
        ],
    )
    async def test_with_key_auth_either_will_do(self, make, exchange_of, credentials, alice, fields, username) -> None:
        credentials.known[hashlib.sha256(b"hg_live_secret").digest()] = alice
        exchange = exchange_of(headers=fields)
        for name in ("key-auth", "basic-auth"):
            await make(name, {"anonymous": "guest"}).access(exchange)
        assert exchange.consumer is not None
        assert exchange.consumer.username == username

    async def test_one_without_anonymous_insists(self, make, exchange_of, credentials, alice) -> None:
        exchange = exchange_of()
        await make("key-auth", {"anonymous": "guest"}).access(exchange)
        with pytest.raises(Reject):
            await make("basic-auth").access(exchange)
