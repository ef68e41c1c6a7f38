from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from gateway.environment import ROOT
from gateway.reference import PAGES


class Command(BaseCommand):
    help = "Write the reference pages in docs/ that are made from code. A test fails when they are out of date."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        for name, page in PAGES.items():
            (ROOT / "docs" / name).write_text(page())
            self.stdout.write(f"docs/{name}")
