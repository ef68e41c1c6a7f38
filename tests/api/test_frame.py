"""What holds for every path of the admin API: who may, and what an error looks like."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.api.caller import Caller

PROBLEM = "application/problem+json"


def test_without_a_token_the_answer_is_401_with_a_challenge(db):
    answer = Caller()("GET", "/schema")
    assert (answer.status_code, answer["Content-Type"]) == (401, PROBLEM)
    assert answer["WWW-Authenticate"] == 'Bearer realm="hydragate"'
    assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize("field", ["Bearer hgt_nonsense", "Bearer", "Basic YTpi", "Bearer \xff", "Token a b c"])
def test_a_token_that_does_not_count_is_401(db, field):
    answer = Client().get("/admin/v1/schema", headers={"Authorization": field})
    assert answer.status_code == 401
    assert answer.json()["detail"] == "This token does not count: unknown, expired or revoked."


def test_a_path_that_leads_nowhere_is_a_problem(call):
    answer = call("GET", "/nothing/here")
    assert (answer.status_code, answer["Content-Type"], answer.json()["code"]) == (404, PROBLEM, "not_found")


def test_other_methods_are_405_and_say_which_there_are(call):
    answer = call("PUT", "/schema")
    assert (answer.status_code, answer["Content-Type"], answer["Allow"]) == (405, PROBLEM, "GET, HEAD")


def test_what_we_cannot_answer_in_is_406(call):
    answer = call("GET", "/schema", headers={"Accept": "image/png"})
    assert (answer.status_code, answer["Content-Type"]) == (406, PROBLEM)


def test_the_schema_is_openapi_31(call):
    answer = call("GET", "/schema")
    assert answer.json()["openapi"] == "3.1.0"
    again = call("GET", "/schema", headers={"If-None-Match": answer["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_the_readers_of_the_schema_ask_nobody_else(admin, page):
    client = Client()
    assert client.get(f"/admin/v1/{page}")["Location"].startswith("/admin/login/")
    client.force_login(admin)
    answer = client.get(f"/admin/v1/{page}")
    assert answer.status_code == 200
    assert b"//" not in answer.content.replace(b"<!DOCTYPE html>", b"")
    assert "script-src 'self';" in answer["Content-Security-Policy"]
