"""`manage.py token`."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.utils import timezone

from keys import secrets, services
from keys.models import AdminToken
from tests.keys.test_command import run

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def ops() -> User:
    return User.objects.create_user("ops", is_staff=True)


def test_a_new_secret_stands_alone_on_standard_output() -> None:
    out, err = run("token", "create", "--user", "ops", "--scopes", "read,write", "--expires", "90d", "--name", "ci")
    token = services.token_find(out.strip())
    assert token is not None
    assert (token.name, token.scopes, token.user.get_username()) == ("ci", ["read", "write"], "ops")
    assert token.expires_at is not None
    assert abs(token.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert "ops" in err
    assert out.strip() not in err


def test_quiet_says_nothing_else_and_reading_is_the_default() -> None:
    out, err = run("token", "create", "--user", "ops", "--quiet")
    assert secrets.checksum_ok(out.removesuffix("\n"))
    assert err == ""
    assert AdminToken.objects.get().scopes == ["read"]


def test_listing_shows_no_secret_and_revoking_takes_a_prefix(ops: User) -> None:
    token, secret = services.token_create(ops, name="ci", scopes=["read"])
    services.token_create(User.objects.create_user("other"), name="theirs", scopes=["admin"])
    out, _ = run("token", "list", "--user", "ops")
    assert token.prefix in out
    assert secret[len(token.prefix) :] not in out
    assert "theirs" not in out
    run("token", "revoke", token.prefix, "--reason", "lost")
    token.refresh_from_db()
    assert token.state == "revoked"
    assert token.revoked_reason.endswith("(shell): lost")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["token", "create", "--user", "nobody"], "no user 'nobody'"),
        (["token", "create", "--user", "ops", "--scopes", "root"], "not a valid choice"),
        (["token", "create", "--user", "ops", "--scopes", ","], "cannot be blank"),
        (["token", "create", "--user", "ops", "--expires", "0d"], "passed"),
        (["token", "revoke", "hgt_nope"], "no such token"),
    ],
)
def test_mistakes_are_explained(words: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        run(*words)
    assert not AdminToken.objects.exists()
