"""Reads that join, each with a fixed number of queries; and the one row a worker writes about itself."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from gateway.plugins.registry import ConfigProblems, Registry
from routes.document import FORMAT, PluginFields, RouteFields
from routes.models import ConfigVersion, PluginSetting, Route, RouteUpstream, Target, Upstream, WorkerReport
from routes.upstreams import TargetFields, UpstreamFields

#: A worker that has not reported for so long is gone; each reports every few seconds.
WORKER_GONE_S = 15


def working_document() -> dict[str, Any]:
    """The working copy as a document, sound or not. The order is by name and the same in every database."""
    upstreams = {row["id"]: {**row, "targets": []} for row in _values(Upstream.objects, UpstreamFields)}
    for target in _values(Target.objects, TargetFields, "upstream_id"):
        upstreams[target.pop("upstream_id")]["targets"].append(target)
    routes = {row["id"]: {**row, "upstreams": []} for row in _values(Route.objects, RouteFields)}
    for branch in RouteUpstream.objects.order_by().values("route_id", "weight", name=F("upstream__name")):
        routes[branch["route_id"]]["upstreams"].append({"name": branch["name"], "weight": branch["weight"]})
    for upstream in upstreams.values():
        upstream["targets"].sort(key=lambda target: (target["host"], target["port"]))
    for route in routes.values():
        route["upstreams"].sort(key=lambda branch: branch["name"])
    return {
        "format": FORMAT,
        "upstreams": sorted(upstreams.values(), key=lambda row: row["name"]),
        "routes": sorted(routes.values(), key=lambda row: row["name"]),
        "plugins": _plugins(),
    }


def _values(rows: Any, shape: Any, *more: str) -> Any:
    return rows.order_by().values("id", *shape.model_fields, *more)


def _plugins() -> list[dict[str, Any]]:
    names = {"route": "route__name", "upstream": "upstream__name", "consumer": "consumer__username"}
    rows = _values(PluginSetting.objects, PluginFields, "consumer_id", *names.values())
    entries = [
        {
            **{field: row[field] for field in ("id", *PluginFields.model_fields)},
            **{kind: row[column] or "" for kind, column in names.items()},
            "consumer_id": row["consumer_id"] or 0,
        }
        for row in rows
    ]
    return sorted(entries, key=lambda entry: tuple(entry[field] for field in ("name", *names)))


# --- versions ---------------------------------------------------------------------------------------------------------


def live_version() -> tuple[int, str]:
    """(number, digest); (0, "") before anything was published."""
    return ConfigVersion.objects.filter(live=True).values_list("number", "digest").first() or (0, "")


def document_of(number: int) -> dict[str, Any]:
    """Raises ConfigVersion.DoesNotExist."""
    document: dict[str, Any] = ConfigVersion.objects.values_list("document", flat=True).get(number=number)
    return document


def live_document() -> tuple[int, str, dict[str, Any]] | None:
    """(number, digest, document), or None before anything was published."""
    return ConfigVersion.objects.filter(live=True).values_list("number", "digest", "document").first()


def former_weights(target_ids: Collection[int]) -> dict[int, int]:
    """Of drained targets: the weight each had in the newest version in which it had one. Versions remember it, so that
    no row has to. One query; of each target it reads versions only as far back as its draining.
    """
    if not target_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_FORMER_WEIGHTS, [list(target_ids)])
        return {id_: weight for id_, weight in cursor.fetchall() if weight is not None}


_FORMER_WEIGHTS = """
    SELECT target.id, (
        SELECT (found.entry ->> 'weight')::int
        FROM routes_configversion AS version
        CROSS JOIN LATERAL jsonb_path_query(
            version.document, '$.upstreams[*].targets[*] ? (@.id == $id && @.weight > 0)',
            jsonb_build_object('id', target.id)
        ) AS found (entry)
        ORDER BY version.number DESC LIMIT 1
    )
    FROM unnest(%s::bigint[]) AS target (id)
"""


# --- workers ----------------------------------------------------------------------------------------------------------


def report_applied(
    *, node: str, worker: int, pid: int, role: str, number: int, apply_ms: float, error: str = ""
) -> None:
    """One statement, at every change and as a heartbeat: `applied_at` moves only with the version."""
    with connection.cursor() as cursor:
        cursor.execute(_REPORT, [node, worker, pid, role, number, apply_ms, error])


_REPORT = """
    INSERT INTO routes_workerreport AS old
           (node, worker, pid, role, version, apply_ms, error, applied_at, seen_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp(), clock_timestamp())
    ON CONFLICT (node, worker) DO UPDATE SET
        pid = EXCLUDED.pid, role = EXCLUDED.role, version = EXCLUDED.version, apply_ms = EXCLUDED.apply_ms,
        error = EXCLUDED.error, seen_at = EXCLUDED.seen_at,
        applied_at = CASE WHEN (old.version, old.pid) = (EXCLUDED.version, EXCLUDED.pid)
                          THEN old.applied_at ELSE EXCLUDED.applied_at END
"""


def workers() -> QuerySet[WorkerReport]:
    """Those that are alive and serve traffic."""
    return WorkerReport.objects.exclude(role="admin").filter(seen_at__gt=Now() - timedelta(seconds=WORKER_GONE_S))


# --- what leads where -------------------------------------------------------------------------------------------------


def settings_leading_to(upstream: str, registry: Registry) -> list[PluginSetting]:
    """Enabled settings whose config names the upstream. Drafts that do not compile name nothing."""
    found = []
    for setting in PluginSetting.objects.filter(enabled=True).select_related("route", "upstream", "consumer"):
        with suppress(ConfigProblems):
            config = registry.validate(setting.name, setting.config)
            if any(name == upstream for _, name in config.upstreams_named()):
                found.append(setting)
    return found
