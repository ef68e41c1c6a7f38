"""Tokens in Django admin: shown once, and never a way to someone else's permissions."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from keys import services, trail
from keys.models import AdminToken
from tests.keys.test_admin import shown

pytestmark = pytest.mark.django_db
ADD, LIST = "admin:keys_admintoken_add", "admin:keys_admintoken_changelist"


@pytest.fixture
def ops(client: Client) -> User:
    """May manage tokens, but is no superuser."""
    user = User.objects.create_user("ops", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__endswith="admintoken"))
    client.force_login(user)
    return user


def add(client: Client, user: User, **fields: Any) -> Any:
    return client.post(reverse(ADD), {"user": user.pk, "name": "ci", "scopes": ["read", "write"], **fields})


def page(name: str, token: AdminToken) -> str:
    return reverse(f"admin:keys_admintoken_{name}", args=[token.pk])


def test_a_new_secret_is_shown_in_one_answer(client: Client, ops: User) -> None:
    response = add(client, ops)
    secret, token = shown(response), services.token_find(shown(response))
    assert token is not None
    assert (token.name, token.scopes, token.created_by) == ("ci", ["read", "write"], "ops")
    assert "no-store" in response["Cache-Control"]
    hidden = secret[len(token.prefix) :]
    kept = [str(list(LogEntry.objects.values()))]
    kept += [client.get(url).content.decode() for url in (reverse(LIST), page("change", token))]
    assert not [text for text in kept if hidden in text]


def test_a_scope_is_needed_and_none_can_be_invented(client: Client, ops: User) -> None:
    assert "required" in add(client, ops, scopes=[]).content.decode()
    assert "not one of the available choices" in add(client, ops, scopes=["root"]).content.decode()
    assert not AdminToken.objects.exists()


def test_others_tokens_are_for_superusers(client: Client, ops: User) -> None:
    root = User.objects.create_superuser("root")
    theirs, _ = services.token_create(root, name="theirs", scopes=["admin"])
    assert "not one of the available choices" in add(client, root).content.decode()
    assert theirs.prefix not in client.get(reverse(LIST)).content.decode()
    assert client.post(page("revoke", theirs), {"reason": ""}).status_code == 404
    client.force_login(root)
    assert add(client, ops).status_code == 200
    assert theirs.prefix in client.get(reverse(LIST)).content.decode()


def test_revoking_asks_first_and_is_written_down(client: Client, ops: User) -> None:
    token, secret = services.token_create(ops, name="ci", scopes=["read"])
    assert "cannot be undone" in client.get(page("revoke", token)).content.decode()
    assert services.token_find(secret) == token
    client.post(page("revoke", token), {"reason": "lost"})
    token.refresh_from_db()
    assert (token.state, token.revoked_reason) == ("revoked", "ops: lost")
    (step,) = trail.steps(LogEntry.objects.get(object_id=token.pk))
    assert step.words == "Revoked."
    assert ("revoked_reason", "", "ops: lost") in step.fields


def test_scopes_can_be_narrowed_later(client: Client, ops: User) -> None:
    token, _ = services.token_create(ops, name="ci", scopes=["write"])
    assert client.post(page("change", token), {"name": "ci", "scopes": ["read"]}).status_code == 302
    token.refresh_from_db()
    assert token.scopes == ["read"]
