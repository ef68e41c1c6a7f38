"""What the admin API answers about usage. Times of day are ISO 8601 in UTC; durations are in ms."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class UsageRange(Answer):
    since: datetime
    until: datetime


class UsageTimes(Answer):
    """Of one measure; null if no request had it. Percentiles are right within 5 %."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class UsageSummary(UsageRange):
    """By consumer or key the fields from `retried` on are null, and the range begins with a whole hour."""

    requests: int
    requests_per_s: float
    client_errors: int
    """Answers with a 4xx."""
    server_errors: int
    """Answers with a 5xx, the gateway's own or an upstream's."""
    rate_limited: int
    bytes_in: int
    bytes_out: int
    retried: int | None
    cache_hits: int | None
    by_status_class: dict[str, int] | None
    """`2xx` and so on; `0xx`: the client left before there was an answer."""
    by_outcome: dict[str, int] | None
    duration_ms: UsageTimes | None
    """First byte of the request to last byte of the answer."""
    gateway_ms: UsageTimes | None
    upstream_ms: UsageTimes | None


class UsagePoint(Answer):
    start: datetime
    requests: int
    client_errors: int
    server_errors: int
    rate_limited: int | None
    """null unless by consumer or key."""
    by_status_class: dict[str, int] | None
    """null by consumer or key, as the percentiles are."""
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class UsageSeries(UsageRange):
    step_s: int
    points: list[UsagePoint]
    """Every step of the range, empty ones too; the first begins at or before `since`."""


class UsageShare(Answer):
    id: int | None
    """null for outcomes; 0: none, such as a request without a key."""
    name: str
    """What it is called now: a route's name, a key's prefix, the outcome. Empty: it is gone."""
    requests: int
    client_errors: int
    server_errors: int
    bytes_in: int
    bytes_out: int


class UsageTop(UsageRange):
    by: str
    items: list[UsageShare]


class UsageRow(Answer):
    """One request. docs/usage.md tells of the columns."""

    id: int
    at: datetime
    request_id: str
    explanation: str
    """Why it ended as it did, in plain words."""
    method: str
    host: str
    path: str
    status: int
    outcome: str
    detail: str
    client_ip: str | None
    route_id: int | None
    route: str | None
    """What it is called now, as with the other names; null: none, or gone."""
    upstream_id: int | None
    upstream: str | None
    target: str
    consumer_id: int | None
    consumer: str | None
    key_id: int | None
    key: str | None
    duration_ms: float
    gateway_ms: float
    upstream_ms: float | None
    bytes_in: int
    bytes_out: int
    tries: int
    cache_status: str
    config_version: int
    node: str
    worker: str


class UsageRowPage(Answer):
    items: list[UsageRow]
    next: str | None
    """URL of the next, older page."""
    searched_to: datetime | None
    """Set when looking ended here without filling the page; `next` goes on from there."""
