"""What everybody needs to work with the pages: axe finds no serious fault, keys reach all, phones show all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, StorageState, ViewportSize

from tests.browser.showcase import CONSUMERS, HOST, Showcase, backend, connected, filled
from tests.browser.watching import Tab
from tests.e2e.gateway import Gateway, wait_until

NAMES = [
    "overview", "requests", "request", "routes", "route", "upstreams", "upstream", "websockets", "traces", "keys",
    "key", "key-new", "key-rotate", "consumers", "consumer", "config", "config-diff", "rollback", "start", "docs",
]  # fmt: skip
#: Django admin: a list and a form of each kind, and what has a template of its own.
ADMIN = [
    "routes/upstream/", "routes/upstream/1/change/", "routes/route/", "routes/route/1/change/",
    "routes/pluginsetting/", "routes/pluginsetting/1/change/", "routes/pluginsetting/add/",
    "routes/configversion/2/change/", "routes/route/1/history/", "keys/consumer/", "keys/consumer/1/change/",
    "keys/apikey/", "keys/apikey/1/change/", "keys/apikey/add/", "keys/apikey/1/rotate", "auth/user/1/change/",
    "dashboard/usagerow/", "dashboard/usagerow/{row}/change/", "admin/logentry/",
]  # fmt: skip
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PHONES: tuple[ViewportSize, ...] = ({"width": 390, "height": 800}, {"width": 360, "height": 800})
SERIOUS = ("serious", "critical")
AXE: dict[str, Any] = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}


@pytest.fixture(scope="module")
def showcase(gateway: Gateway) -> Iterator[Showcase]:
    with backend() as port:
        yield filled(gateway, port)


@pytest.fixture(scope="module")
def session(browser: Browser, gateway: Gateway, password: str) -> StorageState:
    """Logged in once for all."""
    context = browser.new_context()
    Tab.opened(context, gateway.url).log_in("admin", password)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture(scope="module")
def desk(browser: Browser, gateway: Gateway, session: StorageState) -> Iterator[Tab]:
    """Axe must be let in past the policy; `test_story` is where that policy is tried."""
    context = browser.new_context(reduced_motion="reduce", storage_state=session, bypass_csp=True)
    yield Tab.opened(context, gateway.url)
    context.close()


def test_no_page_is_forgotten(showcase: Showcase) -> None:
    assert list(showcase.pages()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing_serious(desk: Tab, showcase: Showcase, name: str) -> None:
    with desk.step(name):
        desk.open(showcase.pages()[name])
        assert in_both_themes(desk) == []


@pytest.mark.parametrize("path", ADMIN)
def test_axe_finds_nothing_serious_in_django_admin(desk: Tab, gateway: Gateway, showcase: Showcase, path: str) -> None:
    """Nothing is excepted: what the theme does badly, `admin.css` and `admin.js` mend."""
    (row,) = gateway.query("SELECT id FROM usage_row ORDER BY at DESC LIMIT 1")[0]
    faults = []
    with desk.step(path):
        for scheme in THEMES:
            desk.page.emulate_media(color_scheme=scheme)
            desk.open(f"/admin/{path.format(row=row)}")  # the theme looks at the scheme only while it loads
            faults += [f"{scheme}: {fault}" for fault in serious(desk)]
    assert faults == []


def test_axe_finds_nothing_serious_on_the_login_page(browser: Browser, gateway: Gateway) -> None:
    context = browser.new_context(reduced_motion="reduce", bypass_csp=True)
    tab = Tab.opened(context, gateway.url)
    tab.open("/dashboard/")
    assert in_both_themes(tab) == []
    context.close()


def in_both_themes(tab: Tab) -> list[str]:
    faults = []
    for scheme in THEMES:
        tab.page.emulate_media(color_scheme=scheme)
        faults += [f"{scheme}: {fault}" for fault in serious(tab)]
    return faults


def serious(tab: Tab) -> list[str]:
    found = Axe().run(tab.page, options=AXE).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} {node['any'][0]['message'] if node['any'] else fault['help']}"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


@pytest.fixture(scope="module")
def phone(browser: Browser, gateway: Gateway, session: StorageState) -> Iterator[Tab]:
    context = browser.new_context(viewport=PHONES[0], has_touch=True, is_mobile=True, storage_state=session)
    yield Tab.opened(context, gateway.url)
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_needs_no_sideways_scrolling(phone: Tab, showcase: Showcase, name: str) -> None:
    with phone.step(name):
        phone.open(showcase.pages()[name])
        for size in PHONES:
            phone.page.set_viewport_size(size)
            assert phone.overflow_px <= 0, (size, phone.page.evaluate(WIDEST))


def test_open_websockets_are_for_everybody(desk: Tab, phone: Tab, gateway: Gateway, showcase: Showcase) -> None:
    """The list with rows, which the page above has none of; and a click closes one."""
    path = showcase.pages()["websockets"] + "?route=orders"
    with connected(gateway, showcase), desk.step("open WebSockets"):
        desk.open(path)
        assert desk.page.locator("tbody tr").count() == 2
        assert in_both_themes(desk) == []
        phone.open(path)
        for size in PHONES:
            phone.page.set_viewport_size(size)
            assert phone.overflow_px <= 0, (size, phone.page.evaluate(WIDEST))
        desk.page.once("dialog", lambda dialog: dialog.accept())
        desk.page.locator("tbody tr").first.get_by_role("button").click()
        desk.page.get_by_text("Closed 1 WebSocket.").wait_for()
        assert desk.page.locator("tbody tr").count() == 1


def test_a_trace_is_for_everybody(desk: Tab, phone: Tab, gateway: Gateway, showcase: Showcase) -> None:
    """Begun by a click, with a real request in it."""
    with desk.step("a trace"):
        desk.open(showcase.pages()["traces"] + "?route=orders")
        desk.page.get_by_role("button", name="Trace the next requests").click()
        desk.page.get_by_text("The trace runs: ").wait_for()
        headers = {"Host": HOST, "apikey": showcase.keys[CONSUMERS[0]]}
        assert httpx.get(f"{gateway.url}/orders/1", headers=headers).status_code < 500
        rows = desk.page.locator("tbody tr")

        def look() -> int:
            desk.page.get_by_role("link", name="Look again").first.click()
            return rows.count()

        wait_until(look, what="the request")
        said = [(row.locator("td").nth(0).inner_text(), row.locator("td").nth(1).inner_text()) for row in rows.all()]
        assert said == [
            ("request-id", "access"), ("key-auth", "access"), ("response-transformer", "response"),
            ("request-id", "response"),
        ]  # fmt: skip
        assert in_both_themes(desk) == []
        phone.open(desk.page.url.removeprefix(gateway.url))
        for size in PHONES:
            phone.page.set_viewport_size(size)
            assert phone.overflow_px <= 0, (size, phone.page.evaluate(WIDEST))


#: What sticks out of the window, and is not inside something that scrolls by itself.
WIDEST = """() => [...document.querySelectorAll("body *")].filter((element) => {
  if (element.getBoundingClientRect().right <= innerWidth + 0.5) return false;
  for (let above = element.parentElement; above; above = above.parentElement)
    if (getComputedStyle(above).overflowX !== "visible") return false;
  return true;
}).map((element) => element.outerHTML.slice(0, 160)).slice(0, 5)"""


@pytest.fixture
def keyboard(browser: Browser, gateway: Gateway, session: StorageState, showcase: Showcase) -> Iterator[Tab]:
    context = browser.new_context(storage_state=session)
    yield Tab.opened(context, gateway.url)
    context.close()


def test_the_skip_link_comes_first_and_leads_to_the_content(keyboard: Tab) -> None:
    page = keyboard.open("/dashboard/routes/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/dashboard/", {"Overview", "Config", "24h", "Theme"}),
        ("/dashboard/requests/", {"Find", "Live"}),
        ("/dashboard/routes/", {"Search", "New route", "users"}),
        ("/dashboard/keys/", {"New key"}),
        ("/dashboard/config/", {"Roll back", "Changes"}),
    ],
)
def test_tab_reaches_the_controls_and_shows_where_it_is(keyboard: Tab, path: str, wanted: set[str]) -> None:
    page = keyboard.open(path)
    missing = set(wanted)
    for _ in range(120):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(FOCUSED)
        assert outlined, f"no sign that {name!r} has the focus"
        missing = {word for word in missing if word not in name}
        if not missing:
            return
    pytest.fail(f"{path}: never reached {missing}")


FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const name = `${element.getAttribute("aria-label") ?? ""} ${element.innerText ?? ""} ${element.value ?? ""}`;
  return [name, style.outlineStyle !== "none" || style.boxShadow !== "none" || element === document.body];
}"""


def test_a_drawer_keeps_the_focus_and_gives_it_back(keyboard: Tab) -> None:
    page = keyboard.open("/dashboard/requests/")
    page.locator("#rows a").first.focus()
    page.keyboard.press("Enter")
    page.locator("#drawer[open]").wait_for()
    assert page.evaluate("document.getElementById('drawer').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.closest('#rows') !== null")
