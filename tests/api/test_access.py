"""Who may do what, for every path there is: made from the URL map, so that no new one can be forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern

from gateway.urls import v1
from routes import selectors
from tests.api.caller import Caller

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
PAGES = {"docs", "redoc"}


def endpoints() -> Iterator[tuple[str, str]]:
    """Method and path of everything, with `1` for every part that varies."""
    for pattern in v1:
        assert isinstance(pattern, URLPattern)
        view = getattr(pattern.callback, "cls", None)
        route = str(pattern.pattern)
        path = "/" + "/".join("1" if part.startswith("<") else part for part in route.split("/"))
        for method in ("GET", *UNSAFE):
            if view is None or hasattr(view, method.lower()):
                yield method, path


ALL = sorted(set(endpoints()))
VIEWS = {str(pattern.pattern): pattern.callback.cls for pattern in v1 if hasattr(pattern.callback, "cls")}


@pytest.mark.parametrize(("method", "path"), ALL)
def test_nothing_without_a_token(db, method, path):
    answer = Caller()(method, path, {})
    if path.strip("/") in PAGES:
        assert answer.status_code in (302, 405)
    else:
        assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p in ALL if m != "GET" and p.strip("/") not in PAGES])
def test_a_read_token_cannot_write(admin, call_as, method, path):
    before = selectors.working_document()
    answer = call_as(admin, "read")(method, path, {})
    if path == "/explain":  # asks, changes nothing
        assert answer.status_code == 200
    else:
        assert answer.status_code == 403
        assert "scope" in answer.json()["detail"]
    assert selectors.working_document() == before


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p in ALL if p.strip("/") not in PAGES])
def test_a_user_without_permissions_sees_and_changes_nothing(clerk, call_as, method, path):
    answer = call_as(clerk(), "admin")(method, path, {})
    free = {"/schema": 200, "/": 404, "/bulk": 422}  # nothing in them; a bulk change asks for each operation
    assert answer.status_code == free.get(path, 403), answer.content


@pytest.mark.parametrize("path", ["/versions/publish", "/versions/1/rollback", "/config"])
def test_publishing_takes_the_scope_admin(admin, call_as, path):
    answer = call_as(admin, "write")("POST", path, {})
    assert answer.json()["detail"] == "This token lacks the scope `admin`."


def test_a_session_needs_the_csrf_token(admin):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    assert client.get("/admin/v1/upstreams").status_code == 200
    body = {"name": "users"}
    refused = client.post("/admin/v1/upstreams", body, "application/json")
    assert (refused.status_code, refused["Content-Type"]) == (403, "application/problem+json")
    client.get("/admin/v1/docs")
    field = {"X-CSRFToken": client.cookies["csrftoken"].value}
    assert client.post("/admin/v1/upstreams", body, "application/json", headers=field).status_code == 201


def test_a_viewer_sees_and_cannot_change(clerk, call_as, call):
    call("POST", "/upstreams", {"name": "users"})
    viewer = call_as(clerk("routes.view_upstream"), "admin")
    assert viewer("GET", "/upstreams/users").status_code == 200
    answer = viewer("PATCH", "/upstreams/users", {"retries": 1})
    assert (answer.status_code, answer.json()["detail"]) == (403, "You lack the permission routes.change_upstream.")
    assert viewer("GET", "/routes").status_code == 403
