"""The whole story, as an operator lives it: from an empty gateway to a limit that was changed and taken back."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.watching import Tab
from tests.e2e.gateway import Gateway, wait_until

GATEWAY_WORKERS = 2
LIMIT, HIGHER = 3, 50
SHOWN_WITHIN_S = 2.0
SECRET = re.compile(r"hg_live_\w{30,}")


def test_first_steps(tab: Tab, gateway: Gateway, password: str, plain_upstream: int) -> None:
    """One form, one command, and the page says that the request came."""
    with tab.step("log in and fill the form") as page:
        tab.log_in("admin", password)
        page.get_by_role("link", name="Start with the first route").click()
        page.get_by_label("Your service").fill(f"http://127.0.0.1:{plain_upstream}")
        page.get_by_role("button", name="Make upstream, route and key").click()
        secret = secret_on(page)
        expect(page.get_by_text("Waiting for your first request")).to_be_visible()
    with tab.step("the first request") as page:
        wait_until(lambda: ask(gateway, "/hello/you", secret) == 200, what="the route is live")
        expect(page.locator("#first")).to_contain_text("/hello/you")
        expect(page.locator("#first-state")).to_have_text("done")
    with tab.step("the secret is gone") as page:
        page.reload()
        assert secret not in page.content()


def test_the_whole_story(tab: Tab, gateway: Gateway, password: str, plain_upstream: int) -> None:
    with tab.step("log in"):
        tab.log_in("admin", password)
    with tab.step("make an upstream and a route in Django admin") as page:
        upstream_make(tab, "orders", plain_upstream)
        route_make(tab, "orders", "/orders/*")
    with tab.step("make a key"):
        secret = key_make(tab, "shop")
    with tab.step("the secret is seen once"):
        secret_is_gone(tab, secret)
    with tab.step("requests are seen live"):
        live_within_two_seconds(tab, gateway, secret)
    with tab.step("a refusal is explained"):
        refusal_explained(tab, gateway, secret)
    with tab.step("change the limit in Django admin"):
        limit_change(tab, HIGHER)
        wait_until(lambda: ask(gateway, "/orders/2", secret) == 200, what="the new limit")
    with tab.step("the new version is live on all workers"):
        version = live_everywhere(tab)
    with tab.step("what changed") as page:
        row_of(page, version).get_by_role("link", name="Changes").click()
        expect(page.locator("#diff")).to_contain_text(f"From version {version - 1} to version {version}")
        expect(page.locator("#diff")).to_contain_text("minute")
        expect(page.locator("#diff")).to_contain_text(str(HIGHER))
    with tab.step("roll back") as page:
        row_of(page, version - 1).get_by_role("link", name="Roll back").click()
        page.get_by_label("Comment").fill("too generous")
        page.get_by_role("button", name=f"Roll back to version {version - 1}").click()
        expect(page.locator("#toasts")).to_contain_text(str(version + 1))
        assert live_everywhere(tab) == version + 1
        wait_until(lambda: ask(gateway, "/orders/3", secret) == 429, what="the old limit")


# --- the steps --------------------------------------------------------------------------------------------------------


def ask(gateway: Gateway, path: str, secret: str = "") -> int:
    return httpx.get(gateway.url + path, headers={"apikey": secret} if secret else {}).status_code


def upstream_make(tab: Tab, name: str, port: int) -> None:
    page = tab.open("/admin/routes/upstream/add/")
    page.locator("#id_name").fill(name)
    page.get_by_text("Add another Target").click()
    page.locator("[name=targets-0-host]").fill("127.0.0.1")
    page.locator("[name=targets-0-port]").fill(str(port))
    save(page)


def route_make(tab: Tab, upstream: str, path: str) -> None:
    """With key-auth and rate-limiting, whose fields appear when the plugin is chosen."""
    page = tab.open("/admin/routes/route/add/")
    page.locator("#id_name").fill(upstream)
    page.locator("#id_paths").fill(path)
    page.get_by_text("Add another Upstream of the route").click()
    page.locator("#branches-group .select2-selection:visible").click()
    page.locator(".select2-search__field").fill(upstream)
    page.locator(".select2-results__option--highlighted", has_text=upstream).click()
    page.get_by_text("Add another Plugin").click()
    page.locator("[name=plugin_settings-0-name]").select_option("key-auth")
    page.get_by_text("Add another Plugin").click()
    page.locator("[name=plugin_settings-1-name]").select_option("rate-limiting")
    page.locator("[name='plugin_settings-1-config.minute']").fill(str(LIMIT))
    expect(page.locator("[name='plugin_settings-0-config~plugin']")).to_have_value("key-auth")
    save(page)


def save(page: Page) -> None:
    page.locator("button[name=_save]").click()
    expect(page.get_by_text("successfully")).to_be_visible()


def key_make(tab: Tab, consumer: str) -> str:
    page = tab.open("/dashboard/keys/")
    page.get_by_role("link", name="New key").first.click()
    page.get_by_label("Consumer", exact=True).fill(consumer)
    page.get_by_label("Make this consumer").check()
    page.get_by_role("button", name="Make the key").click()
    secret = secret_on(page)
    for language in ("curl", "Python", "JavaScript"):
        expect(page.get_by_text(language, exact=True).first).to_be_visible()
    return secret


def secret_on(page: Page) -> str:
    secret = page.locator("#secret").inner_text()
    assert SECRET.fullmatch(secret), "the page shows no key"
    return secret


def secret_is_gone(tab: Tab, secret: str) -> None:
    """Not by reloading, not by going on and back, not in anything the browser keeps."""
    page = tab.page
    page.reload()
    assert secret not in page.content()
    page.goto(f"{tab.home}/dashboard/keys/")
    assert secret not in page.content()
    page.go_back()
    assert secret not in page.content()
    assert secret not in str(page.context.storage_state())


def live_within_two_seconds(tab: Tab, gateway: Gateway, secret: str) -> None:
    """The feed tells of traffic; the sums follow; nothing moves while the page fills."""
    page = tab.open("/dashboard/")
    page.locator("#live[data-state=on]").wait_for()
    expect(page.locator("[data-live=workers]")).to_have_text(str(GATEWAY_WORKERS))  # they heard that somebody looks
    statuses: list[int] = []

    def live() -> bool:
        statuses.append(ask(gateway, "/orders/1", secret))
        assert statuses.count(429) < 3, statuses  # the limit's minute is longer than anybody waits here
        return statuses[-1] == 200

    wait_until(live, what="the route is live")
    requests = page.locator("[data-live=rps]")
    wait_until(lambda: requests.inner_text().startswith(tuple("123456789")), SHOWN_WITHIN_S, "the request is shown")
    page.locator("#tops").get_by_text("orders").first.wait_for(timeout=15_000)
    assert tab.layout_shift < 0.1


def refusal_explained(tab: Tab, gateway: Gateway, secret: str) -> None:
    answers = [ask(gateway, "/orders/1", secret) for _ in range(LIMIT)]
    assert answers == [200] * (LIMIT - 1) + [429]
    refused = "/dashboard/requests/?outcome=rate_limited"
    page = tab.page

    def listed() -> bool:
        tab.open(refused)
        return page.locator("#rows tr", has_text="/orders/1").count() > 0

    wait_until(listed, SHOWN_WITHIN_S, "the refusal is in Requests")
    page.locator("#rows tr", has_text="/orders/1").first.click()
    drawer = page.locator("#drawer")
    explained = rf"Consumer shop may send {LIMIT} per 60 s; this would have been number {LIMIT + 1}; room again at"
    expect(drawer.locator(".said")).to_contain_text(re.compile(explained))
    expect(drawer.locator("#replay")).to_contain_text("curl")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    page.wait_for_url(lambda url: url.endswith(refused))


def limit_change(tab: Tab, per_minute: int) -> None:
    page = tab.open("/dashboard/routes/")
    page.get_by_role("link", name="orders", exact=True).first.click()
    page.get_by_role("link", name="Edit", exact=True).click()
    page.locator("[name$='-config.minute']:visible").fill(str(per_minute))
    save(page)


def live_everywhere(tab: Tab) -> int:
    """The number of the live version, once every worker serves it."""

    def number() -> int:
        page = tab.open("/dashboard/config/")
        rows = page.locator("section", has=page.locator("#workers-title")).locator("tbody tr")
        up_to_date = rows.locator(".badge.ok", has_text="up to date").count()
        live = re.search(r"version (\d+) is live", page.inner_text("main"))
        return int(live[1]) if live and up_to_date == rows.count() == GATEWAY_WORKERS else 0

    return wait_until(number, what="every worker serves the live version")


def row_of(page: Page, version: int) -> Locator:
    table = page.locator("section", has=page.locator("#versions-title"))
    return table.locator("tbody tr", has=page.get_by_text(str(version), exact=True))


@pytest.mark.parametrize("path", ["/dashboard/", "/dashboard/config/"])
def test_strangers_are_asked_to_log_in(tab: Tab, path: str) -> None:
    with tab.step("a stranger") as page:
        tab.open(path)
        assert "/admin/login/" in page.url
