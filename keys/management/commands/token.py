"""`manage.py token`: make, list and revoke tokens of the admin API. Only a new secret goes to standard output."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from keys import services
from keys.management.people import moment, plain_errors, shell_user, span, token_called, user_named, words
from keys.models import TOKEN_SCOPES, AdminToken


class Command(BaseCommand):
    help = "Makes, lists and revokes tokens of the admin API."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
        create = actions.add_parser("create", help="make a token; its secret is printed once")
        create.add_argument("--user", required=True, metavar="NAME", help="whose permissions it has")
        create.add_argument("--name", default="made in the shell", help="what the token is for")
        create.add_argument("--scopes", type=words, default=["read"], metavar="A,B", help=", ".join(TOKEN_SCOPES))
        create.add_argument("--expires", type=span, metavar="90d", help="when it ends; without this, never")
        create.add_argument("--quiet", action="store_true", help="print nothing but the secret")

        show = actions.add_parser("list", help="all tokens, without secrets")
        show.add_argument("--user", metavar="NAME")

        revoke = actions.add_parser("revoke", help="refuse a token from now on, for good")
        revoke.add_argument("token", metavar="PREFIX|ID")
        revoke.add_argument("--reason", default="")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        with plain_errors():
            getattr(self, f"_{action}")(**options)

    def _create(
        self, *, user: str, name: str, scopes: list[str], expires: timedelta | None, quiet: bool, **_: Any
    ) -> None:
        owner = user_named(user)
        expires_at = None if expires is None else timezone.now() + expires
        token, secret = services.token_create(owner, name=name, scopes=scopes, expires_at=expires_at, by=shell_user())
        if not quiet:
            until = f"until {expires_at:%Y-%m-%d %H:%M:%S} UTC" if expires_at else "without an end"
            self.stderr.write(f"Token {token.pk} for {owner} ({', '.join(scopes)}), {until}. Shown once, keep it now:")
        self.stdout.write(secret)

    def _revoke(self, *, token: str, reason: str, **_: Any) -> None:
        revoked = services.token_revoke(token_called(token), by=shell_user(), reason=reason)
        self.stdout.write(f"Revoked {revoked} of {revoked.user} (id {revoked.pk}).")

    def _list(self, *, user: str | None, **_: Any) -> None:
        tokens = AdminToken.objects.select_related("user").order_by("user__username", "-created_at")
        if user:
            tokens = tokens.filter(user=user_named(user))
        row = "{:>6}  {:<9}  {:<8}  {:<16}  {:<16}  {:<16}  {:<16}  {}"
        self.stdout.write(row.format("id", "prefix", "state", "user", "scopes", "expires", "last used", "name"))
        for token in tokens.iterator():
            times = [moment(token.expires_at), moment(token.last_used_at)]
            owner, scopes = token.user.get_username(), ",".join(token.scopes)
            line = row.format(token.pk, token.prefix, token.state, owner, scopes, *times, token.name)
            self.stdout.write(line.rstrip())
