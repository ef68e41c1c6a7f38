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
from django.utils.timezone import now

from gateway.proxy.discovery import Discovered, from_row, row_of
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Key, Sighting
from gateway.proxy.snapshot import TargetSpec
from routes.models import Target, TargetReport, Upstream
from routes.selectors import WORKER_GONE_S

#: The worst word wins where nodes differ.
_WORST = ("down", "ejected", "draining", "up")
_WORST_DISCOVERY = ("failed", "stale", "waiting", "fresh")


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


@dataclass(frozen=True, slots=True)
class Found:
    """A target that discovery found."""

    host: str
    port: int
    address: str
    weight: int
    priority: int
    health: Health


@dataclass(frozen=True, slots=True)
class DiscoveryHealth:
    """Of one upstream, by the node that sees it worst. `state`: also `unknown`, where no node reports."""

    kind: str
    source: str
    state: str
    error: str = ""
    refreshed_at: datetime | None = None
    nodes: int = 0
    targets: tuple[Found, ...] = ()

    @property
    def badge(self) -> str:
        return {"fresh": "ok", "stale": "warn", "failed": "bad"}.get(self.state, "muted")

    @property
    def words(self) -> str:
        """In one line."""
        ago = f", refreshed {(now() - self.refreshed_at).total_seconds():.0f} s ago" if self.refreshed_at else ""
        wrong = f"; {self.state}: {self.error}" if self.error else ""
        return f"discovered from {self.source}{ago}{wrong or '.'}"


def report(node: str, sightings: Iterable[Sighting], discovered: Iterable[Discovered] = ()) -> None:
    """By a node's recorder. One statement."""
    rows = [asdict(sighting) for sighting in sightings]
    with connection.cursor() as cursor:
        cursor.execute(_REPORT, [node, json.dumps(rows), json.dumps([row_of(one) for one in discovered])])


_REPORT = """
    INSERT INTO routes_targetreport (node, targets, discovered, seen_at) VALUES (%s, %s, %s, clock_timestamp())
    ON CONFLICT (node) DO UPDATE
    SET targets = EXCLUDED.targets, discovered = EXCLUDED.discovered, seen_at = EXCLUDED.seen_at
"""


class Healths:
    """What is known now: one query when made, none later."""

    def __init__(self) -> None:
        self._seen: dict[Key, list[Sighting]] = {}
        self._discovered: dict[str, list[Discovered]] = {}
        alive = TargetReport.objects.filter(seen_at__gt=Now() - timedelta(seconds=WORKER_GONE_S))
        for rows, discovered in alive.order_by("node").values_list("targets", "discovered"):
            for one in map(from_row, discovered):
                self._discovered.setdefault(one.upstream, []).append(one)
            for row in rows:
                sighting = _sighting(row)
                self._seen.setdefault((sighting.upstream, sighting.address), []).append(sighting)

    def of(self, upstream: Upstream, target: Target) -> Health:
        """What is set here is true at once, also before a node has heard of it."""
        if not target.enabled:
            return Health("disabled")
        return self.at(upstream.name, str(target), target.weight)

    def discovery(self, upstream: Upstream) -> DiscoveryHealth | None:
        """None: it has none."""
        if upstream.discovery == upstream.Discovery.NONE:
            return None
        seen = [one for one in self._discovered.get(upstream.name, []) if one.kind == upstream.discovery]
        if not seen:
            return DiscoveryHealth(upstream.discovery, upstream.discovery_url or upstream.discovery_name, "unknown")
        worst = min(seen, key=lambda one: _WORST_DISCOVERY.index(one.state))
        named = dict.fromkeys(target for one in seen for target in one.targets)
        specs = [TargetSpec(0, *target) for target in named]
        found = [
            Found(
                one.host,
                one.port,
                one.address,
                one.weight,
                one.priority,
                self.at(upstream.name, one.address, one.weight),
            )
            for one in specs
        ]
        refreshed_at = datetime.fromtimestamp(worst.refreshed_s, UTC) if worst.refreshed_s else None
        return DiscoveryHealth(
            worst.kind, worst.source, worst.state, worst.error, refreshed_at, len(seen), tuple(found)
        )

    def targets(self, upstream: Upstream) -> list[Target]:
        """The configured ones, then those that discovery found: rows that are in no table."""
        own = list(upstream.targets.all())
        taken = {str(target) for target in own}
        discovery = self.discovery(upstream)
        found = [
            Target(upstream=upstream, host=one.host, port=one.port, weight=one.weight)
            for one in (discovery.targets if discovery else ())
        ]
        return [*own, *(target for target in found if str(target) not in taken)]

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
