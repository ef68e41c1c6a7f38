"""Usernames with passwords: what is stored, what workers hear of, and the admin API and admin that write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from django.test import Client
from django.urls import reverse

from gateway.plugins import passwords
from gateway.plugins.base import Refusal
from gateway.proxy import exchange
from gateway.proxy.found import Changes
from keys import lookup, services
from keys.models import BasicCredential, Consumer

pytestmark = pytest.mark.django_db
WORD = "correct horse"


@pytest.fixture
def login(anna: Consumer) -> BasicCredential:
    return services.basic_create(anna, username="anna", password=WORD, by="test")


def test_the_password_is_stored_as_its_hash_only(login: BasicCredential) -> None:
    assert WORD not in str(list(BasicCredential.objects.values()))
    assert passwords.fits(login.password, WORD.encode())


@pytest.mark.parametrize("password", ["", "short", "x" * 1025, "with\ncontrols"])
def test_a_password_that_is_none_is_refused(anna: Consumer, password: str) -> None:
    with pytest.raises(ValidationError, match="from 8 to 1024 bytes"):
        services.basic_create(anna, username="anna", password=password)


@pytest.mark.parametrize("username", ["", "a:b", " anna", "an\tna", "x" * 129])
def test_a_username_that_is_none_is_refused(anna: Consumer, username: str) -> None:
    with pytest.raises(ValidationError):
        services.basic_create(anna, username=username, password=WORD)


def test_text_never_gets_into_the_column(login: BasicCredential) -> None:
    with pytest.raises(IntegrityError, match="basiccredential_password_is_hashed"):
        BasicCredential.objects.update(password=WORD)


# --- lookup -----------------------------------------------------------------------------------------------------------


def test_a_username_leads_to_its_consumer_with_what_the_password_has_to_fit(login: BasicCredential) -> None:
    found = lookup.find("login:anna")
    who = exchange.Consumer(login.consumer_id, "anna", "A-1", frozenset({"staff", "beta"}))
    assert isinstance(found.answer, exchange.Credential)
    assert found.answer == exchange.Credential("basic", login.pk, "anna", who)
    assert found.answer.proof == login.password
    assert found.consumer_id == login.consumer_id
    assert login.password not in repr(found)


def test_case_counts_and_a_key_is_no_username(login: BasicCredential) -> None:
    assert lookup.find("login:Anna").answer == Refusal("consumer_unknown")
    assert lookup.find(b"login:anna".ljust(32)).answer == Refusal("key_invalid")


def test_of_a_disabled_consumer_the_password_can_be_checked_still(login: BasicCredential) -> None:
    services.consumer_disable(login.consumer)
    answer = lookup.find("login:anna").answer
    assert answer == Refusal("consumer_disabled")
    assert isinstance(answer, Refusal)
    assert answer.proof == login.password


# --- the feed ---------------------------------------------------------------------------------------------------------


def told(step: Any) -> Changes:
    cursor, _ = lookup.changes_since(None)
    step()
    return lookup.changes_since(cursor)[1]


CHANGES: list[Any] = [
    lambda login: services.basic_change(login, password="another one", by="test"),
    lambda login: services.basic_change(login, username="anne", by="test"),
    lambda login: services.basic_delete(login, by="test"),
    lambda login: BasicCredential.objects.all().delete(),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("step", CHANGES)
def test_every_change_is_noted_by_the_owner(login: BasicCredential, step: Any) -> None:
    owner = login.consumer_id
    assert told(lambda: step(login)).consumers == {owner}


@pytest.mark.django_db(transaction=True)
def test_truncate_means_everything_and_saving_nothing(login: BasicCredential) -> None:
    assert not told(login.save).consumers

    def truncate() -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE keys_basiccredential")

    assert told(truncate).everything


# --- the admin --------------------------------------------------------------------------------------------------------


def posted(client: Client, consumer: Consumer, *rows: dict[str, Any]) -> Any:
    page = client.get(reverse("admin:keys_consumer_change", args=[consumer.pk]))
    fields: dict[str, Any] = {"username": consumer.username, "groups": "staff,beta", "tags": "", "custom_id": "A-1"}
    for formset in page.context["inline_admin_formsets"]:
        prefix = formset.formset.prefix
        mine = rows if prefix == "basic_credentials" else ()
        stored = sum("id" in row for row in mine)
        fields |= {f"{prefix}-TOTAL_FORMS": len(mine), f"{prefix}-INITIAL_FORMS": stored}
        for number, row in enumerate(mine):
            fields |= {f"{prefix}-{number}-{name}": value for name, value in row.items()}
            fields[f"{prefix}-{number}-consumer"] = consumer.pk
    return client.post(reverse("admin:keys_consumer_change", args=[consumer.pk]), {**fields, "enabled": "on"})


def test_the_consumers_page_makes_changes_and_deletes_them(admin_client: Client, anna: Consumer) -> None:
    assert posted(admin_client, anna, {"username": "anna", "new_password": WORD}).status_code == 302
    login = BasicCredential.objects.get()
    assert passwords.fits(login.password, WORD.encode())
    row = {"id": login.pk, "username": "anna"}
    assert posted(admin_client, anna, {**row, "new_password": "another one"}).status_code == 302
    login.refresh_from_db()
    assert passwords.fits(login.password, b"another one")
    assert posted(admin_client, anna, {**row, "username": "anne", "new_password": ""}).status_code == 302
    login.refresh_from_db()
    assert login.username == "anne"
    assert passwords.fits(login.password, b"another one")
    page = admin_client.get(reverse("admin:keys_consumer_change", args=[anna.pk])).content.decode()
    assert "scrypt$" not in page
    assert posted(admin_client, anna, {**row, "DELETE": "on"}).status_code == 302
    assert not BasicCredential.objects.exists()
    trail = [json.loads(text) for text in LogEntry.objects.order_by("id").values_list("change_message", flat=True)]
    assert "scrypt" not in str(trail)
    assert WORD not in str(trail)
    assert "Changed the password." in str(trail)


def test_a_new_username_needs_a_password(admin_client: Client, anna: Consumer) -> None:
    answer = posted(admin_client, anna, {"username": "anna", "new_password": ""})
    assert "A new username needs a password." in answer.content.decode()
    assert not BasicCredential.objects.exists()
