"""What the commands share: words for people in, words for people out."""

from __future__ import annotations

import getpass
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db.models import QuerySet

from keys.models import AdminToken, ApiKey, Consumer
from keys.services import KeyNotLive

Row = TypeVar("Row", ApiKey, AdminToken)

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> timedelta:
    """`90s`, `30m`, `1h`, `30d`, `2w`."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if match is None:
        raise ArgumentTypeError(f"'{text}' is not a time span. Write a number and a unit: 90s, 30m, 1h, 30d or 2w.")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def consumer_named(username: str) -> Consumer:
    try:
        return Consumer.objects.named(username)
    except Consumer.DoesNotExist:
        raise CommandError(f"There is no consumer '{username}'. `manage.py consumer list` shows them.") from None


def user_named(username: str) -> User:
    try:
        return User.objects.get_by_natural_key(username)
    except User.DoesNotExist:
        raise CommandError(f"There is no user '{username}'. `manage.py createsuperuser` makes one.") from None


def key_called(word: str) -> ApiKey:
    return _called(ApiKey.objects.select_related("consumer"), word, lambda key: key.consumer)


def token_called(word: str) -> AdminToken:
    return _called(AdminToken.objects.select_related("user"), word, lambda token: token.user)


def _called(rows: QuerySet[Row], word: str, owner: Callable[[Row], object]) -> Row:
    """By id or by prefix; a whole secret is refused, for it would now stand in the shell's history."""
    match = {"pk": int(word)} if word.isdecimal() else {"prefix": word.rstrip("….")}
    found = list(rows.filter(**match)[:10])
    if len(found) == 1:
        return found[0]
    kind = str(rows.model._meta.verbose_name).split()[-1]
    if found:
        ids = ", ".join(f"{row.pk} ({owner(row)})" for row in found)
        raise CommandError(f"Several {kind}s begin with '{word}'. Name one by its id: {ids}.")
    raise CommandError(f"There is no such {kind}. Name it by its id or prefix; `manage.py {kind} list` shows both.")


def shell_user() -> str:
    """Who typed the command, for `created_by`."""
    try:
        return f"{getpass.getuser()} (shell)"
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "shell"


def moment(at: datetime | None) -> str:
    """For a column 16 wide."""
    return f"{at:%Y-%m-%d %H:%M}" if at else "never"


@contextmanager
def plain_errors() -> Iterator[None]:
    try:
        yield
    except KeyNotLive as error:
        raise CommandError(str(error)) from None
    except ValidationError as error:
        raise CommandError("\n".join(error.messages)) from None
