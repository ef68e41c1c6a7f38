"""`manage.py key` and `manage.py consumer`."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from gateway.proxy.exchange import Credential
from keys import lookup, secrets, services
from keys.models import ApiKey, Consumer

pytestmark = pytest.mark.django_db


def run(*words: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command(*words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def test_a_new_secret_stands_alone_on_standard_output(anna: Consumer) -> None:
    out, err = run("key", "create", "--consumer", "anna", "--name", "job", "--scopes", "read,write", "--expires", "30d")
    key = ApiKey.objects.get()
    assert secrets.digest(out.strip()) == key.digest
    assert (key.name, key.scopes) == ("job", ["read", "write"])
    assert abs(key.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert "anna" in err
    assert out.strip() not in err


def test_quiet_says_nothing_else(anna: Consumer) -> None:
    out, err = run("key", "create", "--consumer", "ANNA", "--quiet")
    assert secrets.checksum_ok(out.removesuffix("\n"))
    assert err == ""


def test_a_consumer_is_made_on_the_way() -> None:
    out, _ = run("key", "create", "--consumer", "new", "--create-consumer", "--groups", "staff, beta", "--quiet")
    answer = lookup.find_key(secrets.digest(out.strip())).answer
    assert isinstance(answer, Credential)
    assert (answer.consumer.username, answer.consumer.groups) == ("new", {"staff", "beta"})


def test_an_existing_consumer_is_used(anna: Consumer) -> None:
    run("key", "create", "--consumer", "anna", "--create-consumer", "--quiet")
    assert ApiKey.objects.get().consumer == anna


def test_nothing_is_made_if_something_is_wrong() -> None:
    with pytest.raises(CommandError, match="letters, digits"):
        run("key", "create", "--consumer", "new", "--create-consumer", "--scopes", "a b")
    assert not Consumer.objects.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["key", "create", "--consumer", "nobody"], "no consumer 'nobody'"),
        (["key", "create", "--consumer", "anna", "--expires", "soon"], "not a time span"),
        (["key", "create", "--consumer", "anna", "--groups", "a"], "--create-consumer"),
        (["key", "create", "--consumer", "anna", "--expires", "0d"], "passed"),
        (["key", "rotate", "hg_live_nope"], "no such key"),
        (["key", "revoke", "12345"], "no such key"),
        (["consumer", "create", "Anna"], "exists"),
        (["consumer", "disable", "nobody"], "no consumer"),
    ],
)
def test_mistakes_are_explained(anna: Consumer, words: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        run(*words)


def test_a_whole_key_does_not_name_a_key(anna: Consumer) -> None:
    _, secret = services.key_create(anna)
    with pytest.raises(CommandError) as caught:
        run("key", "revoke", secret)
    assert secret not in str(caught.value)


def test_a_key_is_listed_without_its_secret(anna: Consumer) -> None:
    key, secret = services.key_create(anna, name="job")
    out, _ = run("key", "list", "--consumer", "anna")
    assert key.prefix in out
    assert secret[len(key.prefix) :] not in out


def test_rotating_by_prefix(anna: Consumer) -> None:
    old, _ = services.key_create(anna)
    out, err = run("key", "rotate", old.prefix, "--overlap", "1h")
    assert ApiKey.objects.get(rotated_from=old).digest == secrets.digest(out.strip())
    assert old.prefix in err
    with pytest.raises(CommandError, match="rotated already"):
        run("key", "rotate", old.prefix)


def test_revoking_by_id(anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    out, _ = run("key", "revoke", str(key.pk), "--reason", "leaked")
    key.refresh_from_db()
    assert key.state == "revoked"
    assert key.revoked_reason.endswith("(shell): leaked")
    assert key.prefix in out


def test_a_prefix_of_several_keys_asks_for_an_id(anna: Consumer) -> None:
    keys = [services.key_create(anna)[0] for _ in range(2)]
    ApiKey.objects.update(prefix="hg_live_twins")
    with pytest.raises(CommandError, match=f"{keys[0].pk}"):
        run("key", "revoke", "hg_live_twins")


def test_consumers() -> None:
    run("consumer", "create", "bert", "--custom-id", "B-1", "--groups", "staff")
    run("consumer", "disable", "bert")
    out, _ = run("consumer", "list")
    assert "bert" in out
    assert "disabled" in out
    run("consumer", "enable", "BERT")
    assert Consumer.objects.get().enabled
