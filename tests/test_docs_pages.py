from __future__ import annotations

import re

import pytest
from django.test import Client

from gateway import docs
from gateway.proxy.errors import OUTCOMES


@pytest.mark.parametrize("name", [name for name, _ in docs.pages()])
def test_every_page_is_served_without_a_login_and_its_links_lead_somewhere(name: str) -> None:
    client = Client()
    answer = client.get(f"/docs/{name}")
    assert answer.status_code == 200
    assert "script-src 'self'; style-src 'self'" in answer["Content-Security-Policy"]
    page = answer.content.decode()
    for target, anchor in re.findall(r'href="(/docs/[^"#]*)(#[^"]*)?"', page):
        linked = client.get(target)
        assert linked.status_code == 200, target
        if anchor:
            assert f'id="{anchor[1:]}"' in linked.content.decode(), target + anchor


def test_the_type_of_an_error_leads_to_its_line() -> None:
    page = Client().get("/docs/errors").content.decode()
    documented = set(re.findall(r'id="([a-z_]+)"', page))
    assert OUTCOMES - {"ok", "answered", "rejected", "client_closed"} <= documented


@pytest.mark.parametrize("name", ["none", "../README", "..%2fREADME", "plugins/none"])
def test_there_is_nothing_else(name: str) -> None:
    assert Client().get(f"/docs/{name}").status_code == 404


def test_pictures_of_the_pages_are_there_and_small() -> None:
    for picture in (docs.DOCS / "screenshots").glob("*.png"):
        assert picture.stat().st_size < 150_000
        answer = Client().get(f"/docs/screenshots/{picture.name}")
        assert answer.status_code == 200
        assert answer["Content-Type"] == "image/png"
        assert answer.content == picture.read_bytes()
    assert Client().get("/docs/screenshots/none.png").status_code == 404
