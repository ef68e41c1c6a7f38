"""The figures of one route or upstream over a range, as `parts/figures.html` shows and `figures.js` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboard import selectors
from dashboard.overview import MARKS_MAX, spans_of
from dashboard.timerange import TimeRange
from routes.models import ConfigVersion


def figures(range_: TimeRange, **of: int) -> dict[str, Any]:
    """`of`: `route_id` or `upstream_id`. Six queries."""
    summary = selectors.summary(range_.start, range_.end, **of)
    points = selectors.series(range_.start, range_.end, step_s=range_.step_s, **of)
    return {
        "summary": summary,
        "error_share": summary.errors / summary.requests if summary.requests else None,
        "charts": _charts(points, range_),
    }


def _charts(points: Sequence[selectors.Point], range_: TimeRange) -> dict[str, Any]:
    """Rates in requests per second, times in ms, moments in seconds since the epoch; columns are half the bytes."""
    spans = list(zip(points, spans_of(points, range_), strict=True))
    versions = ConfigVersion.objects.filter(created_at__gte=range_.start, created_at__lt=range_.end).defer("document")
    return {
        "starts": [int(point.start.timestamp()) for point in points],
        "step_s": range_.step_s,
        "classes": {
            name: [round(float(point.by_status_class.get(name, 0)) / span, 4) for point, span in spans]
            for name in (2, 3, 4, 5)
        },
        "latency": {name: [getattr(point, name) for point in points] for name in ("p50", "p95", "p99")},
        "versions": [_mark(version) for version in versions[:MARKS_MAX]],
    }


def _mark(version: ConfigVersion) -> dict[str, Any]:
    at = int(version.created_at.timestamp())
    return {"at": at, "number": version.number, "author": version.author, "comment": version.comment[:120]}
