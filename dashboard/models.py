"""Usage: raw rows in daily partitions, and three rollups of them in grains of a minute, an hour and a day.

Ids are plain numbers, not foreign keys: usage outlives the routes and keys it is about. In rollups 0 means none, and
-1 (`fold.ALL`) as route and upstream marks the sum of all: a query wants either those rows or the others. Only the
recorder writes here, with SQL (`dashboard.shipping`, `dashboard.partitions`).
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models


class UsageRow(models.Model):
    """One request; `gateway.proxy.record` says what the columns mean. A partitioned table made by SQL, so unmanaged."""

    id = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField()
    request_id = models.TextField()
    node = models.TextField()
    worker = models.TextField()
    config_version = models.BigIntegerField()
    method = models.TextField()
    host = models.TextField()
    path = models.TextField()
    status = models.SmallIntegerField()
    outcome = models.TextField()
    detail = models.TextField()
    client_ip = models.GenericIPAddressField(null=True)
    route_id = models.BigIntegerField(null=True)
    upstream_id = models.BigIntegerField(null=True)
    target = models.TextField()
    consumer_id = models.BigIntegerField(null=True)
    key_id = models.BigIntegerField(null=True)
    duration_ms = models.FloatField()
    gateway_ms = models.FloatField()
    upstream_ms = models.FloatField(null=True)
    bytes_in = models.BigIntegerField()
    bytes_out = models.BigIntegerField()
    tries = models.SmallIntegerField()
    cache_status = models.TextField()

    class Meta:
        managed = False
        db_table = "usage_row"
        ordering = ["-at", "-id"]
        verbose_name = "request"

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


class UsageSegment(models.Model):
    """A segment file whose rows are in. As long as its file exists, this keeps them from being counted twice."""

    id = models.UUIDField(primary_key=True)
    node = models.TextField()
    rows = models.IntegerField()
    shipped_at = models.DateTimeField()

    class Meta:
        db_table = "usage_segment"
        indexes = [models.Index(fields=["node", "shipped_at"], name="usage_segment_shipped")]


class UsageTraffic(models.Model):
    pk = models.CompositePrimaryKey("grain_s", "start", "route_id", "upstream_id", "status_class", "outcome")
    grain_s = models.IntegerField()
    start = models.DateTimeField()
    route_id = models.BigIntegerField()
    upstream_id = models.BigIntegerField()
    status_class = models.SmallIntegerField()
    outcome = models.TextField()
    requests = models.BigIntegerField()
    retried = models.BigIntegerField()
    cache_hits = models.BigIntegerField()
    bytes_in = models.BigIntegerField()
    bytes_out = models.BigIntegerField()

    class Meta:
        db_table = "usage_traffic"
        indexes = [models.Index(fields=["grain_s", "route_id", "start"], name="usage_traffic_route")]


class UsageLatency(models.Model):
    """Sums, and histograms as sorted [bin, count] pairs (`gateway.proxy.histogram`)."""

    pk = models.CompositePrimaryKey("grain_s", "start", "route_id", "upstream_id")
    grain_s = models.IntegerField()
    start = models.DateTimeField()
    route_id = models.BigIntegerField()
    upstream_id = models.BigIntegerField()
    requests = models.BigIntegerField()
    duration_ms = models.FloatField()
    gateway_ms = models.FloatField()
    upstream_requests = models.BigIntegerField()
    upstream_ms = models.FloatField()
    duration_bins = ArrayField(ArrayField(models.BigIntegerField(), size=2))
    gateway_bins = ArrayField(ArrayField(models.BigIntegerField(), size=2))
    upstream_bins = ArrayField(ArrayField(models.BigIntegerField(), size=2))

    class Meta:
        db_table = "usage_latency"
        indexes = [models.Index(fields=["grain_s", "route_id", "start"], name="usage_latency_route")]


class UsageCalls(models.Model):
    """By who called. No minutes: ten thousand keys make too many of them."""

    pk = models.CompositePrimaryKey("grain_s", "start", "consumer_id", "key_id")
    grain_s = models.IntegerField()
    start = models.DateTimeField()
    consumer_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    requests = models.BigIntegerField()
    client_errors = models.BigIntegerField()
    server_errors = models.BigIntegerField()
    rate_limited = models.BigIntegerField()
    bytes_in = models.BigIntegerField()
    bytes_out = models.BigIntegerField()

    class Meta:
        db_table = "usage_calls"
