"""`manage.py plugin`: a new plugin of your own, and what there is."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gateway.plugins import skeleton
from gateway.plugins.registry import Registry


class Command(BaseCommand):
    help = "Makes plugins of your own, and lists all that are known."
    requires_system_checks: list[str] = []  # a plugin that does not load is what this is for

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        new = commands.add_parser("new", help="write a plugin that works, with its test and page")
        new.add_argument("name", help="such as office-hours")
        new.add_argument("--dir", type=Path, help="where to; left out: GATEWAY_PLUGIN_DIR")
        commands.add_parser("list", help="list plugins in the order they run")

    def handle(self, *, command: str, **options: Any) -> None:
        if command == "new":
            self.plugin_new(**options)
        else:
            self.plugin_list()

    def plugin_new(self, *, name: str, dir: Path | None, **_: Any) -> None:  # noqa: A002 - the option's name
        directory = dir or settings.ENVIRONMENT.plugin_dir
        if directory is None:
            raise CommandError("Say where to: set GATEWAY_PLUGIN_DIR, or give --dir plugins.")
        try:
            files = {directory / path: text for path, text in skeleton.files(name).items()}
        except ValueError as error:
            raise CommandError(str(error)) from error
        if there := [str(file) for file in files if file.exists()]:
            raise CommandError(f"Nothing was written: there is {', '.join(there)} already.")
        registry, _problems = Registry.load_sound(settings.ENVIRONMENT.plugins, settings.ENVIRONMENT.plugin_dir)
        if name in registry:
            raise CommandError(f"Nothing was written: there is a plugin '{name}' already.")
        try:
            for file, text in files.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                self.stdout.write(str(file))
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error
        test = directory / "tests" / f"test_{name.replace('-', '_')}.py"
        self.stderr.write(f"Its test: python -m pytest {test}")
        if settings.ENVIRONMENT.plugin_dir is None:
            self.stderr.write(f"To use it: GATEWAY_PLUGIN_DIR={directory.resolve()}")

    def plugin_list(self) -> None:
        registry, problems = Registry.load_sound(settings.ENVIRONMENT.plugins, settings.ENVIRONMENT.plugin_dir)
        width = max((len(name) for name in registry), default=0)
        for name, kind in registry.items():
            phases = ", ".join(kind.hooks())
            self.stdout.write(f"{name.ljust(width)}  {phases.ljust(28)}  {kind.__module__}")
        if problems:
            raise CommandError("Not to be used:\n" + "\n".join(problems))
