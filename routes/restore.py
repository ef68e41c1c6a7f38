"""Makes the working copy equal to a document: for a rollback (rows meet by id) and for an import (by name).

Rows that exist keep their id and their date of creation; rows that were deleted come back under the id they had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import connection, models

from keys.models import Consumer
from routes.document import PluginEntry, PluginFields, RouteEntry, RouteFields, setting_key
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.parts import Part
from routes.problems import Problem, pointer
from routes.reading import Reading, read
from routes.upstreams import TargetFields, UpstreamEntry, UpstreamFields

_DEFERRABLE = "upstream_name_unique, target_address_unique, route_name_unique, pluginsetting_scope_unique"


def restore(document: Mapping[str, Any]) -> None:
    """Inside a transaction. The document is sound; ids of 0 are given new ones. Settings of consumers that are gone
    are left out: they apply to nobody.
    """
    reading = read(document)
    with connection.cursor() as cursor:
        cursor.execute(f"SET CONSTRAINTS {_DEFERRABLE} DEFERRED")  # two rows may swap their names
        upstreams = _write_upstreams(list(reading.upstreams.values()))
        routes = _write_routes(list(reading.routes.values()), upstreams)
        _write_settings(list(reading.plugins.values()), routes, upstreams)
        _delete_others(Route, routes.values())
        _delete_others(Upstream, upstreams.values())
        cursor.execute(f"SET CONSTRAINTS {_DEFERRABLE} IMMEDIATE")  # raises here, not at commit


def _write_upstreams(entries: list[UpstreamEntry]) -> dict[str, int]:
    ids = _write([Upstream(id=entry.id or None, **_columns(entry, UpstreamFields)) for entry in entries])
    by_name = {entry.name: pk for entry, pk in zip(entries, ids, strict=True)}
    targets = [
        Target(id=target.id or None, upstream_id=by_name[entry.name], **_columns(target, TargetFields))
        for entry in entries
        for target in entry.targets
    ]
    _delete_others(Target, _write(targets))
    return by_name


def _write_routes(entries: list[RouteEntry], upstreams: Mapping[str, int]) -> dict[str, int]:
    ids = _write([Route(id=entry.id or None, **_columns(entry, RouteFields)) for entry in entries])
    by_name = {entry.name: pk for entry, pk in zip(entries, ids, strict=True)}
    RouteUpstream.objects.all().delete()  # has no identity of its own
    RouteUpstream.objects.bulk_create(
        RouteUpstream(route_id=by_name[entry.name], upstream_id=upstreams[part.name], weight=part.weight)
        for entry in entries
        for part in entry.upstreams
    )
    return by_name


def _write_settings(entries: list[PluginEntry], routes: Mapping[str, int], upstreams: Mapping[str, int]) -> None:
    consumers = set(Consumer.objects.values_list("id", flat=True))
    settings = [
        PluginSetting(
            id=entry.id or None,
            route_id=routes.get(entry.route),
            upstream_id=upstreams.get(entry.upstream),
            consumer_id=entry.consumer_id or None,
            **_columns(entry, PluginFields),
        )
        for entry in entries
        if not entry.consumer_id or entry.consumer_id in consumers
    ]
    _delete_others(PluginSetting, _write(settings))


def _columns(entry: Part, shape: type[Part]) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in shape.model_fields}


def _write(rows: list[Any]) -> list[int]:
    """Insert or update by id, each in one statement; the ids in the order of `rows`."""
    if not rows:
        return []
    model = type(rows[0])
    kept = [field.name for field in model._meta.concrete_fields if field.name not in ("id", "created_at")]
    known = [row for row in rows if row.id]
    model.objects.bulk_create(known, update_conflicts=True, unique_fields=["id"], update_fields=kept)
    model.objects.bulk_create([row for row in rows if not row.id])
    return [row.id for row in rows]


def _delete_others(model: type[models.Model], ids: Iterable[int]) -> None:
    model._default_manager.exclude(pk__in=list(ids)).delete()


# --- meeting by name --------------------------------------------------------------------------------------------------


def identified(document: Any, working: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """A document from outside with the ids of the rows its names stand for, and the problems of its consumers.

    Unsound entries are passed on as they are: `compile` says what is wrong with them.
    """
    if not isinstance(document, Mapping):
        return document, []
    reading = read(document)
    consumers = dict(Consumer.objects.values_list("username", "id"))
    problems = [
        Problem(
            ("plugins", entry.key),
            ("consumer",),
            f"There is no consumer '{entry.consumer}'.",
            pointer(("plugins", index, "consumer")),
        )
        for index, entry in reading.plugins.items()
        if entry.consumer and entry.consumer not in consumers
    ]
    return {**document, **_with_ids(document, reading, working, consumers)}, problems


def _with_ids(
    document: Mapping[str, Any], reading: Reading, working: Mapping[str, Any], consumers: Mapping[str, int]
) -> dict[str, Any]:
    upstreams = {row["name"]: row for row in working["upstreams"]}
    routes = {row["name"]: row["id"] for row in working["routes"]}
    settings = {
        setting_key(row["name"], row["route"], row["upstream"], row["consumer"]): row["id"]
        for row in working["plugins"]
    }
    found: dict[str, Any] = {}
    for section in ("upstreams", "routes", "plugins"):
        entries = document.get(section, [])
        if isinstance(entries, list):
            found[section] = list(entries)
    for index, upstream in reading.upstreams.items():
        row = upstreams.get(upstream.name, {"id": 0, "targets": []})
        addresses = {(target["host"], target["port"]): target["id"] for target in row["targets"]}
        targets = [
            {**target.model_dump(), "id": addresses.get((target.host, target.port), 0)} for target in upstream.targets
        ]
        found["upstreams"][index] = {**upstream.model_dump(), "id": row["id"], "targets": targets}
    for index, route in reading.routes.items():
        found["routes"][index] = {**route.model_dump(), "id": routes.get(route.name, 0)}
    for index, setting in reading.plugins.items():
        found["plugins"][index] = {
            **setting.model_dump(),
            "id": settings.get(setting.key, 0),
            "consumer_id": consumers.get(setting.consumer, 0),
        }
    return found
