"""Callers of the admin API: with a token of each scope, with a session, with nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.caller import Caller


@pytest.fixture
def admin(db: None) -> Any:
    from django.contrib.auth.models import User

    return User.objects.create(username="admin", is_superuser=True, is_staff=True)  # hashing a password is slow


@pytest.fixture
def call_as(db: None) -> Callable[..., Caller]:
    """`call_as(user, "read")`: a caller with a token of this user and these scopes."""

    from keys import services as keys

    def make(user: Any, *scopes: str) -> Caller:
        return Caller(keys.token_create(user, name="test", scopes=scopes, by="test")[1])

    return make


@pytest.fixture
def call(admin: Any, call_as: Callable[..., Caller]) -> Caller:
    return call_as(admin, "admin")


@pytest.fixture
def clerk(db: None) -> Callable[..., Any]:
    """`clerk("routes.view_route")`: a user who may just that."""
    from django.contrib.auth.models import Permission, User

    def make(*permissions: str) -> Any:
        user = User.objects.create_user(f"clerk-{User.objects.count()}", is_staff=True)
        for name in permissions:
            app, _, codename = name.partition(".")
            user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        return user

    return make
