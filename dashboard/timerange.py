"""The range of time a page is about, from its query: `?range=1h` or `?from=…&to=…` (ISO 8601; no zone: UTC). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from dashboard.fold import MINUTE_S
from dashboard.ranges import floor, step_for

#: What the picker offers: name → span and words.
RANGES: dict[str, tuple[timedelta, str]] = {
    "15m": (timedelta(minutes=15), "15 minutes"),
    "1h": (timedelta(hours=1), "hour"),
    "6h": (timedelta(hours=6), "6 hours"),
    "24h": (timedelta(hours=24), "24 hours"),
    "7d": (timedelta(days=7), "7 days"),
    "30d": (timedelta(days=30), "30 days"),
}
DEFAULT = "1h"
LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """`start` lies on a minute. With a `name` of RANGES it ends now; without one both ends are fixed."""

    start: datetime
    end: datetime
    name: str = ""

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    @property
    def step_s(self) -> int:
        """Of a chart of it."""
        return step_for(self.start, self.end)

    @property
    def previous(self) -> TimeRange:
        """As long, and just before: what changes are measured against."""
        return TimeRange(floor(self.start - (self.end - self.start), MINUTE_S), self.start)

    @property
    def words(self) -> str:
        if self.name:
            return f"last {RANGES[self.name][1]}"
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"

    @property
    def query(self) -> str:
        """For links to other pages about the same range."""
        if self.name:
            return urlencode({"range": self.name})
        return urlencode({"from": f"{self.start:%Y-%m-%dT%H:%M}", "to": f"{self.end:%Y-%m-%dT%H:%M}"})


def parse(query: Mapping[str, str], now: datetime) -> TimeRange:
    """What cannot be read counts as not given: a link that lost a letter still opens the page."""
    if query.get("from"):
        first, last = _moment(query["from"]), _moment(query.get("to", "")) or now
        if first is not None and first < last:
            last = min(last, floor(first, MINUTE_S) + LONGEST)
            return TimeRange(floor(first, MINUTE_S), last)
    name = query.get("range", "")
    if name not in RANGES:
        name = DEFAULT
    return TimeRange(floor(now - RANGES[name][0], MINUTE_S), now, name)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
