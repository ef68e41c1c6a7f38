from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from email.utils import formatdate
from typing import Any

import pytest

from gateway.plugins.base import Refusal
from gateway.plugins.hmac_auth import HmacAuth, HmacAuthConfig, signature
from gateway.plugins.registry import ConfigProblems
from gateway.proxy.errors import CredentialsUnavailable, Reject
from gateway.proxy.exchange import Consumer
from gateway.proxy.headers import get
from tests.proxy.gatewaying import Bench, route, setting, table, target, upstream
from tests.upstream import OK, Wire, serving

SECRET = "sixteen-bytes-at-least"
CONFIG: dict[str, Any] = {"credentials": [{"username": "billing", "secret": SECRET}]}
NOW_S = 1_790_000_040.0
DATE = formatdate(NOW_S, usegmt=True)
FIELDS = {"date": DATE, "x-a": "1"}


def signed(
    names: str = "date request-line x-a",
    line: str = "GET /orders?page=2 HTTP/1.1",
    *,
    fields: dict[str, str] = FIELDS,
    secret: str = SECRET,
    algorithm: str = "hmac-sha256",
    username: str = "billing",
    host: str = "api.test",
) -> list[tuple[bytes, bytes]]:
    """As a client does it."""
    known = {**fields, "host": host}
    lines = []
    for name in names.split():
        method, path, _ = line.split()
        special = {"request-line": line, "@request-target": f"@request-target: {method.lower()} {path}"}
        lines.append(special.get(name, f"{name}: {known.get(name, '')}"))
    mac = hmac.new(secret.encode(), "\n".join(lines).encode(), algorithm.removeprefix("hmac-")).digest()
    value = (
        f'hmac username="{username}", algorithm="{algorithm}", headers="{names}", signature="{b64encode(mac).decode()}"'
    )
    return [*((name.encode(), text.encode()) for name, text in fields.items()), (b"authorization", value.encode())]


@pytest.fixture
def asked(exchange_of):
    def build(fields, **more):
        return exchange_of(
            **{"path": "/orders", "query": b"page=2", "headers": fields, "authority": b"api.test", **more}
        )

    return build


def refusal(plugin, exchange) -> Reject:
    with pytest.raises(Reject) as caught:
        plugin.access(exchange)
    assert caught.value.status == 401
    assert caught.value.headers == ((b"www-authenticate", b'hmac realm="hydragate"'),)
    return caught.value


def test_the_example_of_kongs_documentation() -> None:
    text = b"date: Thu, 22 Jun 2017 17:15:21 GMT\nGET /requests HTTP/1.1"
    assert b64encode(signature(b"secret", "hmac-sha256", text)) == b"ujWCGHeec9Xd6UD2zlyxiNMCiXnDOWeVFMu5VeRUxtw="


@pytest.mark.parametrize("algorithm", ["hmac-sha256", "hmac-sha384", "hmac-sha512"])
@pytest.mark.parametrize("names", ["date request-line", "@request-target date", "x-a host date request-line"])
def test_a_signed_request_passes_and_has_a_name(make, asked, algorithm: str, names: str) -> None:
    exchange = asked(signed(names, algorithm=algorithm))
    assert make("hmac-auth", CONFIG).access(exchange) is None
    assert exchange.consumer == Consumer(0, "billing")
    assert exchange.credential.hint == "billing"
    assert get(exchange.headers, b"x-credential-identifier") == b"billing"
    assert get(exchange.headers, b"authorization") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/orders/"}, {"query": b"page=3"}, {"query": b""}, {"method": "POST"}, {"authority": b"other.test"},
        {"headers": [(b"date", DATE.encode()), (b"x-a", b"2")]},
        {"headers": [(b"date", DATE.encode()), (b"x-a", b"1"), (b"x-a", b"1")]},
        {"headers": [(b"date", DATE.encode())]},
    ],
)  # fmt: skip
def test_another_request_than_the_signed_one_is_refused(make, asked, changes) -> None:
    fields = signed("date request-line x-a host")
    if "headers" in changes:
        changes = {"headers": [*changes["headers"], fields[-1]]}
    exchange = asked(**{"fields": fields, **changes})
    assert refusal(make("hmac-auth", CONFIG), exchange).code == "signature_invalid"


@pytest.mark.parametrize("fields", [
    signed("date"), signed("request-line"), signed("x-a request-line"), signed("date date request-line"),
    signed("date request-line x-b"), signed("date request-line authorization"),
    signed(secret="another-secret-of-theirs"), signed(username="nobody"), signed(algorithm="hmac-sha1"),
    signed(algorithm="hmac-md5"),
])  # fmt: skip
def test_what_covers_too_little_or_is_of_somebody_else_is_refused(make, asked, fields) -> None:
    exchange = asked(fields)
    assert refusal(make("hmac-auth", CONFIG), exchange).code == "signature_invalid"
    assert exchange.consumer is None


def test_nobody_is_told_whether_the_name_or_the_signature_was_wrong(make, asked) -> None:
    plugin = make("hmac-auth", CONFIG)
    details = {
        refusal(plugin, asked(signed(username="nobody"))).detail,
        refusal(plugin, asked(signed(secret="another-secret-of-theirs"))).detail,
    }
    assert details == {"The signature does not fit the request."}


@pytest.mark.parametrize(("away_s", "passes"), [(300, True), (-300, True), (301, False), (-301, False)])
@pytest.mark.parametrize("name", ["date", "x-date"])
def test_a_date_holds_for_a_while(make, asked, away_s: int, passes: bool, name: str) -> None:
    fields = {"date": formatdate(0, usegmt=True), name: formatdate(NOW_S + away_s, usegmt=True)}
    exchange, plugin = asked(signed(f"{name} request-line", fields=fields)), make("hmac-auth", CONFIG)
    if passes:
        plugin.access(exchange)
    else:
        assert "300 s away" in refusal(plugin, exchange).detail


@pytest.mark.parametrize("date", ["", "now", "1790000040", "Mon, 21 Sep 2026 14:14:00 +0200", "2026-09-21T14:14:00Z"])
def test_a_date_that_is_none_is_refused(make, asked, date: str) -> None:
    exchange = asked(signed("date request-line", fields={"date": date}))
    assert "is no date" in refusal(make("hmac-auth", CONFIG), exchange).detail


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([], "signature_missing"),
        ([b"Bearer abc"], "signature_missing"),
        ([b"hmac"], "signature_missing"),
        ([b"hmac x"], "signature_invalid"),
        ([b'hmac username="a"'], "signature_invalid"),
        ([b'hmac username="a", algorithm="b", headers="c", signature="d", extra="e"'], "signature_invalid"),
        ([b'hmac username="a", username="a", algorithm="b", headers="c", signature="d"'], "signature_invalid"),
        ([b'hmac username="a", algorithm="b", headers="c", signature="d" x'], "signature_invalid"),
        ([b'hmac username=a, algorithm="b", headers="c", signature="d"'], "signature_invalid"),
        ([b'hmac username="billing", algorithm="hmac-sha256", headers="date request-line", signature="\xe9"'],
         "signature_invalid"),
        ([b'hmac username="billing", algorithm="hmac-sha256", headers="date request-line \xe9", signature="aa=="'],
         "signature_invalid"),
        ([signed()[-1][1], signed()[-1][1]], "signature_invalid"),
        ([signed()[-1][1], b"Bearer abc"], "signature_invalid"),
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(make, asked, values, code) -> None:
    fields = [(b"date", DATE.encode()), (b"x-a", b"1"), *((b"authorization", value) for value in values)]
    assert refusal(make("hmac-auth", CONFIG), asked(fields)).code == code


def test_more_can_be_asked_for_and_the_signature_left_in(make, asked) -> None:
    plugin = make("hmac-auth", {**CONFIG, "enforce_headers": ["Host"], "hide_credentials": False})
    assert "covers host" in refusal(plugin, asked(signed())).detail
    exchange = asked(signed("date request-line host"))
    plugin.access(exchange)
    assert get(exchange.headers, b"authorization") is not None


def test_what_a_client_says_of_itself_is_dropped(make, asked) -> None:
    exchange = asked([*signed(), (b"x-consumer-username", b"root")])
    make("hmac-auth", CONFIG).access(exchange)
    assert get(exchange.headers, b"x-consumer-username") is None


def test_preflights_can_be_let_through(make, asked) -> None:
    fields = [(b"access-control-request-method", b"PUT")]
    make("hmac-auth", {**CONFIG, "run_on_preflight": False}).access(asked(fields, method="OPTIONS"))
    assert refusal(make("hmac-auth", CONFIG), asked(fields, method="OPTIONS")).code == "signature_missing"


# --- consumers --------------------------------------------------------------------------------------------------------

OWNED: dict[str, Any] = {"credentials": [{"username": "billing", "secret": SECRET, "consumer": "ann"}]}


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_signature_belongs_to_a_consumer(make, asked, credentials, remembers: bool) -> None:
    credentials.remembers = remembers
    credentials.consumers["username", "ann"] = Consumer(5, "ann", groups=frozenset({"gold"}))
    exchange = asked(signed())
    waiting = make("hmac-auth", OWNED).access(exchange)
    assert (waiting is None) == remembers
    if waiting is not None:
        await waiting
    assert exchange.consumer.id == 5
    assert (get(exchange.headers, b"x-consumer-username"), exchange.credential.kind) == (b"ann", "hmac")


@pytest.mark.parametrize("code", ["consumer_unknown", "consumer_disabled"])
def test_a_consumer_who_is_not_there_is_refused(make, asked, credentials, code: str) -> None:
    credentials.consumers["username", "ann"] = Refusal(code)
    wanted = "signature_invalid" if code == "consumer_unknown" else code
    assert refusal(make("hmac-auth", OWNED), asked(signed())).code == wanted


def test_an_outage_is_not_the_clients_fault(make, asked, credentials) -> None:
    credentials.down = True
    with pytest.raises(CredentialsUnavailable):
        make("hmac-auth", OWNED).access(asked(signed()))


# --- bodies -----------------------------------------------------------------------------------------------------------

CHECKED: dict[str, Any] = {**CONFIG, "validate_request_body": True, "clock_skew": 86_400}


def digest(body: bytes) -> str:
    return f"SHA-256={b64encode(hashlib.sha256(body).digest()).decode()}"


@pytest.mark.parametrize(
    ("fields", "names", "body", "passes"),
    [
        ({}, "date request-line", None, True),
        ({"digest": digest(b"")}, "date request-line digest", None, True),
        ({"digest": digest(b"x")}, "date request-line digest", None, False),
        ({}, "date request-line", object(), False),
        ({"digest": digest(b"x")}, "date request-line", object(), False),
        ({"digest": digest(b"x")}, "date request-line digest", object(), True),
        ({"digest": "SHA-256=abc"}, "date request-line digest", object(), False),
        ({"digest": "MD5=1B2M2Y8AsgTpgAmY7PhCfg=="}, "date request-line digest", object(), False),
    ],
)
def test_a_body_comes_with_a_signed_digest(make, asked, fields, names, body, passes) -> None:
    exchange = asked(signed(names, fields={"date": DATE, **fields}), body=body)
    plugin = make("hmac-auth", CHECKED)
    if passes:
        plugin.access(exchange)
    else:
        assert refusal(plugin, exchange).code == "signature_invalid"


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_upstream_never_has_all_of_a_wrong_body(chunked: bool) -> None:
    arrived: list[bytes] = []

    async def swallow(wire: Wire) -> None:
        while await wire.head():
            body = b""
            while not body.endswith(b"0\r\n\r\n" if chunked else b"last"):
                if not (data := await wire.reader.read(65536)):
                    return
                body += data
            arrived.append(body)
            await wire.send(OK)

    now = {"date": formatdate(usegmt=True), "digest": digest(b"firstlast")}
    fields = signed("date request-line digest", "POST /orders HTTP/1.1", fields=now)
    settings = [setting(HmacAuth, config=HmacAuthConfig.model_validate(CHECKED))]
    length = None if chunked else 9
    framing = [] if chunked else [(b"content-length", b"9")]
    async with serving(swallow) as up:
        routing = table([route("r", "/*")], [upstream("up", target(up.port))], [HmacAuth], settings)
        async with Bench(routing) as bench:
            sent = {"method": "POST", "headers": [*fields, *framing], "length": length}
            right, _ = await bench.get("/orders", body=[b"first", b"last"], **sent)
            wrong, _ = await bench.get("/orders", body=[b"thirs", b"last"], **sent)
    assert (right.status, wrong.status, len(arrived)) == (200, 401, 1)
    assert b"first" in arrived[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "required"),
        ({"credentials": []}, "at least 1"),
        ({"credentials": [{"username": "a", "secret": "short"}]}, "at least 16"),
        ({"credentials": [{"username": 'a"b', "secret": SECRET}]}, "pattern"),
        ({"credentials": [{"username": "a", "secret": SECRET}] * 2}, "twice: a"),
        ({**CONFIG, "algorithms": ["hmac-sha1"]}, "hmac-sha256"),
        ({**CONFIG, "clock_skew": 0}, "greater than or equal to 1"),
        ({**CONFIG, "enforce_headers": ["a b"]}, "no header name"),
        ({**CONFIG, "enforce_headers": ["connection"]}, "belongs to the connection"),
    ],
)
def test_what_cannot_work_is_refused(registry, config, said) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("hmac-auth", config)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
