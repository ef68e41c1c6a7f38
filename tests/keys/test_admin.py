"""The dashboard's pages for consumers and keys: above all, where a secret does and does not appear."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import secrets, services
from keys.models import ApiKey, Consumer

pytestmark = pytest.mark.django_db
ADD, LIST = "admin:keys_apikey_add", "admin:keys_apikey_changelist"


@pytest.fixture
def staff(client: Client) -> Client:
    """May do everything with keys and consumers, but is no superuser."""
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="keys"))
    client.force_login(user)
    return client


def shown(response: Any) -> str:
    match = re.search(r'id="secret"[^>]* value="([^"]+)"', response.content.decode())
    assert match is not None
    return match[1]


def add(client: Client, consumer: Consumer, **fields: str) -> Any:
    return client.post(reverse(ADD), {"consumer": consumer.pk, "name": "job", "scopes": "read,write", **fields})


def page(name: str, key: ApiKey) -> str:
    return reverse(f"admin:keys_apikey_{name}", args=[key.pk])


def test_a_new_secret_is_shown_in_one_answer_and_kept_nowhere(admin_client: Client, anna: Consumer) -> None:
    response = add(admin_client, anna)
    secret, key = shown(response), ApiKey.objects.get()
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    assert secrets.digest(secret) == key.digest
    assert (key.name, key.scopes, key.created_by) == ("job", ["read", "write"], "admin")
    hidden = secret[len(key.prefix) :]
    kept = [str(list(table.objects.values())) for table in (LogEntry, ApiKey, Consumer)]
    kept += [str(session.get_decoded()) for session in Session.objects.all()]
    kept += [str(response.headers), str(admin_client.cookies)]
    kept += [admin_client.get(url).content.decode() for url in (reverse(LIST), page("change", key))]
    assert not [text for text in kept if hidden in text]


def test_mistakes_are_shown_in_the_form(admin_client: Client, anna: Consumer) -> None:
    response = add(admin_client, anna, scopes="a b")
    assert "letters, digits" in response.content.decode()
    past = timezone.now() - timedelta(days=1)
    response = add(admin_client, anna, expires_at_0=f"{past:%Y-%m-%d}", expires_at_1=f"{past:%H:%M:%S}")
    assert "This moment has passed" in response.content.decode()
    assert not ApiKey.objects.exists()


def test_the_digest_is_on_no_page(admin_client: Client, anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    for url in (page("change", key), reverse(LIST), reverse("admin:keys_consumer_change", args=[anna.pk])):
        content = admin_client.get(url).content.decode()
        assert key.prefix in content
        assert key.digest.hex() not in content
        assert "digest" not in content


def test_what_proves_a_key_cannot_be_edited(admin_client: Client, anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    other = services.consumer_create("other")
    form = {
        "name": "new",
        "scopes": "",
        "prefix": "x",
        "digest": "x",
        "revoked_at_0": "2030-01-01",
        "consumer": other.pk,
    }
    assert admin_client.post(page("change", key), form).status_code == 302
    stored = ApiKey.objects.get()
    assert stored.name == "new"
    assert (stored.prefix, bytes(stored.digest), stored.consumer) == (key.prefix, key.digest, anna)
    assert stored.revoked_at is None


def test_rotating_shows_the_successor_and_ends_the_old_key(staff: Client, anna: Consumer) -> None:
    old, _ = services.key_create(anna)
    assert staff.get(page("rotate", old)).status_code == 200
    assert not ApiKey.objects.filter(rotated_from=old).exists()
    response = staff.post(page("rotate", old), {"overlap_s": "3600"})
    new = ApiKey.objects.get(rotated_from=old)
    assert secrets.digest(shown(response)) == new.digest
    old.refresh_from_db()
    assert old.expires_at - timezone.now() < timedelta(hours=1)
    again = staff.post(page("rotate", old), {"overlap_s": "3600"}, follow=True)
    assert "rotated already" in again.content.decode()


def test_revoking_asks_first(staff: Client, anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    assert "cannot be undone" in staff.get(page("revoke", key)).content.decode()
    key.refresh_from_db()
    assert key.state == "live"
    staff.post(page("revoke", key), {"reason": "leaked"})
    key.refresh_from_db()
    assert (key.state, key.revoked_reason) == ("revoked", "staff: leaked")


def test_revoking_several_asks_first(staff: Client, anna: Consumer) -> None:
    keys = [services.key_create(anna)[0] for _ in range(3)]
    form = {"action": "revoke_selected", "_selected_action": [keys[0].pk, keys[1].pk]}
    response = staff.post(reverse(LIST), form)
    assert keys[0].prefix in response.content.decode()
    assert ApiKey.objects.filter(revoked_at=None).count() == 3
    staff.post(reverse(LIST), {**form, "confirmed": "yes", "reason": "leaked"})
    assert list(ApiKey.objects.filter(revoked_at=None)) == [keys[2]]


@pytest.mark.parametrize("step", ["rotate", "revoke"])
def test_viewers_change_nothing(client: Client, anna: Consumer, step: str) -> None:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_apikey", "view_consumer"]))
    client.force_login(user)
    key, _ = services.key_create(anna)
    assert client.get(page("change", key)).status_code == 200
    assert client.post(page(step, key), {"overlap_s": "0", "reason": ""}).status_code == 403
    key.refresh_from_db()
    assert (key.state, key.expires_at) == ("live", None)


def test_only_superusers_delete(staff: Client, anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    assert staff.post(page("delete", key), {"post": "yes"}).status_code == 403
    staff.force_login(User.objects.create_superuser("root"))
    assert staff.post(page("delete", key), {"post": "yes"}).status_code == 302
    assert not ApiKey.objects.exists()


def test_disabling_consumers(staff: Client, anna: Consumer) -> None:
    url = reverse("admin:keys_consumer_changelist")
    staff.post(url, {"action": "disable", "_selected_action": [anna.pk]})
    assert not Consumer.objects.get().enabled
    staff.post(url, {"action": "enable", "_selected_action": [anna.pk]})
    assert Consumer.objects.get().enabled


@pytest.mark.parametrize("state", ["live", "expired", "revoked"])
def test_the_list_filters_by_state(admin_client: Client, anna: Consumer, state: str) -> None:
    keys = {word: services.key_create(anna)[0] for word in ("live", "expired", "revoked")}
    ApiKey.objects.filter(pk=keys["expired"].pk).update(expires_at=timezone.now())
    services.key_revoke(keys["revoked"], by="test")
    content = admin_client.get(reverse(LIST), {"state": state}).content.decode()
    assert {word for word, key in keys.items() if key.prefix in content} == {state}


def test_the_list_of_keys_takes_the_same_queries_however_long(
    admin_client: Client, anna: Consumer, django_assert_max_num_queries: Any
) -> None:
    for name in "abcdefghij":
        services.key_create(services.consumer_create(name))
    with django_assert_max_num_queries(8):
        admin_client.get(reverse(LIST))
    with django_assert_max_num_queries(8):
        admin_client.get(reverse("admin:keys_consumer_changelist"))
