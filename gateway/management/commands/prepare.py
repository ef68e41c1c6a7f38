"""`manage.py prepare`: what must stand in the database before a node serves. Safe to repeat, on several nodes at once.

`up` runs it at every start; elsewhere it is the release step before `serve`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection

from gateway import demo
from gateway.management.story import Story

LOCK = 0x48594452  # "HYDR": any number that nobody else in this database locks


class Command(BaseCommand):
    help = "Migrates the database, makes the user `admin` if there is no superuser, and loads the demo if asked."
    requires_system_checks: list[str] = []  # unfold's ask the database, so they come after the migrations

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--demo-port", type=int, metavar="PORT", help="load the demo; its upstream listens there")

    def handle(self, *args: Any, demo_port: int | None, **options: Any) -> None:
        story = Story()
        try:
            with one_at_a_time():
                with story.doing("Database migrated"):
                    call_command("migrate", interactive=False, verbosity=0)
                self.check()
                if not get_user_model().objects.filter(is_superuser=True).exists():
                    with story.doing("User admin made"):
                        make_admin()
                if demo_port is not None:
                    loaded = demo.load(settings.PLACES, demo_port)
                    story.step("Demo loaded" if loaded else "No demo: there is a configuration already", 0)
        except OperationalError as error:
            raise CommandError(f"PostgreSQL cannot be used: {error}") from None
        try:
            redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1).ping()
        except redis.RedisError as error:
            story.say(f"Valkey does not answer, so limits do what their on_error says: {error}", "yellow")


def make_admin() -> None:
    """With a password of its own, kept in `secrets/admin-password` first: a user nobody can be is worse than none."""
    places = settings.PLACES
    places.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_urlsafe(15)
    places.secret_write("admin-password", password)
    get_user_model().objects.create_superuser("admin", password=password)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Nodes that start together migrate one after another. The lock ends with the connection at the latest."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
