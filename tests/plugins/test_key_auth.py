from __future__ import annotations

import hashlib

import pytest

from gateway.plugins.base import Refusal
from gateway.proxy import headers
from gateway.proxy.errors import CredentialsUnavailable, Reject

KEY = b"hg_live_secret"
OTHER = b"hg_live_other"


@pytest.fixture(autouse=True)
def _known(credentials, alice) -> None:
    credentials.known[hashlib.sha256(KEY).digest()] = alice


async def refusal(plugin, exchange) -> Reject:
    with pytest.raises(Reject) as caught:
        await plugin.access(exchange)
    assert exchange.consumer is None
    assert caught.value.status == 401
    assert dict(caught.value.headers) == {b"www-authenticate": b'ApiKey realm="hydragate"'}
    return caught.value


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(
    "where",
    [
        {"headers": [(b"apikey", KEY)]},
        {"headers": [(b"x-api-key", KEY)]},
        {"headers": [(b"authorization", b"Bearer " + KEY)]},
        {"headers": [(b"authorization", b"apikey  " + KEY)]},
        {"query": b"apikey=" + KEY},
        {"query": b"a=1&api%6Bey=hg%5Flive%5Fsecret"},
        {"query": b"apikey=" + KEY, "headers": [(b"x-api-key", KEY)]},
    ],
)
async def test_a_valid_key_is_found_and_taken_out(make, exchange_of, credentials, alice, where, remembered) -> None:
    credentials.remembers = remembered
    exchange = exchange_of(**where)
    await make("key-auth").access(exchange)
    assert (exchange.consumer, exchange.credential) == (alice.consumer, alice)
    assert KEY not in b"".join(value for _, value in exchange.headers)
    wire = exchange.query if exchange.upstream_query is None else exchange.upstream_query
    assert b"secret" not in wire


async def test_the_upstream_learns_who_called_and_not_from_the_client(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"apikey", KEY), (b"x-consumer-id", b"1"), (b"x-consumer-username", b"root")])
    await make("key-auth").access(exchange)
    assert sorted(exchange.headers) == [
        (b"x-consumer-custom-id", b"crm-42"),
        (b"x-consumer-groups", b"beta,gold"),
        (b"x-consumer-id", b"11"),
        (b"x-consumer-username", b"alice"),
        (b"x-credential-identifier", b"hg_live_abcd"),
    ]


async def test_a_consumer_without_custom_id_and_groups_leaves_no_forged_ones(
    make, exchange_of, credentials, bob
) -> None:
    credentials.known[hashlib.sha256(OTHER).digest()] = bob
    forged = [(b"x-consumer-custom-id", b"x"), (b"x-consumer-groups", b"admin")]
    exchange = exchange_of(headers=[(b"apikey", OTHER), *forged])
    await make("key-auth").access(exchange)
    assert {name for name, _ in exchange.headers} == {
        b"x-consumer-id",
        b"x-consumer-username",
        b"x-credential-identifier",
    }


async def test_other_parameters_keep_their_bytes_when_the_key_goes(make, exchange_of) -> None:
    exchange = exchange_of(query=b"q=a+b%2f&apikey=" + KEY + b"&&flag&x=%e4")
    await make("key-auth").access(exchange)
    assert exchange.upstream_query == b"q=a+b%2f&&flag&x=%e4"


async def test_credentials_can_stay(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"apikey", KEY)], query=b"apikey=" + KEY)
    await make("key-auth", {"hide_credentials": False}).access(exchange)
    assert headers.get(exchange.headers, b"apikey") == KEY
    assert exchange.upstream_query is None


async def test_an_authorization_that_is_not_the_key_is_the_upstreams(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"apikey", KEY), (b"authorization", b"Bearer for-the-upstream")])
    await make("key-auth").access(exchange)
    assert headers.get(exchange.headers, b"authorization") == b"Bearer for-the-upstream"


async def test_a_key_in_authorization_goes_also_if_an_empty_header_stands_beside_it(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"apikey", b""), (b"authorization", b"Bearer " + KEY)])
    await make("key-auth").access(exchange)
    assert headers.get(exchange.headers, b"authorization") is None


async def test_of_two_authorizations_only_the_one_with_the_key_goes(make, exchange_of) -> None:
    exchange = exchange_of(headers=[(b"authorization", b"Basic YTpi"), (b"authorization", b"Bearer " + KEY)])
    await make("key-auth").access(exchange)
    assert headers.get_all(exchange.headers, b"authorization") == [b"Basic YTpi"]


@pytest.mark.parametrize("sent", [[], [(b"apikey", b"")], [(b"authorization", b"Basic YTpi")]])
async def test_without_a_key_the_client_learns_where_to_put_one(make, exchange_of, sent) -> None:
    error = await refusal(make("key-auth"), exchange_of(headers=sent))
    assert error.code == "key_missing"
    assert "in the header `apikey` or `x-api-key`" in error.detail


@pytest.mark.parametrize(
    ("sent", "query"),
    [
        ([(b"apikey", b"wrong")], b""),
        ([(b"apikey", "schlüssel".encode())], b""),
        ([(b"apikey", b"\xff\xfe")], b""),
        ([(b"apikey", b"x" * 513)], b""),
        ([], b"apikey=%00%ff"),
        ([(b"apikey", KEY), (b"x-api-key", OTHER)], b""),
        ([(b"apikey", KEY), (b"apikey", OTHER)], b""),
        ([(b"apikey", KEY)], b"apikey=" + OTHER),
    ],
)
async def test_what_is_no_single_known_key_is_invalid(make, exchange_of, sent, query) -> None:
    error = await refusal(make("key-auth"), exchange_of(headers=sent, query=query))
    assert error.code == "key_invalid"
    assert KEY.decode() not in error.detail


@pytest.mark.parametrize("code", ["key_expired", "key_revoked", "consumer_disabled"])
async def test_a_refusal_keeps_its_reason(make, exchange_of, credentials, code) -> None:
    credentials.known[hashlib.sha256(KEY).digest()] = Refusal(code)
    error = await refusal(make("key-auth"), exchange_of(headers=[(b"apikey", KEY)]))
    assert (error.code, error.outcome) == (code, code)


async def test_our_own_trouble_is_never_a_401(make, exchange_of, credentials) -> None:
    credentials.down = True
    with pytest.raises(CredentialsUnavailable):
        await make("key-auth").access(exchange_of(headers=[(b"apikey", KEY)]))


async def test_places_can_be_switched_off(make, exchange_of) -> None:
    plugin = make("key-auth", {"key_in_query": False, "key_in_authorization": False})
    exchange = exchange_of(query=b"apikey=" + KEY, headers=[(b"authorization", b"Bearer " + KEY)])
    assert (await refusal(plugin, exchange)).code == "key_missing"


async def test_only_real_preflights_pass_without_a_key_and_only_if_told(make, exchange_of) -> None:
    preflight = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"PUT")]
    lenient = make("key-auth", {"run_on_preflight": False})
    assert await lenient.access(exchange_of("OPTIONS", headers=preflight)) is None
    for plugin, exchange in (
        (make("key-auth"), exchange_of("OPTIONS", headers=preflight)),
        (lenient, exchange_of("OPTIONS")),
        (lenient, exchange_of("GET", headers=preflight)),
    ):
        assert (await refusal(plugin, exchange)).code == "key_missing"
