from __future__ import annotations

import uuid

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from gateway.login import TRIES

pytestmark = pytest.mark.django_db

GOOD = "correct horse battery"


@pytest.fixture
def person(settings) -> User:
    """A name of this test's own: counters live in Redis and outlast it."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    user = User(username=f"p{uuid.uuid4().hex[:12]}", is_staff=True)
    user.set_password(GOOD)
    user.save()
    return user


def login(person: User, password: str, address: str = "192.0.2.1", **headers: str) -> bool:
    """Whether it let them in. The page says why not."""
    client = Client(REMOTE_ADDR=address, headers=headers)
    answer = client.post(reverse("admin:login"), {"username": person.username, "password": password})
    login.page = answer.content.decode()  # type: ignore[attr-defined]
    return answer.status_code == 302


def fail(person: User, times: int, **where: str) -> None:
    for _ in range(times):
        assert not login(person, "wrong", **where)


def test_five_wrong_passwords_close_the_door_for_the_right_one_too(person):
    fail(person, TRIES)
    assert "Too many" not in login.page
    assert not login(person, GOOD)
    assert "Too many wrong passwords for this account from your address." in login.page


def test_a_login_in_time_starts_the_count_anew(person):
    for _ in range(2):
        fail(person, TRIES - 1)
        assert login(person, GOOD)


def test_nobody_locks_out_somebody_elsewhere_and_case_does_not_help(person):
    fail(person, TRIES)
    assert login(person, GOOD, "192.0.2.2")
    person.username = person.username.upper()
    assert not login(person, GOOD)
    assert "Too many" in login.page


def test_forwarded_addresses_count_only_from_trusted_proxies(person, settings):
    for number in range(TRIES + 1):
        assert not login(person, "wrong", **{"X-Forwarded-For": f"198.51.100.{number}"})
    assert "Too many" in login.page
    trusting = settings.ENVIRONMENT.model_validate({"trusted_proxies": ["192.0.2.7/32"]})
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"trusted_proxies": trusting.trusted_proxies})
    for number in range(TRIES + 1):
        assert not login(person, "wrong", "192.0.2.7", **{"X-Forwarded-For": f"198.51.100.{number}"})
    assert "Too many" not in login.page


def test_without_redis_people_still_log_in(person, settings):
    away = {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}
    settings.CACHES = {"default": away}
    fail(person, TRIES + 1)
    assert "Too many" not in login.page
    assert login(person, GOOD)


def test_no_password_is_counted_before_it_is_sent(person):
    fail(person, TRIES + 1)
    client = Client(REMOTE_ADDR="192.0.2.1")
    answer = client.post(reverse("admin:login"), {"username": person.username, "password": ""})
    assert "Too many" not in answer.content.decode()
