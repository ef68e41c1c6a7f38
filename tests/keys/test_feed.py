"""The change feed: every path that changes an answer is noted, and each note reaches a worker exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from django.db import connection, transaction
from django.utils import timezone

from gateway.proxy.found import Changes, Moment
from keys import lookup, services
from keys.models import ApiKey, Consumer, CredentialChange

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(anna: Consumer) -> ApiKey:
    return services.key_create(anna, name="job")[0]


@pytest.fixture
def elsewhere(db: None) -> Iterator[psycopg.Connection]:
    """A second session, for transactions that overlap."""
    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": None}) as session:
        yield session
        session.rollback()


def after(step: Callable[[], object]) -> Changes:
    cursor, _ = lookup.changes_since(None)
    step()
    return lookup.changes_since(cursor)[1]


CHANGES_OF_A_KEY: list[Callable[[ApiKey], object]] = [
    lambda key: services.key_revoke(key, by="test"),
    lambda key: ApiKey.objects.filter(pk=key.pk).update(revoked_at=timezone.now()),
    lambda key: ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now()),
    lambda key: ApiKey.objects.filter(pk=key.pk).update(scopes=["read"]),
    lambda key: key.delete(),
    lambda key: ApiKey.objects.all().delete(),
]
CHANGES_OF_A_CONSUMER: list[Callable[[Consumer], object]] = [
    services.consumer_disable,
    lambda consumer: Consumer.objects.filter(pk=consumer.pk).update(enabled=False),
    lambda consumer: Consumer.objects.filter(pk=consumer.pk).update(groups=[]),
    lambda consumer: Consumer.objects.filter(pk=consumer.pk).update(custom_id="B-2"),
    lambda consumer: Consumer.objects.filter(pk=consumer.pk).update(username="ANNA"),
]
NO_CHANGES: list[Callable[[ApiKey], object]] = [
    lambda key: key.save(),
    lambda key: services.last_used_record({key.pk: timezone.now()}),
    lambda key: ApiKey.objects.filter(pk=key.pk).update(name="other"),
    lambda key: Consumer.objects.filter(pk=key.consumer_id).update(note="other", tags=["a"]),
    lambda key: Consumer.objects.create(username="new"),
]


@pytest.mark.parametrize("step", CHANGES_OF_A_KEY)
def test_a_changed_key_is_noted_by_its_digest(key: ApiKey, step: Callable[[ApiKey], object]) -> None:
    assert after(lambda: step(key)).digests == {key.digest}


@pytest.mark.parametrize("step", CHANGES_OF_A_CONSUMER)
def test_a_changed_consumer_is_noted_by_its_id(anna: Consumer, step: Callable[[Consumer], object]) -> None:
    assert after(lambda: step(anna)).consumers == {anna.pk}


@pytest.mark.parametrize("step", NO_CHANGES)
def test_what_changes_no_answer_is_not_noted(key: ApiKey, step: Callable[[ApiKey], object]) -> None:
    changes = after(lambda: step(key))
    assert (changes.digests, changes.consumers, changes.everything) == (frozenset(), frozenset(), False)


def test_a_new_key_is_noted(anna: Consumer) -> None:
    changes = after(lambda: services.key_create(anna))
    assert changes.digests == {ApiKey.objects.get().digest}


def test_a_deleted_consumer_is_noted_with_its_keys(key: ApiKey) -> None:
    consumer_id = key.consumer_id
    changes = after(lambda: Consumer.objects.all().delete())
    assert changes.consumers == {consumer_id}
    assert changes.digests == {key.digest}


def test_plain_sql_is_noted(key: ApiKey, elsewhere: psycopg.Connection) -> None:
    cursor, _ = lookup.changes_since(None)
    elsewhere.execute("DELETE FROM keys_apikey")
    elsewhere.commit()
    assert lookup.changes_since(cursor)[1].digests == {key.digest}


def test_truncate_means_everything(key: ApiKey, elsewhere: psycopg.Connection) -> None:
    cursor, _ = lookup.changes_since(None)
    elsewhere.execute("TRUNCATE keys_apikey")
    elsewhere.commit()
    assert lookup.changes_since(cursor)[1].everything


def test_a_change_rolled_back_is_none(key: ApiKey) -> None:
    def step() -> None:
        with transaction.atomic():
            services.key_revoke(key, by="test")
            transaction.set_rollback(True)

    assert not after(step).digests


def test_each_change_comes_once(key: ApiKey) -> None:
    cursor, _ = lookup.changes_since(None)
    services.key_revoke(key, by="test")
    cursor, first = lookup.changes_since(cursor)
    cursor, second = lookup.changes_since(cursor)
    assert first.digests == {key.digest}
    assert not second.digests


def test_a_lower_id_that_commits_later_is_not_missed(anna: Consumer, elsewhere: psycopg.Connection) -> None:
    early, late = (services.key_create(anna)[0] for _ in range(2))
    cursor, _ = lookup.changes_since(None)
    elsewhere.execute("UPDATE keys_apikey SET revoked_at = now() WHERE id = %s", [early.pk])  # takes the lower id
    services.key_revoke(late, by="test")
    cursor, changes = lookup.changes_since(cursor)
    assert changes.digests == {late.digest}
    elsewhere.commit()
    ids = dict(CredentialChange.objects.order_by("-id").values_list("digest", "id")[:2])
    assert ids[early.digest] < ids[late.digest]
    cursor, changes = lookup.changes_since(cursor)
    assert changes.digests == {early.digest}
    assert not lookup.changes_since(cursor)[1].digests


def test_a_worker_that_starts_hears_of_the_last_hour(anna: Consumer) -> None:
    old, new = (services.key_create(anna)[0] for _ in range(2))
    CredentialChange.objects.filter(digest=old.digest).update(at=timezone.now() - timedelta(hours=2))
    assert lookup.changes_since(None)[1].digests == {new.digest}


def test_too_many_changes_mean_everything(anna: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MAX_CHANGES", 2)
    cursor, _ = lookup.changes_since(None)
    services.key_create(anna)
    services.key_create(anna)
    assert not lookup.changes_since(cursor)[1].everything
    services.key_create(anna)
    assert lookup.changes_since(cursor)[1].everything


def test_a_database_that_went_back_means_everything(anna: Consumer) -> None:
    assert lookup.changes_since(Moment.parse("9000000000:9000000000:"))[1].everything


def test_pruning_keeps_the_last_day(anna: Consumer) -> None:
    old, new = (services.key_create(anna)[0] for _ in range(2))
    CredentialChange.objects.filter(digest=old.digest).update(at=timezone.now() - timedelta(hours=25))
    assert services.changes_prune() == 1
    assert set(CredentialChange.objects.exclude(digest=None).values_list("digest", flat=True)) == {new.digest}
