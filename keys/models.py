"""Who calls (Consumer), what proves it (ApiKey, BasicCredential), and the feed by which workers learn that an answer
changed. And what opens the admin API (AdminToken), which no worker ever asks for.

A secret is never stored: `digest` is its SHA-256, which is enough for 160 random bits and costs microseconds.
Rows of CredentialChange are written by triggers (migration 0002), so no way of changing a row can forget to.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Self

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.functions import Cast, Lower, Now
from django.db.models.lookups import Exact, Regex
from django.utils import timezone

#: A group, tag or scope. No comma and no blank: groups travel in one header field (`X-Consumer-Groups: a, b`).
WORD = r"[A-Za-z0-9][A-Za-z0-9_.:/*-]{0,63}"
#: Text that goes into a header field: no control characters, no blanks at the ends.
NO_CONTROLS = r"^[^[:cntrl:]]*$"
TRIMMED = r"^\S(.*\S)?$"
#: Of tokens of the admin API. Each includes those before it: who may write may read.
TOKEN_SCOPES = {"read": "Read", "write": "Change routes, consumers and keys", "admin": "Manage tokens"}


def word_list(help_text: str) -> ArrayField[list[str], list[str]]:
    """Of text, not varchar(64): Django casts arrays, and such a cast would cut a long word instead of refusing it."""
    word = models.TextField(validators=[RegexValidator(rf"^{WORD}\Z", "Use letters, digits and _ . : / * - only.")])
    return ArrayField(word, default=list, blank=True, help_text=help_text)


def words_only(field: str, name: str) -> models.CheckConstraint:
    """As JSON, for there a comma within a word looks different from one between two; a NULL does not match either."""
    listed = Cast(Func(F(field), function="array_to_json", output_field=models.JSONField()), models.TextField())
    return models.CheckConstraint(
        condition=Regex(listed, Value(rf'^\[("{WORD}"(,"{WORD}")*)?\]$')),
        name=name,
        violation_error_message=f"{field}: letters, digits and _ . : / * - only, at most 64 of them.",
    )


class Checked(models.Model):
    """Says a broken constraint at its field, which stands in its name: `<model>_<field>_<rule>`."""

    class Meta:
        abstract = True

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        errors: dict[str, list[ValidationError]] = {}
        own = {field.name for field in self._meta.fields}
        for constraint in self._meta.constraints:
            try:
                constraint.validate(type(self), self, exclude=set(exclude or ()))
            except ValidationError as error:
                field = constraint.name.partition("_")[2].rpartition("_")[0]
                errors.setdefault(field if field in own else NON_FIELD_ERRORS, []).append(error)
        if errors:
            raise ValidationError(errors)


class ConsumerQuerySet(models.QuerySet["Consumer"]):
    def named(self, username: str) -> Consumer:
        """By username, whatever the case. Raises Consumer.DoesNotExist."""
        return self.alias(folded=Lower("username")).get(folded=Lower(Value(username)))


class Consumer(Checked):
    username = models.CharField(max_length=100, help_text="Unique, whatever the case. Upstreams get it as a header.")
    custom_id = models.CharField(
        "custom ID", max_length=100, blank=True, default="", help_text="Your own system's id for this consumer."
    )
    groups = word_list("Groups that ACL rules name, separated by commas.")
    tags = word_list("For finding things; no effect on traffic.")
    enabled = models.BooleanField(default=True, help_text="Off: every key of this consumer is refused, at once.")
    note = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True, db_default=Now())
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    objects = ConsumerQuerySet.as_manager()

    class Meta:
        ordering = ["username"]
        constraints = [
            models.UniqueConstraint(
                Lower("username"),
                name="consumer_username_unique",
                violation_error_message="A consumer of this name exists (upper and lower case count as the same).",
            ),
            models.CheckConstraint(
                condition=Q(username__regex=TRIMMED) & Q(username__regex=NO_CONTROLS),
                name="consumer_username_clean",
                violation_error_message="A username is not empty and has no control characters or outer blanks.",
            ),
            models.UniqueConstraint(
                fields=["custom_id"],
                condition=~Q(custom_id=""),
                name="consumer_custom_id_unique",
                violation_error_message="Another consumer has this custom ID.",
            ),
            models.CheckConstraint(
                condition=Q(custom_id="") | Q(custom_id__regex=TRIMMED) & Q(custom_id__regex=NO_CONTROLS),
                name="consumer_custom_id_clean",
                violation_error_message="A custom ID has no control characters or outer blanks.",
            ),
            words_only("groups", "consumer_groups_words"),
            words_only("tags", "consumer_tags_words"),
        ]

    def __str__(self) -> str:
        return self.username


STATES = ("live", "expired", "revoked")


def in_state(state: str, now: datetime) -> Q:
    """Rows whose `state` is this word."""
    match state:
        case "revoked":
            return Q(revoked_at__isnull=False)
        case "expired":
            return Q(revoked_at=None, expires_at__lte=now)
    return Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now))


class IssuedQuerySet(models.QuerySet[Any]):
    def live(self, now: datetime) -> Self:
        """Neither revoked nor expired. Says nothing about the owner."""
        return self.filter(in_state("live", now))


class Issued(Checked):
    """What a secret leaves behind. Made by `services` only: it alone sees the secret."""

    name = models.CharField(max_length=100, blank=True, default="", help_text="What it is for, such as `billing job`.")
    prefix = models.CharField(max_length=32, editable=False, db_index=True, help_text="The part that may be shown.")
    digest = models.BinaryField(max_length=32, unique=True, editable=False, help_text="SHA-256 of the whole key.")
    created_at = models.DateTimeField(auto_now_add=True, db_default=Now())
    created_by = models.CharField(max_length=150, blank=True, default="", editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_reason = models.CharField(max_length=200, blank=True, default="", editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = IssuedQuerySet.as_manager()

    class Meta:
        abstract = True
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Exact(
                    Func(F("digest"), function="octet_length", output_field=models.IntegerField()), Value(32)
                ),
                name="%(class)s_digest_is_sha256",
            ),
            models.CheckConstraint(
                condition=Q(revoked_reason="") | Q(revoked_at__isnull=False), name="%(class)s_reason_needs_revocation"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"

    def clean(self) -> None:
        """Ending it by an edit is fine; making one that has ended is a mistake."""
        if self._state.adding and self.expires_at is not None and self.expires_at <= timezone.now():
            raise ValidationError({"expires_at": "This moment has passed."})

    @property
    def state(self) -> str:
        """One of STATES. Says nothing about the owner."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= timezone.now() else "live"


class ApiKey(Issued):
    consumer = models.ForeignKey(Consumer, models.CASCADE, related_name="keys")
    scopes = word_list("Scopes that ACL rules name, separated by commas.")
    rotated_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, editable=False, related_name="rotated_to"
    )

    class Meta(Issued.Meta):
        verbose_name = "API key"
        constraints = [*Issued.Meta.constraints, words_only("scopes", "apikey_scopes_words")]


class BasicCredential(Checked):
    """A username and password for `basic-auth`. `services` hash the password; what is stored leads nowhere back."""

    consumer = models.ForeignKey(Consumer, models.CASCADE, related_name="basic_credentials")
    username = models.CharField(max_length=128, unique=True, help_text="What the client sends; case counts. No colon.")
    password = models.CharField(max_length=200, editable=False, help_text="scrypt of the password.")
    created_at = models.DateTimeField(auto_now_add=True, db_default=Now())
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ["username"]
        verbose_name = "basic credential"
        constraints = [
            models.CheckConstraint(
                condition=Q(username__regex=TRIMMED) & Q(username__regex=r"^[^:[:cntrl:]]*$"),
                name="basiccredential_username_clean",
                violation_error_message="A username is not empty and has no colon, control characters or outer blanks.",
            ),
            models.CheckConstraint(
                condition=Q(password__startswith="scrypt$"),  # noqa: S106
                name="basiccredential_password_is_hashed",
            ),
        ]

    def __str__(self) -> str:
        return self.username


class AdminToken(Issued):
    """Opens the admin API in the name of `user`: it may do what both the user's permissions and its scopes allow."""

    name = models.CharField(max_length=100, help_text="What it is for, such as `deploy pipeline`.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="admin_tokens", help_text="Whose permissions it has."
    )
    scopes = ArrayField(
        models.TextField(choices=list(TOKEN_SCOPES.items())),
        help_text="read, write, admin; each includes those before it.",
    )

    class Meta(Issued.Meta):
        verbose_name = "admin token"
        constraints = [
            *Issued.Meta.constraints,
            models.CheckConstraint(
                condition=Q(scopes__contained_by=list(TOKEN_SCOPES)) & Q(scopes__len__gt=0),
                name="admintoken_scopes_known",
                violation_error_message="A token needs a scope at least, of read, write and admin.",
            ),
            models.CheckConstraint(
                condition=Q(name__regex=TRIMMED) & Q(name__regex=NO_CONTROLS),
                name="admintoken_name_clean",
                violation_error_message="A name is not empty and has no control characters or outer blanks.",
            ),
        ]

    def allows(self, scope: str) -> bool:
        """Whether one of its scopes is this one or includes it."""
        ranks = list(TOKEN_SCOPES)
        return any(ranks.index(held) >= ranks.index(scope) for held in self.scopes)


class CredentialChange(models.Model):
    """One thing whose answer may have changed: a digest, a consumer, or (both empty) everything.

    Plain values, no foreign keys: a row outlives what it is about. `transaction` is the writer's xid8; ids come from a
    sequence and become visible out of order, so `lookup.changes_since` asks by transaction instead.
    """

    digest = models.BinaryField(null=True, max_length=32)
    consumer_id = models.BigIntegerField(null=True)
    transaction = models.BigIntegerField(db_index=True)
    at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"change {self.pk}"
