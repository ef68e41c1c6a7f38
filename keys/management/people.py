"""What the commands share: words for people in, words for people out."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from keys.models import ApiKey, Consumer
from keys.services import KeyNotLive

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


def key_called(word: str) -> ApiKey:
    """By id or by prefix; a whole key is refused, for it would now stand in the shell's history."""
    match = {"pk": int(word)} if word.isdecimal() else {"prefix": word.rstrip("….")}
    found = list(ApiKey.objects.select_related("consumer").filter(**match)[:10])
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{key.pk} ({key.consumer})" for key in found)
        raise CommandError(f"Several keys begin with '{word}'. Name one by its id: {ids}.")
    raise CommandError("There is no such key. Name it by its id or prefix; `manage.py key list` shows both.")


@contextmanager
def plain_errors() -> Iterator[None]:
    try:
        yield
    except KeyNotLive as error:
        raise CommandError(str(error)) from None
    except ValidationError as error:
        raise CommandError("\n".join(error.messages)) from None
