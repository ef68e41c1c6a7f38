"""The rules PostgreSQL keeps, whoever writes."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.utils import timezone

from keys import secrets
from keys.models import ApiKey, Consumer

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("username", ["", " anna", "anna ", "an\nna", "an\x7fna", "a" * 101])
def test_a_username_fits_into_a_header_field(username: str) -> None:
    with pytest.raises(DatabaseError):
        Consumer.objects.create(username=username)


@pytest.mark.parametrize("username", ["a", "Anna Müller", "team/billing", "a" * 100])
def test_usual_usernames_are_taken(username: str) -> None:
    Consumer(username=username).full_clean()
    assert Consumer.objects.create(username=username).username == username


def test_usernames_differ_by_more_than_case(anna: Consumer) -> None:
    with pytest.raises(ValidationError, match="exists"):
        Consumer(username="ANNA").full_clean()
    with pytest.raises(DatabaseError):
        Consumer.objects.create(username="ANNA")


def test_a_consumer_is_found_whatever_the_case(anna: Consumer) -> None:
    assert Consumer.objects.named("aNNa") == anna
    with pytest.raises(Consumer.DoesNotExist):
        Consumer.objects.named("ann")


def test_custom_ids_are_unique_where_set(anna: Consumer) -> None:
    Consumer.objects.create(username="bert")
    Consumer.objects.create(username="carl")
    with pytest.raises(DatabaseError):
        Consumer.objects.create(username="dora", custom_id="A-1")


@pytest.mark.parametrize("field", ["groups", "tags"])
@pytest.mark.parametrize("word", ["", "a,b", "a b", "a\nb", "-a", "a" * 65])
def test_words_travel_in_one_header_field(field: str, word: str) -> None:
    with pytest.raises(ValidationError):
        Consumer(username="anna", **{field: ["fine", word]}).full_clean()
    with pytest.raises(DatabaseError):
        Consumer.objects.create(username="anna", **{field: ["fine", word]})


def test_a_digest_has_32_bytes_and_is_unique(anna: Consumer) -> None:
    ApiKey.objects.create(consumer=anna, prefix="hg_live_1", digest=bytes(32))
    for digest in (bytes(32), bytes(31)):
        with pytest.raises(DatabaseError), transaction.atomic():
            ApiKey.objects.create(consumer=anna, prefix="hg_live_2", digest=digest)


def test_only_a_revoked_key_has_a_reason(anna: Consumer) -> None:
    with pytest.raises(DatabaseError):
        ApiKey.objects.create(consumer=anna, prefix="p", digest=bytes(32), revoked_reason="leaked")


def test_states(anna: Consumer) -> None:
    def key(**fields: Any) -> ApiKey:
        secret = secrets.generate()
        return ApiKey.objects.create(consumer=anna, prefix=secret.prefix, digest=secret.digest, **fields)

    now = timezone.now()
    live, expired, revoked = key(), key(expires_at=now), key(expires_at=now, revoked_at=now)
    assert [live.state, expired.state, revoked.state] == ["live", "expired", "revoked"]
    assert list(ApiKey.objects.live(now)) == [live]
