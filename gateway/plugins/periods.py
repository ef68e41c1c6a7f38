"""Periods of the calendar (UTC) that quotas are counted in. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

Unit = Literal["day", "month"]


class Period(NamedTuple):
    """Seconds of the epoch; `end_s` is the first moment of the next one."""

    unit: Unit
    start_s: float
    end_s: float

    @property
    def date(self) -> str:
        return moment(self.start_s).strftime("%Y%m%d")


def period(unit: Unit, now_s: float, reset_day: int = 1) -> Period:
    """The one that `now_s` is in. Months begin on `reset_day`, 1 to 28."""
    midnight = moment(now_s).replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "day":
        return Period(unit, midnight.timestamp(), (midnight + timedelta(days=1)).timestamp())
    start = midnight.replace(day=reset_day)
    if start > midnight:
        start = (start.replace(day=1) - timedelta(days=1)).replace(day=reset_day)
    end = (start.replace(day=1) + timedelta(days=32)).replace(day=reset_day)
    return Period(unit, start.timestamp(), end.timestamp())


def moment(now_s: float) -> datetime:
    return datetime.fromtimestamp(now_s, UTC)
