"""Tokens of the admin API: what is stored, who is let in, how often a use is written down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from keys import secrets, services
from keys.models import AdminToken

pytestmark = pytest.mark.django_db


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root")


def create(user: User, *scopes: str, **more: Any) -> tuple[AdminToken, str]:
    return services.token_create(user, name="deploy", scopes=scopes or ["read"], by="root", **more)


def test_the_secret_is_not_stored(root: User) -> None:
    token, secret = create(root)
    assert secret.startswith(token.prefix)
    (stored,) = AdminToken.objects.values()
    assert secret[len(token.prefix) :] not in str(stored)
    assert bytes(stored["digest"]) == secrets.digest(secret)
    assert stored["created_by"] == "root"


def test_finding_takes_one_query_and_noting_the_use_one_more_each_minute(
    root: User, django_assert_num_queries: Any
) -> None:
    token, secret = create(root)
    with django_assert_num_queries(2):
        found = services.token_find(secret)
    assert found == token
    assert found.last_used_at is not None
    with django_assert_num_queries(1):
        again = services.token_find(secret)
        assert again is not None
        assert (again.user, again.last_used_at) == (root, found.last_used_at)
    AdminToken.objects.update(last_used_at=timezone.now() - services.USE_NOTED_EVERY)
    with django_assert_num_queries(2):
        services.token_find(secret)


@pytest.mark.parametrize("text", ["", "hgt_", "hg_live_" + "a" * 38, "hgt_" + "a" * 38, "hgt_" + "é" * 38, "\0"])
def test_what_is_no_token_costs_no_query(root: User, text: str, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert services.token_find(text) is None


def test_a_key_is_no_token(anna: Any) -> None:
    _, secret = services.key_create(anna)
    assert services.token_find(secret) is None


def test_expired_revoked_and_owners_who_left_are_refused(root: User) -> None:
    token, secret = create(root, expires_at=timezone.now() + timedelta(hours=1))
    assert services.token_find(secret) == token
    User.objects.update(is_active=False)
    assert services.token_find(secret) is None
    User.objects.update(is_active=True)
    AdminToken.objects.update(expires_at=timezone.now())
    assert services.token_find(secret) is None
    AdminToken.objects.update(expires_at=None)
    services.token_revoke(token, by="root", reason="lost")
    assert services.token_find(secret) is None


def test_the_first_revocation_stays(root: User) -> None:
    token, _ = create(root)
    first = services.token_revoke(token, by="root", reason="lost")
    again = services.token_revoke(token, by="other")
    assert (again.revoked_at, again.revoked_reason) == (first.revoked_at, "root: lost")


@pytest.mark.parametrize(
    ("held", "allowed"), [("read", ["read"]), ("write", ["read", "write"]), ("admin", ["read", "write", "admin"])]
)
def test_a_scope_includes_those_before_it(root: User, held: str, allowed: list[str]) -> None:
    token, _ = create(root, held)
    assert [scope for scope in ("read", "write", "admin") if token.allows(scope)] == allowed


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "root"]])
def test_other_scopes_are_refused_by_form_and_database(root: User, scopes: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        services.token_create(root, name="x", scopes=scopes)
    assert "scopes" in caught.value.message_dict
    create(root)
    with pytest.raises(IntegrityError), transaction.atomic():
        AdminToken.objects.update(scopes=scopes)


def test_a_token_needs_a_name_and_a_future(root: User) -> None:
    with pytest.raises(ValidationError) as caught:
        services.token_create(root, name="", scopes=["read"], expires_at=timezone.now())
    assert set(caught.value.message_dict) >= {"name", "expires_at"}
