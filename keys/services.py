"""Every write to consumers, keys and tokens that is more than saving one form. Each is one transaction, and leaves its
entry in the audit trail; `by` is a user, or the name of somebody at a shell.

Text from people is checked by the models' own rules: ValidationError says what is wrong. KeyNotLive is for a step
that makes no sense on this key any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Model, QuerySet
from django.utils import timezone

from gateway.plugins import passwords
from keys import secrets, trail
from keys.models import AdminToken, ApiKey, BasicCredential, Consumer, CredentialChange, Issued
from keys.trail import Author

Row = TypeVar("Row", bound=Model)

#: How long the feed is kept. Far longer than anything a worker remembers without asking again (an hour).
FEED_KEPT = timedelta(days=1)
MIN_PASSWORD = 8
#: A token's last use is right to this.
USE_NOTED_EVERY = timedelta(minutes=1)


class KeyNotLive(Exception):
    """The key is revoked, expired, or has a successor already. The message is a sentence for people."""


def consumer_create(
    username: str, *, custom_id: str = "", groups: Iterable[str] = (), tags: Iterable[str] = (), by: Author = ""
) -> Consumer:
    return added(Consumer(username=username, custom_id=custom_id, groups=list(groups), tags=list(tags)), by=by)


def consumer_enable(consumer: Consumer, *, by: Author = "") -> None:
    _set_enabled(consumer, True, by)


def consumer_disable(consumer: Consumer, *, by: Author = "") -> None:
    """Every key of the consumer is refused until it is enabled again; the keys themselves stay as they are."""
    _set_enabled(consumer, False, by)


@transaction.atomic
def _set_enabled(consumer: Consumer, enabled: bool, by: Author) -> None:
    before = trail.values(consumer)
    consumer.enabled = enabled
    consumer.save(update_fields=["enabled", "updated_at"])
    trail.changed_record(by, consumer, before, "Enabled." if enabled else "Disabled.")


@transaction.atomic
def added(row: Row, *, by: Author) -> Row:
    row.full_clean()
    row.save(force_insert=True)
    trail.added_record(by, row)
    return row


@transaction.atomic
def changed(row: Row, fields: Mapping[str, object], *, by: Author) -> Row:
    """Sets these fields and saves no others."""
    before = trail.values(row)
    for name, value in fields.items():
        setattr(row, name, value)
    if fields:
        row.full_clean()
        stamps = {"updated_at"} & {field.name for field in row._meta.fields}
        row.save(update_fields={*fields, *stamps})
        trail.changed_record(by, row, before)
    return row


@transaction.atomic
def consumer_delete(consumer: Consumer, *, by: Author) -> None:
    """Its keys go with it, and usage rows name ids that are gone: better disable it."""
    trail.deleted_record(by, consumer)
    consumer.delete()


def key_create(
    consumer: Consumer,
    *,
    name: str = "",
    expires_at: datetime | None = None,
    scopes: Iterable[str] = (),
    by: Author = "",
) -> tuple[ApiKey, str]:
    """The row, and the secret: this is the only time anyone sees it."""
    key = ApiKey(consumer=consumer, name=name, scopes=list(scopes), expires_at=expires_at)
    return key, key_issue(key, by=by)


def key_issue(key: ApiKey, *, by: Author, environment: str = "live") -> str:
    """Gives a key that is not saved yet its secret, saves it, and returns the secret."""
    return _issue(key, secrets.generate(environment), by)


def _issue(row: Issued, secret: secrets.Secret, by: Author) -> str:
    row.prefix, row.digest, row.created_by = secret.prefix, secret.digest, trail.name_of(by)
    added(row, by=by)
    return secret.text


@transaction.atomic
def key_rotate(key: ApiKey, *, overlap: timedelta, by: Author) -> tuple[ApiKey, str]:
    """A successor with the same consumer, name, scopes and lifetime; the old key ends after `overlap` at the latest.

    Raises KeyNotLive: a dead key has nothing to hand over, and a second successor would be one nobody asked for.
    """
    if overlap < timedelta(0):
        raise ValidationError({"overlap": "An overlap is not negative."})
    old, now = _locked(key), timezone.now()
    before = trail.values(old)
    if old.state != "live":
        raise KeyNotLive(f"Key {old.prefix}… is {old.state}. Create a new one instead.")
    if successor := old.rotated_to.first():
        raise KeyNotLive(f"Key {old.prefix}… was rotated already, to {successor.prefix}….")
    expires_at = old.expires_at and now + (old.expires_at - old.created_at)
    new = ApiKey(consumer=old.consumer, name=old.name, scopes=old.scopes, expires_at=expires_at, rotated_from=old)
    text = key_issue(new, by=by, environment=old.prefix.split("_")[1])
    old.expires_at = min(now + overlap, old.expires_at or datetime.max.replace(tzinfo=now.tzinfo))
    old.save(update_fields=["expires_at"])
    trail.changed_record(by, old, before, f"Rotated to {new}.")
    return new, text


@transaction.atomic
def key_revoke(key: ApiKey, *, by: Author, reason: str = "") -> ApiKey:
    """For good. A key that is revoked already keeps its first moment and reason."""
    current = _locked(key)
    _revoke(current, by, reason)
    return current


def _revoke(row: Issued, by: Author, reason: str) -> None:
    if row.revoked_at is None:
        before = trail.values(row)
        row.revoked_at = timezone.now()
        row.revoked_reason = f"{trail.name_of(by)}: {reason}".strip(": ")[:200]
        row.save(update_fields=["revoked_at", "revoked_reason"])
        trail.changed_record(by, row, before, "Revoked.")


def _locked(key: ApiKey) -> ApiKey:
    return ApiKey.objects.select_for_update(of=("self",)).select_related("consumer").get(pk=key.pk)


def last_used_record(used: Mapping[int, datetime]) -> None:
    """Key id → when it was last seen, gathered from usage rows. One statement; never moves a time backwards.

    Rows are locked in the order of their ids, so that two recorders cannot deadlock. No feed entry is written.
    """
    if not used:
        return
    ids = sorted(used)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH seen AS (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS seen (id, at)),
                 locked AS (SELECT key.id, seen.at FROM keys_apikey AS key JOIN seen USING (id)
                            WHERE key.last_used_at IS NULL OR key.last_used_at < seen.at
                            ORDER BY key.id FOR NO KEY UPDATE OF key)
            UPDATE keys_apikey SET last_used_at = locked.at FROM locked WHERE keys_apikey.id = locked.id
            """,
            [ids, [used[key_id] for key_id in ids]],
        )


# --- usernames with passwords -----------------------------------------------------------------------------------------


def basic_create(consumer: Consumer, *, username: str, password: str, by: Author = "") -> BasicCredential:
    return basic_issue(BasicCredential(consumer=consumer, username=username), password, by=by)


def basic_issue(login: BasicCredential, password: str, *, by: Author) -> BasicCredential:
    """Saves one that is not saved yet, with this password."""
    login.username, login.password = passwords.normal(login.username), _hashed(password)
    return added(login, by=by)


@transaction.atomic
def basic_change(login: BasicCredential, *, username: str = "", password: str = "", by: Author) -> BasicCredential:
    """What is empty stays. The old password is refused as soon as workers hear of it."""
    before = trail.values(login)
    login.username = passwords.normal(username) or login.username
    if password:
        login.password = _hashed(password)
    login.full_clean()
    login.save(update_fields=["username", "password", "updated_at"])
    if password:
        trail.said_record(by, login, before, "Changed the password.")
    else:
        trail.changed_record(by, login, before)
    return login


@transaction.atomic
def basic_delete(login: BasicCredential, *, by: Author) -> None:
    trail.deleted_record(by, login)
    login.delete()


def _hashed(password: str) -> str:
    """Raises ValidationError."""
    size = len(passwords.normal(password).encode())
    if size < MIN_PASSWORD or size > passwords.MAX_BYTES or passwords.has_controls(password):
        text = f"A password has from {MIN_PASSWORD} to {passwords.MAX_BYTES} bytes, and no control characters."
        raise ValidationError({"password": text})
    return passwords.hashed(password)


# --- tokens of the admin API ------------------------------------------------------------------------------------------


def token_create(
    user: User, *, name: str, scopes: Iterable[str], expires_at: datetime | None = None, by: Author = ""
) -> tuple[AdminToken, str]:
    """The row, and the secret: this is the only time anyone sees it."""
    token = AdminToken(user=user, name=name, scopes=list(scopes), expires_at=expires_at)
    return token, token_issue(token, by=by)


def token_issue(token: AdminToken, *, by: Author) -> str:
    """Gives a token that is not saved yet its secret, saves it, and returns the secret."""
    return _issue(token, secrets.generate_token(), by)


@transaction.atomic
def token_revoke(token: AdminToken, *, by: Author, reason: str = "") -> AdminToken:
    """For good, from the next request on: nothing remembers tokens."""
    current = AdminToken.objects.select_for_update(of=("self",)).select_related("user").get(pk=token.pk)
    _revoke(current, by, reason)
    return current


def tokens_managed_by(user: User) -> QuerySet[AdminToken]:
    """A token is worth its user's permissions, so others' are for superusers."""
    return AdminToken.objects.all() if user.is_superuser else AdminToken.objects.filter(user=user)


def token_owners_for(user: User) -> QuerySet[User]:
    """For whom this user may make tokens."""
    people = User.objects.filter(is_active=True)
    return people if user.is_superuser else people.filter(pk=user.pk)


def token_find(text: str) -> AdminToken | None:
    """The token of this text, with its user, if both may be used now. One query, and none for what is no token.

    Writes `last_used_at` when it is a minute old or more: one short statement then.
    """
    if not (text.startswith(secrets.TOKEN_HEAD) and secrets.checksum_ok(text)):
        return None
    now = timezone.now()
    found = AdminToken.objects.live(now).filter(digest=secrets.digest(text), user__is_active=True)
    token = found.select_related("user").first()
    if token is not None and (token.last_used_at is None or now - token.last_used_at >= USE_NOTED_EVERY):
        AdminToken.objects.filter(pk=token.pk).update(last_used_at=now)
        token.last_used_at = now
    return token


# --- the feed ---------------------------------------------------------------------------------------------------------


def changes_prune(keep: timedelta = FEED_KEPT) -> int:
    """Deletes feed entries older than `keep`; how many there were."""
    deleted, _ = CredentialChange.objects.filter(at__lt=timezone.now() - keep).delete()
    return deleted
