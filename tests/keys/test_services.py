from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from keys import nudge, secrets, services
from keys.models import ApiKey, Consumer
from tests.running import Stopwatch

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def test_the_secret_is_returned_and_only_its_digest_stored(anna: Consumer) -> None:
    key, secret = services.key_create(anna, name="job", scopes=["read"], by="root")
    stored = ApiKey.objects.get()
    assert secrets.checksum_ok(secret)
    assert bytes(stored.digest) == secrets.digest(secret)
    assert secret not in str(ApiKey.objects.values().get())
    assert (stored.prefix, stored.name, stored.scopes, stored.created_by) == (key.prefix, "job", ["read"], "root")


def test_a_key_cannot_begin_expired(anna: Consumer) -> None:
    with pytest.raises(ValidationError, match="passed"):
        services.key_create(anna, expires_at=timezone.now())


def test_scopes_are_checked(anna: Consumer) -> None:
    with pytest.raises(ValidationError):
        services.key_create(anna, scopes=["a b"])


def test_rotation_hands_over_and_ends_the_old_key_after_the_overlap(anna: Consumer) -> None:
    old, _ = services.key_create(anna, name="job", scopes=["read"], expires_at=timezone.now() + timedelta(days=30))
    new, secret = services.key_rotate(old, overlap=HOUR, by="root")
    old.refresh_from_db()
    assert (new.consumer, new.name, new.scopes, new.rotated_from) == (anna, "job", ["read"], old)
    assert new.digest == secrets.digest(secret)
    assert old.expires_at - timezone.now() <= HOUR
    assert old.expires_at - timezone.now() > HOUR - timedelta(minutes=1)
    assert new.expires_at - timezone.now() > timedelta(days=29)


def test_rotation_never_lengthens_a_life(anna: Consumer) -> None:
    soon = timezone.now() + timedelta(minutes=1)
    old, _ = services.key_create(anna, expires_at=soon)
    services.key_rotate(old, overlap=HOUR, by="root")
    old.refresh_from_db()
    assert old.expires_at == soon


def test_rotation_keeps_the_environment(anna: Consumer) -> None:
    old = ApiKey(consumer=anna)
    services.key_issue(old, by="root", environment="test")
    assert services.key_rotate(old, overlap=HOUR, by="root")[1].startswith("hg_test_")


def test_a_key_is_rotated_once(anna: Consumer) -> None:
    old, _ = services.key_create(anna)
    new, _ = services.key_rotate(old, overlap=HOUR, by="root")
    with pytest.raises(services.KeyNotLive, match=new.prefix):
        services.key_rotate(old, overlap=HOUR, by="root")
    services.key_rotate(new, overlap=HOUR, by="root")


def test_a_dead_key_is_not_rotated(anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    services.key_revoke(key, by="root")
    with pytest.raises(services.KeyNotLive, match="revoked"):
        services.key_rotate(key, overlap=HOUR, by="root")


def test_the_first_revocation_stays(anna: Consumer) -> None:
    key, _ = services.key_create(anna)
    first = services.key_revoke(key, by="root", reason="leaked")
    second = services.key_revoke(key, by="other", reason="again")
    assert (second.revoked_at, second.revoked_reason) == (first.revoked_at, "root: leaked")


def test_last_used_only_moves_forward_in_one_query(anna: Consumer, django_assert_num_queries: Any) -> None:
    (one, _), (two, _), (unused, _) = (services.key_create(anna) for _ in range(3))
    now = timezone.now()
    services.last_used_record({one.pk: now, two.pk: now})
    with django_assert_num_queries(1):
        services.last_used_record({one.pk: now - HOUR, two.pk: now + HOUR, 0: now})
    services.last_used_record({})
    assert dict(ApiKey.objects.values_list("id", "last_used_at")) == {
        one.pk: now,
        two.pk: now + HOUR,
        unused.pk: None,
    }


class TestNudge:
    @pytest.fixture(autouse=True)
    def unpaused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nudge, "_paused_until_s", 0.0)

    @pytest.fixture
    def channel(self) -> Iterator[Any]:
        with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub() as channel:
            channel.subscribe(nudge.CREDENTIALS_CHANNEL)
            assert channel.get_message(timeout=5)["type"] == "subscribe"
            yield channel

    @pytest.mark.django_db(transaction=True)
    def test_a_change_is_told_after_its_commit(self, anna: Consumer, channel: Any) -> None:
        while channel.get_message(timeout=0.05):
            pass  # what making anna said
        with transaction.atomic():
            services.key_create(anna)
            assert channel.get_message(timeout=0.05) is None
        assert channel.get_message(timeout=5)["channel"] == b"hg:credentials"

    def test_a_redis_that_hangs_costs_one_short_wait(self, settings: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            watch = Stopwatch()
            assert not any(nudge.publish("hg:credentials") for _ in range(100))
            assert watch.s < 2
        nudge._client.cache_clear()

    def test_a_redis_that_is_gone_harms_nothing(self, settings: Any, anna: Consumer) -> None:
        settings.REDIS_URL = "redis://127.0.0.1:1"
        assert not nudge.publish("hg:credentials")
