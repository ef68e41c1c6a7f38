"""The health of targets, as all nodes report it: one row per node, put together for pages and the admin API.

A node that has not reported for a while says nothing more. Without any report a target is `unknown`: that is what
pages show while nothing serves traffic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models.functions import Now

from gateway.proxy.health import Probed
from gateway.proxy.sightings import Key, Sighting
from routes.models import Target, TargetReport, Upstream
from routes.selectors import WORKER_GONE_S

#: The worst word wins where nodes differ.
_WORST = ("down", "ejected", "draining", "up")


@dataclass(frozen=True, slots=True)
class Health:
    """Of one target. `on`: how many of the `nodes` see the state. `state`: also `disabled` and `unknown`."""

    state: str
    since: datetime | None = None
    on: int = 0
    nodes: int = 0
    failures: int = 0
    in_flight: int = 0
    latency_ms: float | None = None
    fault: str = ""  # the last failure in traffic, of the node that sees most of them
    probe: Probed | None = None  # of the node that sees it worst; the latest of those

    @property
    def probed_at(self) -> datetime | None:
        return datetime.fromtimestamp(self.probe.at_s, UTC) if self.probe and self.probe.at_s else None

    @property
    def kind(self) -> str:
        """For badges: ok, warn, bad or muted."""
        return {"up": "ok", "ejected": "bad", "down": "bad", "draining": "warn", "drained": "warn"}.get(
            self.state, "muted"
        )

    @property
    def blame(self) -> str:
        """What traffic says, and how many nodes agree; for people."""
        said = []
        if self.state in ("down", "ejected") and self.nodes > 1:
            said.append(f"on {self.on} of {self.nodes} nodes")
        if self.failures:
            last = f", last: {self.fault}" if self.fault else ""
            said.append(f"{self.failures} failure{'s' if self.failures > 1 else ''} in a row{last}")
        return ", ".join(said)

    @property
    def words(self) -> str:
        """All that is wrong, in one line."""
        probe = f"probe: {self.probe.fault}" if self.probe and self.probe.fault else ""
        return ", ".join(filter(None, (self.blame, probe)))


def report(node: str, sightings: Iterable[Sighting]) -> None:
    """By a node's recorder. One statement."""
    rows = [asdict(sighting) for sighting in sightings]
    with connection.cursor() as cursor:
        cursor.execute(_REPORT, [node, json.dumps(rows)])


_REPORT = """
    INSERT INTO routes_targetreport (node, targets, seen_at) VALUES (%s, %s, clock_timestamp())
    ON CONFLICT (node) DO UPDATE SET targets = EXCLUDED.targets, seen_at = EXCLUDED.seen_at
"""


class Healths:
    """What is known now: one query when made, none later."""

    def __init__(self) -> None:
        self._seen: dict[Key, list[Sighting]] = {}
        alive = TargetReport.objects.filter(seen_at__gt=Now() - timedelta(seconds=WORKER_GONE_S))
        for rows in alive.order_by("node").values_list("targets", flat=True):
            for row in rows:
                sighting = _sighting(row)
                self._seen.setdefault((sighting.upstream, sighting.address), []).append(sighting)

    def of(self, upstream: Upstream, target: Target) -> Health:
        """What is set here is true at once, also before a node has heard of it."""
        if not target.enabled:
            return Health("disabled")
        return self.at(upstream.name, str(target), target.weight)

    def at(self, upstream: str, address: str, weight: int) -> Health:
        """Of an enabled target."""
        found = together(self._seen.get((upstream, address), []))
        if weight:
            return found if found.state != "draining" else _as(found, "up")
        return _as(found, "draining" if found.in_flight else "drained")


def together(sightings: Sequence[Sighting]) -> Health:
    """Of one target, seen by several nodes. Pure."""
    if not sightings:
        return Health("unknown")
    state = min((one.state for one in sightings), key=_WORST.index)
    agreeing = [one for one in sightings if one.state == state]
    latencies = [one.latency_ms for one in sightings if one.latency_ms is not None]
    since_s = max(one.since_s for one in agreeing)
    probes = [one.probe for one in agreeing if one.probe is not None]
    return Health(
        state,
        datetime.fromtimestamp(since_s, UTC) if since_s else None,
        on=len(agreeing),
        nodes=len(sightings),
        failures=max(one.failures for one in sightings),
        fault=max(sightings, key=lambda one: one.failures).fault,
        in_flight=sum(one.in_flight for one in sightings),
        latency_ms=round(sum(latencies) / len(latencies), 2) if latencies else None,
        probe=max(probes, key=lambda probe: probe.at_s, default=None),
    )


def _as(health: Health, state: str) -> Health:
    return replace(health, state=state, since=None, on=0)


def _sighting(row: dict[str, Any]) -> Sighting:
    return Sighting(**{**row, "probe": Probed(**row["probe"]) if row["probe"] else None})
