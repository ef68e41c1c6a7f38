"""`manage.py key`: make, list, rotate and revoke API keys. Only a new secret goes to standard output."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from keys import services
from keys.management.people import consumer_named, key_called, moment, plain_errors, shell_user, span, words
from keys.models import ApiKey, Consumer


class Command(BaseCommand):
    help = "Makes, lists, rotates and revokes API keys."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|rotate|revoke")
        quiet = CommandParser(add_help=False)
        quiet.add_argument("--quiet", action="store_true", help="print nothing but the secret")

        create = actions.add_parser("create", parents=[quiet], help="make a key; its secret is printed once")
        create.add_argument("--consumer", required=True, metavar="NAME")
        create.add_argument("--create-consumer", action="store_true", help="make the consumer if there is none")
        create.add_argument("--groups", type=words, metavar="A,B", help="with --create-consumer: its groups")
        create.add_argument("--name", default="", help="what the key is for")
        create.add_argument("--scopes", type=words, default=[], metavar="A,B")
        create.add_argument("--expires", type=span, metavar="30d", help="when it ends; without this, never")

        show = actions.add_parser("list", help="all keys, without secrets")
        show.add_argument("--consumer", metavar="NAME")

        rotate = actions.add_parser("rotate", parents=[quiet], help="make a successor; the old key ends later")
        rotate.add_argument("key", metavar="PREFIX|ID")
        rotate.add_argument("--overlap", type=span, default=timedelta(days=1), metavar="1h", help="default: 1d")

        revoke = actions.add_parser("revoke", help="refuse a key from now on, for good")
        revoke.add_argument("key", metavar="PREFIX|ID")
        revoke.add_argument("--reason", default="")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        with plain_errors():
            getattr(self, f"_{action}")(**options)

    @transaction.atomic
    def _create(
        self, *, consumer: str, create_consumer: bool, groups: list[str] | None, quiet: bool, **options: Any
    ) -> None:
        missing = not Consumer.objects.filter(username__iexact=consumer).exists()
        if groups and not (create_consumer and missing):
            raise CommandError("--groups is for a new consumer: use it with --create-consumer.")
        who = services.consumer_create(consumer, groups=groups or []) if create_consumer and missing else None
        expires_at = None if options["expires"] is None else timezone.now() + options["expires"]
        key, secret = services.key_create(
            who or consumer_named(consumer),
            name=options["name"],
            scopes=options["scopes"],
            expires_at=expires_at,
            by=shell_user(),
        )
        self._tell(key, secret, quiet)

    def _rotate(self, *, key: str, overlap: timedelta, quiet: bool, **_: Any) -> None:
        old = key_called(key)
        new, secret = services.key_rotate(old, overlap=overlap, by=shell_user())
        self._tell(new, secret, quiet)
        if not quiet:
            old.refresh_from_db()
            self.stderr.write(f"The old key {old} ends {old.expires_at:%Y-%m-%d %H:%M:%S} UTC.")

    def _revoke(self, *, key: str, reason: str, **_: Any) -> None:
        revoked = services.key_revoke(key_called(key), by=shell_user(), reason=reason)
        self.stdout.write(f"Revoked {revoked} of {revoked.consumer} (id {revoked.pk}).")

    def _list(self, *, consumer: str | None, **_: Any) -> None:
        keys = ApiKey.objects.select_related("consumer").order_by("consumer__username", "-created_at")
        if consumer:
            keys = keys.filter(consumer=consumer_named(consumer))
        row = "{:>6}  {:<16}  {:<8}  {:<20}  {:<17}  {:<17}  {}"
        self.stdout.write(row.format("id", "prefix", "state", "consumer", "expires", "last used", "name"))
        for key in keys.iterator():
            times = [moment(key.expires_at), moment(key.last_used_at)]
            line = row.format(key.pk, key.prefix, key.state, key.consumer.username, *times, key.name)
            self.stdout.write(line.rstrip())

    def _tell(self, key: ApiKey, secret: str, quiet: bool) -> None:
        if not quiet:
            until = f"until {key.expires_at:%Y-%m-%d %H:%M:%S} UTC" if key.expires_at else "without an end"
            self.stderr.write(f"Key {key.pk} for {key.consumer}, {until}. Shown once, keep it now:")
        self.stdout.write(secret)
