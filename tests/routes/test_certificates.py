"""Certificates of upstreams: faults stand at their fields, whichever way they came, and nobody is shown the key."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.core.management import call_command

from gateway.proxy import certificates
from gateway.proxy.snapshot import TlsSpec
from routes import masking, portable, selectors, services
from routes.compile import CompileError, upstreams_of
from routes.compile import compile as compile_document
from routes.models import ConfigVersion, Upstream
from tests.proxy.authority import Authority
from tests.routes.test_admin import admin_user, client, errors, post, url, viewer  # noqa: F401 (fixtures)

CA = Authority()
CERTIFICATE, KEY = CA.issue("gateway.test")
OTHER_CERTIFICATE, OTHER_KEY = CA.issue("other.test")
FIELDS = {"tls_ca": CA.certificate, "tls_client_certificate": CERTIFICATE, "tls_client_key": KEY}
API = "/admin/v1/upstreams"

#: Fields to change, and what is said of which.
FAULTS = [
    ({"tls_ca": "x"}, {"tls_ca": certificates.NO_CERTIFICATE}),
    ({"tls_client_certificate": KEY}, {"tls_client_certificate": certificates.KEY_ELSEWHERE}),
    ({"tls_client_certificate": ""}, {"tls_client_certificate": certificates.CERTIFICATE_MISSING}),
    ({"tls_client_certificate": OTHER_CERTIFICATE}, {"tls_client_key": certificates.MISFIT}),
    ({"tls_client_key": OTHER_KEY}, {"tls_client_key": certificates.MISFIT}),
    ({"tls_client_key": ""}, {"tls_client_key": certificates.KEY_MISSING}),
    ({"tls_client_key": "x", "tls_ca": "x"}, {"tls_ca": certificates.NO_CERTIFICATE,
                                              "tls_client_key": certificates.NO_KEY}),
]  # fmt: skip


def document(**changes: str) -> dict[str, Any]:
    targets = [{"host": "10.0.0.1", "port": 443}]
    return {"format": 1, "upstreams": [{"name": "users", "protocol": "https", "targets": targets, **FIELDS, **changes}]}


@pytest.fixture
def users(environment: Any, db: None) -> Upstream:
    """Live as version 1."""
    services.replace(document(), author="test", source="import")
    return Upstream.objects.get()


def leaked(text: str) -> bool:
    """Line ends may be escaped: any line of the key tells."""
    return any(line in text for key in (KEY, OTHER_KEY) for line in key.splitlines()[1:-1])


# --- faults, and what becomes of sound ones ---------------------------------------------------------------------------


def test_they_reach_the_snapshot(registry: Any) -> None:
    spec = compile_document(document(tls_server_name="a.test"), registry).upstreams["users"]
    assert spec.tls == TlsSpec(True, "a.test", CA.certificate, CERTIFICATE, KEY)
    assert upstreams_of(document())["users"].tls.key == KEY  # the prober's way


@pytest.mark.parametrize(("changes", "said"), FAULTS)
def test_a_document_is_refused_at_the_field(registry: Any, changes: dict[str, str], said: dict[str, str]) -> None:
    with pytest.raises(CompileError) as caught:
        compile_document(document(**changes), registry)
    assert {problem.pointer: problem.message for problem in caught.value.problems} == {
        f"/upstreams/0/{field}": message for field, message in said.items()
    }


@pytest.mark.django_db
@pytest.mark.parametrize(("changes", "said"), FAULTS)
def test_a_row_is_refused_at_the_field(changes: dict[str, str], said: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Upstream(name="users", **{**FIELDS, **changes}).full_clean()
    assert caught.value.message_dict == {field: [message] for field, message in said.items()}


@pytest.mark.parametrize(("changes", "said"), FAULTS)
def test_a_form_is_refused_at_the_field(users: Any, client: Any, changes: Any, said: dict[str, str]) -> None:  # noqa: F811
    page = post(client, url("upstream", "change", users.pk), **changes)
    assert errors(page) == {field: [message] for field, message in said.items()}
    assert not leaked(json.dumps(errors(page)))


@pytest.mark.parametrize(("changes", "said"), FAULTS)
def test_a_call_is_refused_at_the_field(users: Any, client: Any, changes: Any, said: dict[str, str]) -> None:  # noqa: F811
    answer = client.patch(f"{API}/users", changes, "application/json")
    assert answer.status_code == 422
    assert {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]} == {
        f"/{field}": message for field, message in said.items()
    }


def test_texts_from_browsers_are_taken(users: Any, client: Any) -> None:  # noqa: F811
    post(client, url("upstream", "change", users.pk), tls_ca=f"\r\n{CERTIFICATE}\n".replace("\n", "\r\n"))
    assert Upstream.objects.get().tls_ca == CERTIFICATE


# --- the key ----------------------------------------------------------------------------------------------------------


def test_a_form_keeps_the_key_it_only_had_a_stand_in_for(users: Any, client: Any) -> None:  # noqa: F811
    place = url("upstream", "change", users.pk)
    assert masking.is_stand_in(client.get(place).context["adminform"].form["tls_client_key"].value())
    post(client, place, retries="3")
    assert (Upstream.objects.get().retries, Upstream.objects.get().tls_client_key) == (3, KEY)
    post(client, place, tls_client_certificate=OTHER_CERTIFICATE, tls_client_key=OTHER_KEY)
    assert Upstream.objects.get().tls_client_key == OTHER_KEY
    post(client, place, tls_client_certificate="", tls_client_key="")
    assert Upstream.objects.get().tls_client_key == ""


def test_what_the_api_answers_can_be_sent_back(users: Any, client: Any) -> None:  # noqa: F811
    read = client.get(f"{API}/users")
    assert masking.is_stand_in(read.json()["tls_client_key"])
    written = client.put(f"{API}/users", read.json(), "application/json", headers={"If-Match": read["ETag"]})
    assert written.status_code == 200, written.json()
    assert (Upstream.objects.get().tls_client_key, ConfigVersion.objects.count()) == (KEY, 1)
    changes = {"tls_client_certificate": OTHER_CERTIFICATE, "tls_client_key": OTHER_KEY}
    assert client.patch(f"{API}/users", changes, "application/json")["ETag"] != read["ETag"]


def test_a_stand_in_is_of_no_use_elsewhere(users: Any, client: Any) -> None:  # noqa: F811
    body = {**client.get(f"{API}/users").json(), "name": "other"}
    answer = client.post(API, body, "application/json")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"pointer": "/tls_client_key", "field": "tls_client_key", "detail": masking.UNKNOWN}
    ]
    page = client.post(url("upstream", "add"), {"name": "x", "tls_client_key": masking.stand_in(KEY)})
    assert errors(page)["tls_client_key"] == [masking.UNKNOWN]


@pytest.mark.parametrize("who", ["client", "viewer"])
def test_no_page_answer_or_diff_has_it(request: Any, users: Any, client: Any, who: str) -> None:  # noqa: F811
    author = request.getfixturevalue("admin_user")
    other = document(tls_client_certificate=OTHER_CERTIFICATE, tls_client_key=OTHER_KEY)
    services.replace(other, author=author, source="import")
    newest = ConfigVersion.objects.get(number=2)
    if who == "viewer":
        client.force_login(request.getfixturevalue("viewer"))
    for page in (
        url("upstream", "change", users.pk), url("upstream", "history", users.pk), url("upstream", "changelist"),
        url("configversion", "change", newest.pk), f"/dashboard/upstreams/{users.pk}/", "/dashboard/config/?to=2",
        "/dashboard/config/2/export/", API, f"{API}/users", "/admin/v1/config", "/admin/v1/versions/2",
        "/admin/v1/versions/2/diff", "/admin/v1/versions/draft/diff?against=1",
    ):  # fmt: skip
        answer = client.get(page, follow=True)
        text = b"".join(answer.streaming_content).decode() if answer.streaming else answer.content.decode()
        assert (page, answer.status_code, leaked(text)) == (page, 200, False)
    assert not leaked("".join(LogEntry.objects.values_list("change_message", flat=True)))
    assert "tls_client_key" in "".join(LogEntry.objects.values_list("change_message", flat=True))


def test_a_masked_file_keeps_it(users: Any) -> None:
    out = StringIO()
    call_command("config", "export", "--masked", stdout=out)
    assert not leaked(out.getvalue())
    assert "  tls_ca: |-\n    -----BEGIN CERTIFICATE-----\n" in out.getvalue()
    services.replace(portable.from_yaml(out.getvalue()), author="test", source="import")
    assert Upstream.objects.get().tls_client_key == KEY


def test_a_masked_file_for_another_gateway_needs_it(users: Any) -> None:
    masked = masking.mask_document(selectors.working_document())
    masked["upstreams"][0]["name"] = "renamed"
    with pytest.raises(CompileError) as caught:
        services.replace(masked, author="test", source="import")
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.message) == ("/upstreams/0/tls_client_key", masking.UNKNOWN)
