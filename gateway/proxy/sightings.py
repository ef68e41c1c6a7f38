"""What a node knows of its targets: its workers' reports and its prober's results put together. Pure.

Report, one per worker and target ──┐
Probed, one per target ─────────────┴──► Sighting, one per target of the configuration
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.proxy.health import Probed, State, state_of
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec

Key = tuple[str, str]  # upstream's name, target's address


@dataclass(frozen=True, slots=True)
class Report:
    """Of one worker. `since_s`: since the epoch, 0 where nothing changed yet. `latency_ms` None: no good answer yet."""

    upstream: str
    address: str
    in_flight: int
    latency_ms: float | None
    failures: int  # in a row
    ejected: bool
    since_s: float
    fault: str = ""  # the last failure, for people


@dataclass(frozen=True, slots=True)
class Sighting:
    """`in_flight` is the sum of the workers, `latency_ms` their mean, `failures` the worst of them."""

    upstream: str
    address: str
    state: State
    since_s: float  # since the epoch; 0: since the node started, or before
    ejected_by: int  # so many workers
    failures: int
    in_flight: int
    latency_ms: float | None
    probe: Probed | None  # None: not probed, or not yet
    fault: str = ""  # the last failure in traffic, for people; of a worker that sees most

    @property
    def takes_traffic(self) -> bool:
        return self.state == "up"


def sightings(
    upstreams: Iterable[UpstreamSpec], reports: Iterable[Report], probes: Mapping[Key, Probed]
) -> list[Sighting]:
    """In the order of the configuration."""
    by_key: dict[Key, list[Report]] = {}
    for report in reports:
        by_key.setdefault((report.upstream, report.address), []).append(report)
    found = []
    for upstream in upstreams:
        for target in upstream.targets:
            key = upstream.name, target.address
            found.append(_sighting(key, target, by_key.get(key, []), probes.get(key)))
    return found


def _sighting(key: Key, target: TargetSpec, reports: list[Report], probe: Probed | None) -> Sighting:
    ejecting = [report for report in reports if report.ejected]
    state = state_of(target.weight, probe is None or probe.up, bool(ejecting))
    latencies = [report.latency_ms for report in reports if report.latency_ms is not None]
    return Sighting(
        *key,
        state=state,
        since_s=_since_s(state, reports, ejecting, probe),
        ejected_by=len(ejecting),
        failures=max((report.failures for report in reports), default=0),
        in_flight=sum(report.in_flight for report in reports),
        latency_ms=round(sum(latencies) / len(latencies), 2) if latencies else None,
        probe=probe,
        fault=max(reports, key=lambda report: (report.ejected, report.failures)).fault if reports else "",
    )


def _since_s(state: State, reports: list[Report], ejecting: list[Report], probe: Probed | None) -> float:
    """When the last of those who see it so began to."""
    match state:
        case "down":
            return probe.since_s if probe else 0.0
        case "ejected":
            return min(report.since_s for report in ejecting)
        case "up":
            return max([probe.since_s if probe else 0.0, *(report.since_s for report in reports)])
    return 0.0
