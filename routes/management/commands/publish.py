"""`manage.py publish`: make the working copy live and wait until the workers serve it."""

from __future__ import annotations

from argparse import ArgumentParser
from getpass import getuser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routes import services
from routes.problems import CompileError


class Command(BaseCommand):
    help = "Publishes the working copy, or names every problem that it has."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--comment", default="", help="why, for the history")
        parser.add_argument("--wait", type=float, default=5.0, metavar="SECONDS", help="for the workers (default: 5)")

    def handle(self, *, comment: str, wait: float, **_: Any) -> None:
        try:
            version = services.publish(author=author(), source="command", comment=comment)
        except CompileError as error:
            raise CommandError(f"Nothing was published:\n{error}") from error
        self.stdout.write(applied(version.number, wait))


def author() -> str:
    """Who types: the account's name, or its number where it has none."""
    try:
        return getuser()
    except (KeyError, OSError):
        return "command line"


def applied(number: int, wait_s: float) -> str:
    report = services.wait_applied(number, wait_s)
    return "\n".join([f"version {number} {report}", *report.errors])
