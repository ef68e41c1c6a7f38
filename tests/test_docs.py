"""Nothing exists without its page."""

from __future__ import annotations

import re

import pytest

from gateway.environment import PLUGINS, ROOT
from gateway.plugins.registry import Registry
from gateway.proxy.errors import OUTCOMES, GatewayError
from gateway.reference import PAGES
from gateway.server import refusals

DOCS = ROOT / "docs"


def subclasses(kind: type[GatewayError]) -> set[type[GatewayError]]:
    return {kind} | {below for child in kind.__subclasses__() for below in subclasses(child)}


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `python manage.py reference`"


def test_every_error_code_and_outcome_is_documented() -> None:
    assert refusals  # imported for its subclasses
    page = (DOCS / "errors.md").read_text()
    ours = {kind for kind in subclasses(GatewayError) if kind.__module__.startswith("gateway.")}
    codes = {kind.code for kind in ours} | OUTCOMES
    missing = sorted(code for code in codes if f"`{code}`" not in page)
    assert not missing


def test_every_plugin_has_its_page() -> None:
    names = Registry.load(PLUGINS).names
    assert {path.stem for path in (DOCS / "plugins").glob("*.md")} == set(names)


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken
