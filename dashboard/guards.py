"""Circuits and ceilings of upstreams, as the workers keep them: each for itself, asked for when somebody looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dashboard.rollcall import RedisAway, ask

#: Pages and `/status` do not wait longer than this for a worker that hangs.
WAIT_S = 0.25
_WORST = ("open", "half-open", "closed")


@dataclass(slots=True)
class GuardState:
    """Of one upstream, by all `workers` that have used it. `circuit`: the worst of them; None: it has no breaker."""

    circuit: str | None = None
    workers: int = 0
    workers_open: int = 0
    under_way: int = 0
    waiting: int = 0
    #: For how long the circuit is what it is, where it has been so longest; None: since the start.
    circuit_for_s: float | None = None

    @property
    def kind(self) -> str:
        """For badges."""
        return {"open": "bad", "half-open": "warn", "closed": "ok"}.get(self.circuit or "", "muted")

    @property
    def words(self) -> str:
        if not self.workers_open or self.workers == 1:
            return ""
        return f"in {self.workers_open} of {self.workers} workers"

    def add(self, shown: dict[str, Any]) -> None:
        """What one worker says."""
        self.workers += 1
        self.under_way += shown["under_way"]
        self.waiting += shown["waiting"]
        circuit = shown["circuit"]
        if circuit is None:
            return
        self.workers_open += circuit != "closed"
        if self.circuit is None or _WORST.index(circuit) < _WORST.index(self.circuit):
            self.circuit, self.circuit_for_s = circuit, shown["circuit_for_s"]
        elif circuit == self.circuit:
            self.circuit_for_s = max(self.circuit_for_s or 0.0, shown["circuit_for_s"] or 0.0) or None


def guarded() -> dict[str, GuardState]:
    """By the upstream's name. Empty while nobody can be asked: that is said elsewhere."""
    found: dict[str, GuardState] = {}
    try:
        answers = ask("guards", {}, wait_s=WAIT_S)
    except RedisAway:
        return found
    for answer in answers:
        for shown in answer.said:
            found.setdefault(shown["upstream"], GuardState()).add(shown)
    return found
