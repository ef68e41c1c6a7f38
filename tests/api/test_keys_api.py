"""Consumers, keys and tokens over the admin API: above all, where a secret does and does not appear."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from gateway.api.models import KeptAnswer
from gateway.plugins.base import Refusal
from gateway.proxy.exchange import Credential
from keys import lookup, secrets, services
from keys.models import AdminToken, ApiKey, BasicCredential, Consumer
from routes.models import PluginSetting
from tests.api.caller import Caller

pytestmark = pytest.mark.django_db


@pytest.fixture
def anna(db: None) -> Consumer:
    return services.consumer_create("anna", custom_id="A-1", groups=["staff", "beta"], tags=["eu"])


def faults(response: Any) -> dict[str, str]:
    assert response["Content-Type"] == "application/problem+json"
    return {fault["pointer"]: fault["detail"] for fault in response.json()["errors"]}


# --- consumers --------------------------------------------------------------------------------------------------------


def test_a_consumer_is_made_read_changed_and_deleted(call: Caller) -> None:
    made = call("POST", "/consumers", {"username": "bob", "groups": ["gold"]})
    assert made.status_code == 201
    assert made.json() | {"id": 0, "created_at": "", "updated_at": ""} == {
        "id": 0, "username": "bob", "custom_id": "", "groups": ["gold"], "tags": [], "enabled": True, "note": "",
        "created_at": "", "updated_at": "",
    }  # fmt: skip
    assert made.json()["created_at"].endswith("Z")
    place = made["Location"].removeprefix("http://testserver")
    assert call("GET", place).json() == made.json()
    changed = call("PATCH", "/consumers/BOB", {"enabled": False}, headers={"If-Match": made["ETag"]})
    assert changed.json()["enabled"] is False
    assert changed.json()["groups"] == ["gold"]
    assert call("PATCH", place, {"note": "x"}, headers={"If-Match": made["ETag"]}).status_code == 412
    assert call("DELETE", place, headers={"If-Match": changed["ETag"]}).status_code == 204
    assert call("GET", place).status_code == 404
    flags = list(LogEntry.objects.order_by("id").values_list("action_flag", flat=True))
    assert flags == [1, 2, 3]
    (change,) = json.loads(LogEntry.objects.get(action_flag=2).change_message)
    assert change["changed"]["before"] == {"enabled": True}
    assert change["changed"]["after"] == {"enabled": False}


def test_what_was_read_can_be_sent_back(call: Caller, anna: Consumer) -> None:
    read = call("GET", "/consumers/anna")
    again = call("PATCH", "/consumers/anna", read.json(), headers={"If-Match": read["ETag"]})
    assert again.status_code == 200
    assert again.json() | {"updated_at": ""} == read.json() | {"updated_at": ""}


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, "/username"),
        ({"username": ""}, "/username"),
        ({"username": " bob"}, "/username"),
        ({"username": "b\nb"}, "/username"),
        ({"username": "b\0b"}, "/username"),
        ({"username": "\ud800"}, "/username"),
        ({"username": 5}, "/username"),
        ({"username": "ANNA"}, "/username"),
        ({"username": "b", "custom_id": "A-1"}, "/custom_id"),
        ({"username": "b", "groups": ["ok", "a,b"]}, "/groups/1"),
        ({"username": "b", "groups": "gold"}, "/groups"),
        ({"username": "b", "enabled": 1}, "/enabled"),
        ({"username": "b", "nope": 1}, "/nope"),
        ([], ""),
    ],
)
def test_a_mistake_is_shown_where_it_is(call: Caller, anna: Consumer, body: Any, at: str) -> None:
    response = call("POST", "/consumers", body)
    assert response.status_code == 422
    assert list(faults(response)) == [at]
    assert Consumer.objects.count() == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["anna", "bob"]),
        ("ordering=-username", ["bob", "anna"]),
        ("q=A-", ["anna"]),
        ("group=beta", ["anna"]),
        ("tag=eu", ["anna"]),
        ("enabled=false", ["bob"]),
        ("username=ANNA", ["anna"]),
        ("custom_id=A-1&enabled=false", []),
    ],
)
def test_consumers_are_filtered(call: Caller, anna: Consumer, query: str, found: list[str]) -> None:
    services.consumer_disable(services.consumer_create("bob"))
    items = call("GET", f"/consumers?{query}").json()["items"]
    assert [item["username"] for item in items] == found


def test_a_list_goes_on_by_cursor_and_takes_the_same_queries_however_long(
    call: Caller, anna: Consumer, django_assert_max_num_queries: Any
) -> None:
    for n in range(30):
        services.key_create(services.consumer_create(f"c{n:02}"), name="k")
    seen: list[str] = []
    url = "/consumers?limit=20"
    while url:
        with django_assert_max_num_queries(12):
            page = call("GET", url).json()
        seen += [item["username"] for item in page["items"]]
        url = (page["next"] or "").removeprefix("http://testserver")
    assert seen == ["anna", *(f"c{n:02}" for n in range(30))]
    with django_assert_max_num_queries(12):
        assert len(call("GET", "/keys").json()["items"]) == 30


def test_deleting_is_for_superusers_and_not_for_who_has_settings(
    call: Caller, call_as: Callable[..., Caller], clerk: Callable[..., Any], anna: Consumer
) -> None:
    other = call_as(clerk("keys.view_consumer", "keys.delete_consumer"), "write")
    assert other("DELETE", "/consumers/anna").status_code == 403
    PluginSetting.objects.create(name="key-auth", consumer=anna)
    assert call("DELETE", "/consumers/anna").status_code == 409
    assert Consumer.objects.exists()


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_secret_is_in_one_answer_and_kept_nowhere(call: Caller, anna: Consumer) -> None:
    headers = {"Idempotency-Key": "once"}
    made = call("POST", "/consumers/anna/keys", {"name": "job", "scopes": ["read"]}, headers=headers)
    body, key = made.json(), ApiKey.objects.get()
    assert made.status_code == 201
    assert "no-store" in made["Cache-Control"]
    assert secrets.digest(body["secret"]) == key.digest
    assert (body["prefix"], body["consumer"], body["state"], body["created_by"]) == (
        key.prefix, "anna", "live", "admin",
    )  # fmt: skip
    assert set(body["snippets"]) == {"curl", "python", "javascript"}
    assert all(body["secret"] in text for text in body["snippets"].values())
    again = call("POST", "/consumers/anna/keys", {"name": "job", "scopes": ["read"]}, headers=headers)
    assert again.status_code == 201
    assert again["Idempotency-Replayed"] == "true"
    assert again.json() == body | {"secret": None, "snippets": None}
    assert ApiKey.objects.count() == 1
    hidden = body["secret"][len(key.prefix) :]
    kept = [str(list(table.objects.values())) for table in (LogEntry, KeptAnswer, ApiKey)]
    kept += [call("GET", path).content.decode() for path in ("/keys", f"/keys/{key.pk}", "/consumers/anna/keys")]
    assert not [text for text in kept if hidden in text]
    assert key.digest.hex() not in "".join(kept)


def test_a_key_for_a_consumer_by_id(call: Caller, anna: Consumer) -> None:
    made = call("POST", "/keys", {"consumer_id": anna.pk})
    assert made.status_code == 201
    assert isinstance(lookup.find_key(secrets.digest(made.json()["secret"])).answer, Credential)
    wrong = call("POST", "/keys", {"consumer_id": anna.pk + 1})
    assert faults(wrong) == {"/consumer_id": "There is no such consumer."}
    assert call("POST", "/consumers/nobody/keys", {}).status_code == 404


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "/expires_at"),
        ({"expires_at": 1893456000}, "/expires_at"),
        ({"scopes": ["a b"]}, "/scopes/0"),
        ({"name": "x" * 101}, "/name"),
        ({"prefix": "hg_live_mine"}, "/prefix"),
    ],
)
def test_a_mistake_in_a_key_is_shown_where_it_is(call: Caller, anna: Consumer, body: Any, at: str) -> None:
    response = call("POST", "/consumers/anna/keys", body)
    assert list(faults(response)) == [at]
    assert not ApiKey.objects.exists()


def test_a_key_is_changed_by_prefix_and_use_does_not_break_if_match(call: Caller, anna: Consumer) -> None:
    key, secret = services.key_create(anna, name="old", scopes=["a"])
    read = call("GET", f"/keys/{key.prefix}")
    ApiKey.objects.update(last_used_at=timezone.now())
    changed = call("PATCH", f"/keys/{key.prefix}", {"name": "new"}, headers={"If-Match": read["ETag"]})
    assert (changed.json()["name"], changed.json()["scopes"]) == ("new", ["a"])
    assert changed.json()["last_used_at"] is not None
    assert call("PATCH", f"/keys/{key.pk}", {"name": "x"}, headers={"If-Match": read["ETag"]}).status_code == 412
    ended = call("PATCH", f"/keys/{key.pk}", {"expires_at": "2020-01-01T00:00:00Z"})
    assert ended.json()["state"] == "expired"
    assert call("GET", f"/keys/{secret}").status_code == 404


def test_rotating_overlaps(call: Caller, anna: Consumer) -> None:
    old, _ = services.key_create(anna, name="job", scopes=["a"])
    made = call("POST", f"/keys/{old.pk}/rotate", {"overlap_s": 3600})
    assert made.status_code == 201
    new = ApiKey.objects.get(rotated_from=old)
    assert secrets.digest(made.json()["secret"]) == new.digest
    assert made.json()["rotated_from_id"] == old.pk
    assert made["Location"].endswith(f"/keys/{new.pk}")
    old.refresh_from_db()
    assert old.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - timezone.now() <= timedelta(hours=1)
    again = call("POST", f"/keys/{old.pk}/rotate", {})
    assert again.status_code == 409
    assert "rotated already" in again.json()["detail"]
    assert call("POST", f"/keys/{new.pk}/rotate", {"overlap_s": -1}).status_code == 422
    assert LogEntry.objects.count() == 2


def test_revoking_is_for_good_and_repeatable(call: Caller, anna: Consumer) -> None:
    key, secret = services.key_create(anna)
    first = call("POST", f"/keys/{key.prefix}/revoke", {"reason": "leaked"}).json()
    assert (first["state"], first["revoked_reason"]) == ("revoked", "admin: leaked")
    assert call("POST", f"/keys/{key.pk}/revoke", {}).json() == first
    assert lookup.find_key(secrets.digest(secret)).answer == Refusal("key_revoked")
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize("state", ["live", "expired", "revoked"])
def test_keys_are_filtered_by_state_and_owner(call: Caller, anna: Consumer, state: str) -> None:
    keys = {word: services.key_create(anna, name=word)[0] for word in ("live", "expired", "revoked")}
    ApiKey.objects.filter(pk=keys["expired"].pk).update(expires_at=timezone.now())
    services.key_revoke(keys["revoked"], by="test")
    services.key_create(services.consumer_create("bob"), name="other")
    for url in (f"/keys?state={state}&consumer=anna", f"/consumers/{anna.pk}/keys?state={state}"):
        assert [item["name"] for item in call("GET", url).json()["items"]] == [state]
    assert call("GET", "/keys?state=dead").status_code == 400
    assert [item["name"] for item in call("GET", "/keys?q=bob").json()["items"]] == ["other"]


@pytest.mark.parametrize(
    ("permissions", "method", "path", "body"),
    [
        (["view_apikey"], "POST", "/consumers/anna/keys", {}),
        (["add_apikey"], "GET", "/keys", None),
        (["view_apikey", "change_apikey"], "POST", "/keys/{key}/rotate", {}),
        (["view_apikey", "add_apikey"], "POST", "/keys/{key}/revoke", {}),
        (["view_consumer"], "PATCH", "/consumers/anna", {"note": "x"}),
        (["view_apikey"], "GET", "/tokens", None),
    ],
)
def test_permissions_decide(
    call_as: Callable[..., Caller],
    clerk: Callable[..., Any],
    anna: Consumer,
    permissions: list[str],
    method: str,
    path: str,
    body: Any,
) -> None:
    key, _ = services.key_create(anna)
    caller = call_as(clerk(*(f"keys.{name}" for name in permissions)), "admin")
    assert caller(method, path.format(key=key.pk), body).status_code == 403


def test_a_reading_token_writes_nothing(call_as: Callable[..., Caller], admin: Any, anna: Consumer) -> None:
    reader = call_as(admin, "read")
    key, _ = services.key_create(anna)
    for method, path in (
        ("POST", "/consumers"), ("PATCH", "/consumers/anna"), ("DELETE", "/consumers/anna"), ("POST", "/keys"),
        ("POST", f"/keys/{key.pk}/rotate"), ("POST", f"/keys/{key.pk}/revoke"), ("GET", "/tokens"),
    ):  # fmt: skip
        assert reader(method, path, {}).status_code == 403
    assert reader("GET", "/keys").status_code == 200


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_makes_narrows_and_revokes_another(call: Caller) -> None:
    made = call("POST", "/tokens", {"name": "ci", "scopes": ["write"]}, headers={"Idempotency-Key": "t"})
    assert made.status_code == 201
    assert "no-store" in made["Cache-Control"]
    secret, id_ = made.json()["secret"], made.json()["id"]
    assert Caller(secret)("GET", "/consumers").status_code == 200
    again = call("POST", "/tokens", {"name": "ci", "scopes": ["write"]}, headers={"Idempotency-Key": "t"})
    assert again.json() == made.json() | {"secret": None}
    assert call("PATCH", f"/tokens/{id_}", {"scopes": ["read"]}).json()["scopes"] == ["read"]
    assert Caller(secret)("POST", "/consumers", {"username": "x"}).status_code == 403
    assert call("POST", f"/tokens/{id_}/revoke", {"reason": "lost"}).json()["revoked_reason"] == "admin: lost"
    assert Caller(secret)("GET", "/consumers").status_code == 401
    hidden = secret[len(made.json()["prefix"]) :]
    kept = [str(list(table.objects.values())) for table in (LogEntry, KeptAnswer, AdminToken)]
    assert hidden not in "".join(kept) + call("GET", "/tokens").content.decode()


def test_nobody_makes_or_sees_tokens_above_themselves(
    call: Caller, call_as: Callable[..., Caller], clerk: Callable[..., Any], admin: Any
) -> None:
    user = clerk("keys.view_admintoken", "keys.add_admintoken", "keys.change_admintoken")
    caller = call_as(user, "admin")
    theirs = AdminToken.objects.get(user=admin)
    refused = caller("POST", "/tokens", {"name": "up", "scopes": ["read"], "user": "admin"})
    assert list(faults(refused)) == ["/user"]
    assert [item["user"] for item in caller("GET", "/tokens").json()["items"]] == [user.username]
    assert caller("POST", f"/tokens/{theirs.pk}/revoke", {}).status_code == 404
    assert caller("PATCH", f"/tokens/{theirs.prefix}", {"scopes": ["read"]}).status_code == 404
    own = caller("POST", "/tokens", {"name": "mine", "scopes": ["read"]})
    assert own.json()["user"] == user.username
    given = call("POST", "/tokens", {"name": "theirs", "scopes": ["read"], "user": user.username})
    assert given.json()["user"] == user.username


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"scopes": ["read"]}, "/name"),
        ({"name": "x", "scopes": []}, "/scopes"),
        ({"name": "x", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "x", "user": "nobody"}, "/user"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
    ],
)
def test_a_mistake_in_a_token_is_shown_where_it_is(call: Caller, body: Any, at: str) -> None:
    response = call("POST", "/tokens", body)
    assert response.status_code == 422
    assert list(faults(response)) == [at]


# --- usernames with passwords -----------------------------------------------------------------------------------------


def test_basic_credentials_are_made_read_changed_and_deleted(call: Caller, anna: Consumer) -> None:
    place = "/consumers/anna/basic-credentials"
    made = call("POST", place, {"username": "anna", "password": "correct horse"})
    assert made.status_code == 201
    assert made.json().keys() == {"id", "username", "consumer_id", "created_at", "updated_at"}
    one = made["Location"].removeprefix("http://testserver")
    assert call("GET", one).json() == made.json() == call("GET", f"{place}/anna").json()
    assert [row["username"] for row in call("GET", place).json()["items"]] == ["anna"]
    before = BasicCredential.objects.get().password
    changed = call("PATCH", one, {"password": "a longer one"}, headers={"If-Match": made["ETag"]})
    assert changed.status_code == 200
    assert BasicCredential.objects.get().password != before
    assert call("PATCH", one, {"username": "anne"}).json()["username"] == "anne"
    assert call("DELETE", one).status_code == 204
    assert call("GET", one).status_code == 404
    kept = str(list(LogEntry.objects.values())) + str(list(KeptAnswer.objects.values()))
    assert "horse" not in kept
    assert "scrypt" not in kept


def test_of_another_consumer_they_cannot_be_found(call: Caller, anna: Consumer) -> None:
    services.basic_create(anna, username="anna", password="correct horse")
    services.consumer_create("bob")
    assert call("GET", "/consumers/bob/basic-credentials/anna").status_code == 404
    taken = call("POST", "/consumers/bob/basic-credentials", {"username": "anna", "password": "correct horse"})
    assert taken.status_code == 422
    assert "/username" in faults(taken)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"username": "a:b", "password": "long enough"}, "/username"),
        ({"username": "a", "password": "short"}, "/password"),
    ],
)
def test_what_is_no_username_or_password_is_refused(
    call: Caller, anna: Consumer, body: dict[str, str], place: str
) -> None:
    assert set(faults(call("POST", "/consumers/anna/basic-credentials", body))) == {place}
