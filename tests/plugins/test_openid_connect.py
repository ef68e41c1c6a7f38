"""A real login service: what it would see it sees, over HTTP; a browser that keeps cookies as browsers do."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.plugins.endpoints import AuthorizationUnavailable
from gateway.plugins.provider import metadata_of
from gateway.plugins.registry import ConfigProblems
from gateway.plugins.sealed import Box
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Consumer
from tests.plugins.logins import Service
from tests.plugins.signing import NOW_S, signed_by

PAGE = [(b"accept", b"text/html,*/*;q=0.8"), (b"sec-fetch-mode", b"navigate")]


class Browser:
    def __init__(self, plugin: Any, exchange_of: Callable[..., Any]) -> None:
        self.plugin, self._exchange_of = plugin, exchange_of
        self.cookies: dict[str, tuple[str, str]] = {}  # name → value, path
        self.set: list[str] = []
        self.exchange: Any = None

    async def go(self, path: str, query: bytes = b"", fields: Any = PAGE, **more: Any) -> Any:
        sent = "; ".join(f"{name}={value}" for name, (value, to) in self.cookies.items() if path.startswith(to))
        cookie = [(b"cookie", sent.encode())] if sent else []
        more = {"authority": b"app.test", "scheme": "https", **more}
        self.exchange = self._exchange_of(path=path, query=query, headers=[*fields, *cookie], **more)
        answer = await self.plugin.access(self.exchange)
        for name, value in answer.headers if answer else ():
            if name == b"set-cookie":
                self._keep(value.decode())
        return answer

    def _keep(self, text: str) -> None:
        self.set.append(text)
        name, _, value = text.partition(";")[0].partition("=")
        attributes = dict(part.strip().partition("=")[::2] for part in text.split(";")[1:])
        if attributes["Max-Age"] == "0":
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value, attributes["Path"]


@pytest.fixture
def browser(service: Service, make: Any, exchange_of: Any) -> Browser:
    return Browser(make("openid-connect", service.config()), exchange_of)


def location(answer: Any) -> bytes:
    found = headers.get(answer.headers, b"location")
    assert answer.status == 302
    assert found is not None
    return found


async def logged_in(browser: Browser, service: Service) -> Browser:
    query = service.log_in(location(await browser.go("/")))
    await browser.go("/oidc/callback", query.encode())
    return browser


async def refusal(waiting: Any) -> Reject:
    with pytest.raises(Reject) as caught:
        await waiting
    return caught.value


async def test_a_person_logs_in_and_comes_back_to_the_page(browser: Browser, service: Service) -> None:
    first = location(await browser.go("/orders", b"page=2"))
    asked = parse_qs(urlsplit(first.decode()).query)
    assert first.decode().startswith(f"{service.issuer}/authorization?")
    assert (asked["redirect_uri"], asked["scope"]) == (["https://app.test/oidc/callback"], ["openid profile email"])
    back = await browser.go("/oidc/callback", service.log_in(first).encode())
    assert location(back) == b"https://app.test/orders?page=2"
    assert headers.get(back.headers, b"cache-control") == b"no-store"
    assert service.authorization == ["Basic " + base64.b64encode(b"gw:" + b"a%3Ab+" * 10).decode()]
    assert [*browser.cookies] == ["hg_session"]
    assert all("; HttpOnly; SameSite=Lax; Secure" in text for text in browser.set)
    assert await browser.go("/orders", b"page=2") is None
    assert browser.exchange.consumer == Consumer(0, "anna")
    assert browser.exchange.claims["email"] == "anna@example.com"
    assert headers.get(browser.exchange.headers, b"x-credential-identifier") == b"anna"


async def test_the_upstream_sees_no_cookie_of_ours(browser: Browser, service: Service) -> None:
    await logged_in(browser, service)
    browser.cookies |= {"theme": ("dark", "/"), "hg_sessions": ("theirs", "/"), "hg_session_x": ("old", "/")}
    await browser.go("/")
    assert headers.get_all(browser.exchange.headers, b"cookie") == [b"theme=dark; hg_sessions=theirs"]
    browser.cookies = {"hg_session": browser.cookies["hg_session"]}
    await browser.go("/")
    assert headers.get_all(browser.exchange.headers, b"cookie") == []


async def test_claims_become_consumer_groups_and_fields(service, make, exchange_of, credentials) -> None:
    credentials.consumers["username", "anna"] = Consumer(7, "anna", groups=frozenset({"own"}))
    config = service.config(
        consumer_by="username", groups_claim="groups", claims_to_headers=[{"claim": "email", "header": "X-Email"}]
    )
    browser = await logged_in(Browser(make("openid-connect", config), exchange_of), service)
    await browser.go("/", fields=[*PAGE, (b"x_email", b"forged"), (b"x-consumer-id", b"1")])
    assert browser.exchange.consumer == Consumer(7, "anna", groups=frozenset({"own", "staff"}))
    sent = dict(browser.exchange.headers)
    assert (sent[b"x-email"], sent[b"x-consumer-id"]) == (b"anna@example.com", b"7")
    assert b"x_email" not in sent
    credentials.consumers.clear()
    assert await browser.go("/") is None
    strict = Browser(make("openid-connect", {**config, "consumer_required": True}), exchange_of)
    strict.cookies = browser.cookies
    assert (await refusal(strict.go("/"))).code == "token_invalid"


@pytest.mark.parametrize(("method", "fields"), [
    ("POST", PAGE),
    ("GET", [(b"accept", b"application/json")]),
    ("GET", []),
    ("GET", [(b"accept", b"text/html"), (b"sec-fetch-mode", b"cors")]),
])  # fmt: skip
async def test_a_program_is_not_sent_to_a_form(browser: Browser, service: Service, method, fields) -> None:
    error = await refusal(browser.go("/", fields=fields, method=method))
    assert (error.status, error.code) == (401, "token_missing")
    assert dict(error.headers)[b"www-authenticate"] == b'Bearer realm="hydragate"'
    assert service.asked == []


async def test_a_websocket_is_not_sent_to_a_form_but_let_in_by_the_session(browser: Browser, service: Service) -> None:
    assert (await refusal(browser.go("/", notes={"websocket": True}))).status == 401
    await logged_in(browser, service)
    assert await browser.go("/", notes={"websocket": True}) is None


async def test_programs_come_with_a_token_of_the_issuer(browser: Browser, service: Service) -> None:
    good = service.id_token(nonce=None)
    assert await browser.go("/", fields=[(b"authorization", b"Bearer " + good.encode())]) is None
    assert browser.exchange.consumer == Consumer(0, "anna")
    for bad, code in (
        (service.id_token(aud="others"), "token_invalid"),
        (service.id_token(iss="http://evil"), "token_invalid"),
        (service.id_token(exp=NOW_S - 60), "token_expired"),
        (service.id_token(exp=None), "token_invalid"),
        (good[:-8] + "AAAAAAAA", "token_invalid"),
        (signed_by("RS256", {"iss": service.issuer, "aud": "gw", "exp": NOW_S + 9}).decode(), "token_invalid"),
        ("x", "token_invalid"),
    ):
        error = await refusal(browser.go("/", fields=[(b"authorization", b"bearer " + bad.encode())]))
        assert (error.status, error.code) == (401, code)


async def test_a_session_is_no_help_beside_a_token_that_is_wrong(browser: Browser, service: Service) -> None:
    await logged_in(browser, service)
    assert (await refusal(browser.go("/", fields=[(b"authorization", b"Bearer x")]))).code == "token_invalid"


async def test_each_method_can_be_left_out(service, make, exchange_of) -> None:
    only = Browser(make("openid-connect", service.config(auth_methods=["bearer"])), exchange_of)
    assert (await refusal(only.go("/"))).status == 401
    people = Browser(make("openid-connect", service.config(auth_methods=["session"])), exchange_of)
    token = (b"authorization", b"Bearer " + service.id_token().encode())
    assert (await refusal(people.go("/", fields=[token]))).code == "token_missing"


@pytest.mark.parametrize("claims", [
    {"nonce": "other"}, {"nonce": None}, {"aud": "others"}, {"aud": ["gw", "x"], "azp": "x"}, {"iss": "http://evil"},
    {"exp": NOW_S - 60}, {"exp": None}, {"iat": None}, {"sub": None}, {"sub": 7},
])  # fmt: skip
async def test_an_id_token_that_does_not_fit_is_no_login(browser: Browser, service: Service, claims) -> None:
    query = service.log_in(location(await browser.go("/")))
    nonce = next(iter(service.codes.values()))["nonce"]
    service.says = 200, {"id_token": service.id_token(**{"nonce": nonce, **claims})}
    error = await refusal(browser.go("/oidc/callback", query.encode()))
    assert (error.status, error.code) == (401, "login_failed")
    assert "hg_session" not in browser.cookies


async def test_a_login_is_of_one_browser_and_once(browser: Browser, service: Service, make, exchange_of) -> None:
    query = service.log_in(location(await browser.go("/"))).encode()
    other = Browser(browser.plugin, exchange_of)
    assert (await refusal(other.go("/oidc/callback", query))).status == 400
    await other.go("/")  # a login of its own, but not this one
    assert (await refusal(other.go("/oidc/callback", query))).status == 400
    assert location(await browser.go("/oidc/callback", query)) == b"https://app.test/"
    assert (await refusal(browser.go("/oidc/callback", query))).status == 400
    for broken in (b"", b"state=", b"state=%00%ff", b"code=a", query.replace(b"state=", b"state=x")):
        assert (await refusal(browser.go("/oidc/callback", broken))).status == 400


async def test_two_tabs_log_in_side_by_side(browser: Browser, service: Service) -> None:
    first, second = location(await browser.go("/one")), location(await browser.go("/two"))
    for asked, place in ((second, b"https://app.test/two"), (first, b"https://app.test/one")):
        assert location(await browser.go("/oidc/callback", service.log_in(asked).encode())) == place


async def test_a_login_takes_ten_minutes_at_most_and_a_session_its_time(browser, service, clock) -> None:
    query = service.log_in(location(await browser.go("/"))).encode()
    clock.now_s += 601
    assert (await refusal(browser.go("/oidc/callback", query))).status == 400
    clock.now_s -= 601
    await logged_in(browser, service)
    clock.now_s += 28_799
    assert await browser.go("/") is None
    clock.now_s += 2
    assert location(await browser.go("/")).decode().startswith(service.issuer)


@pytest.mark.parametrize("cookie", ["", "x", "A" * 60, "\x00", "é", "-" * 5000])
async def test_a_cookie_that_is_not_ours_is_no_session(browser: Browser, service: Service, cookie) -> None:
    browser.cookies["hg_session"] = cookie, "/"
    assert (await browser.go("/")).status == 302


async def test_a_cookie_of_another_setting_is_no_session(browser: Browser, service, make, exchange_of) -> None:
    await logged_in(browser, service)
    for more in ({"client_id": "other"}, {"client_secret": "c" * 40}, {"session_secret": "d" * 40}):
        other = Browser(make("openid-connect", service.config(**more)), exchange_of)
        other.cookies = dict(browser.cookies)
        assert (await other.go("/")).status == 302


async def test_nobody_is_sent_to_another_host(browser: Browser, service: Service) -> None:
    """`//evil.example/` as the page would be an address of another host, if it stood alone."""
    query = service.log_in(location(await browser.go("//evil.example/")))
    assert location(await browser.go("/oidc/callback", query.encode())) == b"https://app.test//evil.example/"


async def test_a_long_address_is_left_out_rather_than_a_cookie_too_large(browser: Browser, service: Service) -> None:
    query = service.log_in(location(await browser.go("/" + "a" * 1600)))
    assert location(await browser.go("/oidc/callback", query.encode())) == b"https://app.test/"


async def test_more_claims_than_a_cookie_holds(service, make, exchange_of) -> None:
    service.claims |= {"groups": [f"group-{n}" for n in range(100)], "extra": "x" * 3000}
    config = service.config(groups_claim="groups", session_secret="s" * 32)
    browser = await logged_in(Browser(make("openid-connect", config), exchange_of), service)
    assert await browser.go("/") is None
    assert len(browser.exchange.consumer.groups) == 100
    assert "extra" not in browser.exchange.claims
    service.claims["groups"] = ["x" * 100 + str(n) for n in range(50)]
    browser.cookies.clear()
    error = await refusal(logged_in(browser, service))
    assert (error.status, error.code) == (401, "login_failed")


async def test_who_refuses_says_why_to_the_operator_only(browser: Browser, service: Service) -> None:
    query = service.log_in(location(await browser.go("/")))
    error = await refusal(browser.go("/oidc/callback", (query + "&error=access_denied").encode()))
    assert (error.status, "access_denied" in browser.exchange.detail, "denied" in error.detail) == (401, True, False)
    service.says = 400, {"error": "invalid_grant"}
    assert (await refusal(browser.go("/oidc/callback", query.encode()))).code == "login_failed"
    assert "invalid_grant" in browser.exchange.detail
    error = await refusal(browser.go("/oidc/callback", (query + "&iss=http%3A%2F%2Fevil").encode()))
    assert error.status == 400


@pytest.mark.parametrize("says", [(500, {}), (200, []), (200, {"id_token": 7}), (200, "x")])
async def test_trouble_of_the_service_is_not_the_clients(browser: Browser, service: Service, says) -> None:
    query = service.log_in(location(await browser.go("/")))
    service.says = says
    with pytest.raises(AuthorizationUnavailable):
        await browser.go("/oidc/callback", query.encode())


@pytest.mark.parametrize("metadata", [
    {"issuer": "http://evil"}, {"issuer": None}, {"token_endpoint": ""}, {"jwks_uri": "ftp://x"},
    {"authorization_endpoint": 7},
])  # fmt: skip
async def test_a_service_that_says_nonsense_of_itself_is_none(browser, service, clock, metadata) -> None:
    service.metadata = metadata
    for _ in range(3):
        with pytest.raises(AuthorizationUnavailable):
            await browser.go("/")
    assert len(service.asked) == 1  # not asked for each request
    service.metadata = {}
    clock.now_s += 6
    assert (await browser.go("/")).status == 302


async def test_what_was_known_of_the_service_goes_on_counting(browser, service, clock) -> None:
    await browser.go("/")
    service.metadata = {"issuer": "http://evil"}
    clock.now_s += 4000
    for _ in range(2):
        assert (await browser.go("/")).status == 302


async def test_whoever_logs_out_is_sent_to_the_service_and_known_no_more(browser, service, make, exchange_of) -> None:
    await logged_in(browser, service)
    assert location(await browser.go("/oidc/logout")) == f"{service.issuer}/end_session?client_id=gw".encode()
    assert browser.cookies == {}
    service.metadata = {"end_session_endpoint": ""}
    for after, status in (("", 200), ("https://app.test/bye", 302)):
        plugin = make("openid-connect", service.config(issuer=service.issuer + "/", logout_redirect_uri=after))
        answer = await Browser(plugin, exchange_of).go("/oidc/logout")
        assert (answer.status, headers.get(answer.headers, b"location")) == (status, after.encode() or None)


async def test_a_public_client_needs_no_secret_but_one_for_cookies(service, make, exchange_of) -> None:
    config = service.config(client_secret="", session_secret="s" * 32)
    browser = await logged_in(Browser(make("openid-connect", config), exchange_of), service)
    assert await browser.go("/") is None
    (form,) = service.forms
    assert (form["client_id"], "client_secret" in form, service.authorization) == ("gw", False, [])


async def test_nobody_is_sent_to_log_in_where_strangers_are_guests(service, make, exchange_of, credentials) -> None:
    credentials.consumers["username", "guest"] = Consumer(20, "guest")
    guests = Browser(make("openid-connect", service.config(anonymous="guest")), exchange_of)
    guests.cookies["hg_session"] = "not ours", "/"
    assert await guests.go("/") is None
    assert (guests.exchange.consumer.username, guests.exchange.credential) == ("guest", None)
    assert headers.get(guests.exchange.headers, b"cookie") is None
    known = await logged_in(Browser(make("openid-connect", service.config()), exchange_of), service)
    guests.cookies = known.cookies
    assert await guests.go("/") is None
    assert guests.exchange.consumer == Consumer(0, "anna")
    refused = await refusal(guests.go("/", fields=[(b"authorization", b"Bearer a.b.c")]))
    assert refused.code == "token_invalid"


async def test_preflights_may_pass(service, make, exchange_of) -> None:
    plugin = make("openid-connect", service.config(run_on_preflight=False))
    fields = [(b"origin", b"https://a"), (b"access-control-request-method", b"GET")]
    assert await plugin.access(exchange_of("OPTIONS", headers=fields)) is None


def test_what_is_sealed_opens_for_its_purpose_and_time_only() -> None:
    box = Box(b"secret", "a")
    text = box.seal({"a": "ä"}, 100.0).encode()
    assert box.open(text, 99.0) == {"a": "ä"}
    assert box.open(text, 100.0) is None
    assert Box(b"secret", "b").open(text, 99.0) is None
    assert Box(b"other", "a").open(text, 99.0) is None
    for place in range(len(text)):
        changed = text[:place] + (b"A" if text[place : place + 1] != b"A" else b"B") + text[place + 1 :]
        assert box.open(changed, 99.0) is None or place == len(text) - 1  # spare bits of the last character


def test_metadata_without_end_is_no_object() -> None:
    with pytest.raises(ValueError, match="nested"):
        metadata_of(b"[" * 100_000, "http://a")


@pytest.mark.parametrize("config", [
    {"scopes": ["profile"]}, {"client_secret": ""}, {"session_secret": "short"}, {"redirect_path": "callback"},
    {"redirect_path": "/oidc/logout"}, {"issuer": "login.example"}, {"consumer_required": True}, {"auth_methods": []},
    {"cookie_name": "a;b"}, {"logout_redirect_uri": "javascript:alert(1)"}, {"cookie_same_site": "Lax"},
])  # fmt: skip
def test_a_config_that_cannot_work_is_refused(registry, config) -> None:
    good = {"issuer": "https://login.example", "client_id": "gw", "client_secret": "s"}
    assert registry.validate("openid-connect", good)
    with pytest.raises(ConfigProblems):
        registry.validate("openid-connect", {**good, **config})
