"""What `up` tells the person at the terminal: one line per step with its time, plain text when piped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


class Story:
    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        unicode = self.console.encoding.lower().startswith("utf")
        self._done, self._doing = ("✓", "…") if unicode else ("+", "-")

    def step(self, what: str, seconds: float) -> None:
        """A step that is done."""
        line = Text.assemble("  ", (self._done, "green"), f" {what}")
        if seconds >= 0.05:
            line.append(f"  {seconds:.1f} s", "dim")
        self._line(line)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """A step while it is done; on a terminal it is named at once. One that fails leaves no line."""
        if self.console.is_terminal:
            self._line(Text.assemble("  ", (self._doing, "yellow"), f" {what}"), end="\r")
        began_s = time.monotonic()
        yield
        self.step(what, time.monotonic() - began_s)

    def say(self, text: str = "", style: str = "") -> None:
        self._line(Text(f"  {text}" if text else "", style))

    def facts(self, rows: list[tuple[str, str, str]]) -> None:
        """Label, value, remark. Never wrapped or cut: addresses and commands get copied."""
        width = max(len(label) for label, _, _ in rows)
        for label, value, remark in rows:
            line = Text.assemble("  ", (label.ljust(width + 2), "dim"), (value, "bold"))
            if remark:
                line.append(f"  {remark}", "dim")
            self._line(line)

    def _line(self, text: Text, end: str = "\n") -> None:
        self.console.print(text, end=end, soft_wrap=True)
