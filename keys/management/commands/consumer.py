"""`manage.py consumer`: make, list, enable and disable consumers."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Count

from keys import services
from keys.management.people import consumer_named, plain_errors, shell_user, words
from keys.models import Consumer


class Command(BaseCommand):
    help = "Makes, lists, enables and disables consumers."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|enable|disable")
        create = actions.add_parser("create", help="make a consumer")
        create.add_argument("username")
        create.add_argument("--custom-id", default="", help="your own system's id for it")
        create.add_argument("--groups", type=words, default=[], metavar="A,B")
        actions.add_parser("list", help="all consumers")
        for action, effect in (("enable", "let its keys in again"), ("disable", "refuse all its keys, at once")):
            actions.add_parser(action, help=effect).add_argument("username")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        with plain_errors():
            getattr(self, f"_{action}")(**options)

    def _create(self, *, username: str, custom_id: str, groups: list[str], **_: Any) -> None:
        consumer = services.consumer_create(username, custom_id=custom_id, groups=groups, by=shell_user())
        self.stdout.write(f"Consumer {consumer} (id {consumer.pk}). `manage.py key create` gives it a key.")

    def _enable(self, *, username: str, **_: Any) -> None:
        services.consumer_enable(consumer := consumer_named(username), by=shell_user())
        self.stdout.write(f"Enabled {consumer}.")

    def _disable(self, *, username: str, **_: Any) -> None:
        services.consumer_disable(consumer := consumer_named(username), by=shell_user())
        self.stdout.write(f"Disabled {consumer}: its keys are refused.")

    def _list(self, **_: Any) -> None:
        row = "{:>6}  {:<24}  {:<8}  {:>5}  {}"
        self.stdout.write(row.format("id", "username", "state", "keys", "groups"))
        columns = Consumer.objects.values_list("id", "username", "enabled", Count("keys"), "groups")
        for pk, username, enabled, keys, groups in columns:
            state = "enabled" if enabled else "disabled"
            self.stdout.write(row.format(pk, username, state, keys, ", ".join(groups)).rstrip())
