"""One contender in one round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`kb_per_connection` instead of requests for the case that holds connections, `grown_*_mb` for the one that moves
    gigabytes."""

    case: str
    peer: str
    round: int
    rss_mb: float
    rss_largest_mb: float
    errors: int = 0
    requests: int = 0
    requests_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = 0.0
    kb_per_connection: float = 0.0
    grown_down_mb: float | None = None
    grown_up_mb: float | None = None

    def __str__(self) -> str:
        if self.grown_down_mb is not None:
            return f"{self.grown_down_mb:.1f} MB more for a download, {self.grown_up_mb:.1f} MB for an upload"
        if self.kb_per_connection:
            return f"{self.kb_per_connection:.1f} kB per connection"
        errors = f", {self.errors} ERRORS" if self.errors else ""
        return f"{self.cpu_us:.0f} us CPU/request, {self.requests_per_s:.0f}/s, p99 {self.p99_ms:.1f} ms{errors}"
