"""Stacked bars as plain SVG: drawn by the server, so the chart is there with the page and without a script. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dashboard.callers import Step

WIDTH, HEIGHT, GAP = 1000.0, 160.0, 0.16
#: From the bottom up: what a Step calls it, its colour, and its words.
PARTS = (
    ("delivered", "c2", "delivered"),
    ("client_errors", "c4", "client errors"),
    ("refused", "p95", "over a limit"),
    ("server_errors", "c5", "server errors"),
)


@dataclass(frozen=True, slots=True)
class Block:
    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    start: datetime
    x: float
    width: float
    total: int
    blocks: tuple[Block, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Label:
    start: datetime
    percent: float


@dataclass(frozen=True, slots=True)
class Bars:
    """`top`: the highest bar's number. `daily`: a bar is a day, else an hour."""

    bars: tuple[Bar, ...]
    top: int
    total: int
    daily: bool

    @property
    def labels(self) -> list[Label]:
        """Some five for the axis; none that would stick out at its end."""
        every, whole = max(1, round(len(self.bars) / 5)), max(1, len(self.bars))
        marked = [Label(bar.start, round(100 * place / whole, 2)) for place, bar in enumerate(self.bars)]
        return [label for label in marked[::every] if label.percent <= 92]


def bars(steps: Sequence[Step]) -> Bars:
    totals = [sum(getattr(step, part) for part, _, _ in PARTS) for step in steps]
    top = max(totals, default=0)
    pitch = WIDTH / max(1, len(steps))
    drawn = tuple(
        Bar(
            step.start,
            x=round(position * pitch + pitch * GAP / 2, 2),
            width=round(pitch * (1 - GAP), 2),
            total=total,
            blocks=_blocks(step, top),
            words=", ".join(f"{getattr(step, part)} {words}" for part, _, words in PARTS if getattr(step, part)),
        )
        for position, (step, total) in enumerate(zip(steps, totals, strict=True))
    )
    daily = len(steps) > 1 and (steps[1].start - steps[0].start).days >= 1
    return Bars(drawn, top, sum(totals), daily)


def _blocks(step: Step, top: int) -> tuple[Block, ...]:
    blocks, floor = [], HEIGHT
    for part, kind, _ in PARTS:
        if number := getattr(step, part):
            height = max(1.0, HEIGHT * number / top)  # one request among a million is seen too
            floor -= height
            blocks.append(Block(kind, round(max(0.0, floor), 2), round(height, 2)))
    return tuple(blocks)
