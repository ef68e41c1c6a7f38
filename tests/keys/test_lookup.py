from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from gateway.plugins.base import Refusal
from gateway.proxy import exchange
from keys import lookup, secrets, services
from keys.models import ApiKey, Consumer

pytestmark = pytest.mark.django_db


def test_a_live_key_tells_who_calls(anna: Consumer) -> None:
    expires_at = timezone.now() + timedelta(days=1)
    key, secret = services.key_create(anna, scopes=["read"], expires_at=expires_at)
    found = lookup.find_key(secrets.digest(secret))
    who = exchange.Consumer(anna.pk, "anna", "A-1", frozenset({"staff", "beta"}))
    assert found.answer == exchange.Credential("key", key.pk, key.prefix, who, frozenset({"read"}))
    assert found.consumer_id == anna.pk
    assert found.expires_at_s == expires_at.timestamp()


def test_an_unknown_key_is_invalid() -> None:
    found = lookup.find_key(bytes(32))
    assert (found.answer, found.consumer_id, found.expires_at_s) == (Refusal("key_invalid"), 0, None)


def test_expiry_is_left_to_each_use(anna: Consumer) -> None:
    _, secret = services.key_create(anna)
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert isinstance(lookup.find_key(secrets.digest(secret)).answer, exchange.Credential)


@pytest.mark.parametrize(
    ("revoked", "enabled", "code"),
    [(True, True, "key_revoked"), (False, False, "consumer_disabled"), (True, False, "key_revoked")],
)
def test_refusals(anna: Consumer, revoked: bool, enabled: bool, code: str) -> None:
    key, secret = services.key_create(anna)
    if revoked:
        services.key_revoke(key, by="test")
    if not enabled:
        services.consumer_disable(anna)
    found = lookup.find_key(secrets.digest(secret))
    assert (found.answer, found.consumer_id) == (Refusal(code), anna.pk)


@pytest.mark.parametrize(("by", "value"), [("username", "anna"), ("custom_id", "A-1")])
def test_a_consumer_is_found_by_name(anna: Consumer, by: str, value: str, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        found = lookup.find(f"{by}:{value}")
    who = exchange.Consumer(anna.pk, "anna", "A-1", frozenset({"staff", "beta"}))
    assert found.answer == exchange.Credential("consumer", anna.pk, "anna", who)
    assert (found.consumer_id, found.expires_at_s) == (anna.pk, None)


@pytest.mark.parametrize(
    ("by", "value"),
    [("username", "Anna"), ("username", "A-1"), ("username", ""), ("custom_id", "anna"), ("custom_id", "")],
)
def test_only_exactly_the_name_finds_a_consumer(anna: Consumer, by: str, value: str) -> None:
    Consumer.objects.create(username="without a custom id")
    found = lookup.find(f"{by}:{value}")
    assert (found.answer, found.consumer_id) == (Refusal("consumer_unknown"), 0)


def test_a_disabled_consumer_is_refused(anna: Consumer) -> None:
    services.consumer_disable(anna)
    assert lookup.find("username:anna").answer == Refusal("consumer_disabled")


def test_both_reads_are_one_query(anna: Consumer, django_assert_num_queries: Any) -> None:
    _, secret = services.key_create(anna)
    with django_assert_num_queries(1):
        lookup.find_key(secrets.digest(secret))
    with django_assert_num_queries(1):
        cursor, _ = lookup.changes_since(None)
    with django_assert_num_queries(1):
        lookup.changes_since(cursor)
