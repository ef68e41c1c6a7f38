"""`manage.py config`: the configuration as a file, and its history."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routes import masking, portable, sealing, selectors, services
from routes.management.commands.publish import applied, author
from routes.models import ConfigVersion
from routes.problems import CompileError


class Command(BaseCommand):
    help = "Exports, imports, lists and rolls back the configuration (upstreams, routes and plugin settings)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        export = commands.add_parser("export", help="write it as YAML")
        export.add_argument("file", nargs="?", default="-", help="where to; -: standard output")
        export.add_argument("--masked", action="store_true", help="without plugins' secrets: for eyes, not for backup")
        export.add_argument("--number", type=int, help="a published version instead of the working copy")
        load = commands.add_parser("import", help="replace all of it by a YAML file, in one version")
        load.add_argument("file", nargs="?", default="-", help="where from; -: standard input")
        load.add_argument("--dry-run", action="store_true", help="say what would change, change nothing")
        load.add_argument("--comment", default="", help="why, for the history")
        history = commands.add_parser("history", help="list the published versions, newest first")
        history.add_argument("--limit", type=int, default=20)
        back = commands.add_parser("rollback", help="publish an old version again")
        back.add_argument("number", type=int)
        back.add_argument("--comment", default="", help="why, for the history")
        commands.add_parser("reseal", help="encrypt all secrets anew, after a change of SECRET_KEY")
        for changing in (load, back):
            changing.add_argument("--wait", type=float, default=5.0, metavar="SECONDS", help="for the workers")

    def handle(self, *, command: str, **options: Any) -> None:
        commands: dict[str, Callable[..., None]] = {
            "export": self.config_export,
            "import": self.config_import,
            "history": self.config_history,
            "rollback": self.config_rollback,
            "reseal": self.config_reseal,
        }
        try:
            commands[command](**options)
        except CompileError as error:
            raise CommandError(f"Nothing was changed:\n{error}" if command != "export" else str(error)) from error
        except ConfigVersion.DoesNotExist as error:
            raise CommandError("There is no such version.") from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error

    def config_export(self, *, file: str, number: int | None, masked: bool, **_: Any) -> None:
        document = selectors.working_document() if number is None else selectors.document_of(number)
        text = portable.to_yaml(masking.mask_document(document) if masked else document)
        if file == "-":
            self.stdout.write(text, ending="")
        else:
            Path(file).touch(mode=0o666 if masked else 0o600)  # of a new file; who has made one has said who reads it
            Path(file).write_text(text)

    def config_import(self, *, file: str, dry_run: bool, comment: str, wait: float, **_: Any) -> None:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        comment = comment or ("" if file == "-" else f"Imported from {Path(file).name}.")
        document = portable.from_yaml(text)
        done = services.replace(document, author=author(), source="import", comment=comment, dry_run=dry_run)
        self.stdout.write("\n".join(done.differences) or "nothing differs")
        if done.version is not None:
            self.stdout.write(applied(done.version.number, wait))

    def config_history(self, *, limit: int, **_: Any) -> None:
        for version in ConfigVersion.objects.defer("document")[:limit]:
            live = "*" if version.live else " "
            when = f"{version.created_at:%Y-%m-%d %H:%M:%S}"
            line = f"{live}{version.number:>5}  {when}  {version.author} ({version.source})  {version.comment}"
            self.stdout.write(line.rstrip())

    def config_rollback(self, *, number: int, comment: str, wait: float, **_: Any) -> None:
        version = services.rollback(number, author=author(), comment=comment)
        self.stdout.write(applied(version.number, wait))

    def config_reseal(self, **_: Any) -> None:
        rows = services.reseal()
        self.stdout.write(f"The secrets in {rows} rows are encrypted under the SECRET_KEY of now.")
        if unreadable := [*sealing.unreadable(selectors.working_document())]:
            places = "\n".join("  " + ".".join(map(str, path)) for path in unreadable)
            raise CommandError(f"These were stored under yet another key; write them anew:\n{places}")
