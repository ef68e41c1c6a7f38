"""The routes of the working copy as their list shows them: what they match, where they lead, which plugins run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from django.db.models import Q, QuerySet

from dashboard.breakdown import Day, last_day, ranked
from gateway.proxy.snapshot import PluginSpec, Scope
from gateway.proxy.table import Settings
from routes.catalogue import registry
from routes.models import PluginSetting, Route, RouteUpstream, Upstream

Sort = Literal["name", "requests", "errors", "priority"]
SORTS: Mapping[str, str] = {
    "name": "Name", "requests": "Most requests", "errors": "Most errors", "priority": "Priority",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filters:
    q: str = ""
    tag: str = ""
    upstream: str = ""
    plugin: str = ""
    enabled: str = ""  # on, off
    sort: str = "name"

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Filters:
        given = {name: query.get(name, "").strip() for name in cls.__dataclass_fields__}
        return cls(**{**given, "sort": given["sort"] if given["sort"] in SORTS else "name"})

    @property
    def narrowed(self) -> bool:
        return any((self.q, self.tag, self.upstream, self.plugin, self.enabled))


@dataclass(frozen=True, slots=True)
class Link:
    """An upstream of a route. `share`: of the route's traffic, 0 to 1; None: it is the only one."""

    upstream: Upstream
    share: float | None


@dataclass(frozen=True, slots=True)
class Row:
    route: Route
    links: list[Link]
    plugins: list[PluginSpec]
    day: Day


def ids(filters: Filters, now: datetime) -> list[int]:
    """Of all routes that fit, in order. One query; two more to filter by plugin, one to sort by traffic."""
    found = list(_routes(filters).values_list("pk", flat=True))
    if filters.plugin:
        running = _running(filters.plugin)
        found = [id_ for id_ in found if id_ in running]
    if filters.sort in ("requests", "errors"):
        by: Literal["requests", "errors"] = "errors" if filters.sort == "errors" else "requests"
        places = {id_: place for place, id_ in enumerate(ranked("route_id", by, now))}
        found.sort(key=lambda id_: places.get(id_, len(places)))
    return found


def rows(page: Sequence[int], now: datetime) -> list[Row]:
    """Of these routes, in this order. Six queries."""
    settings = _settings(Q(route=None) | Q(route__in=page))
    routes = Route.objects.prefetch_related("branches__upstream").in_bulk(page)
    days = last_day("route_id", page, now)
    return [_row(routes[id_], settings, days[id_]) for id_ in page]


def choices() -> dict[str, list[str]]:
    """What can be filtered by. Two queries."""
    tags = {tag for tags in Route.objects.exclude(tags=[]).order_by().values_list("tags", flat=True) for tag in tags}
    return {
        "upstreams": list(Upstream.objects.values_list("name", flat=True)),
        "tags": sorted(tags),
        "plugins": list(registry().names),
    }


def _routes(filters: Filters) -> QuerySet[Route]:
    found = Route.objects.all()
    for word in filters.q.split():
        found = found.filter(
            Q(name__icontains=word) | Q(hosts__icontains=word) | Q(paths__icontains=word) | Q(tags__icontains=word)
        )
    if filters.tag:
        found = found.filter(tags__contains=[filters.tag])
    if filters.upstream:
        found = found.filter(branches__upstream__name=filters.upstream)
    if filters.enabled in ("on", "off"):
        found = found.filter(enabled=filters.enabled == "on")
    return found.order_by("-priority", "name") if filters.sort == "priority" else found.order_by("name")


def _running(plugin: str) -> set[int]:
    """Routes on whose way to any upstream the plugin runs."""
    settings = _settings(Q(name=plugin))
    ways = RouteUpstream.objects.order_by().values_list("route_id", "route__name", "upstream__name")
    return {id_ for id_, route, upstream in ways if settings.applying(route, upstream)}


def _settings(which: Q) -> Settings:
    """Of everybody: what differs by consumer stands on the route's own page."""
    enabled = PluginSetting.objects.filter(which, enabled=True, consumer=None).order_by()
    return Settings(
        (_spec(*values) for values in enabled.values_list("id", "name", "route__name", "upstream__name")),
        registry().names,
    )


def _spec(id_: int, name: str, route: str | None, upstream: str | None) -> PluginSpec:
    scope: Scope = "route" if route else "upstream" if upstream else "global"
    return PluginSpec(id_, name, scope, route or "", upstream or "", 0, None)


def _row(route: Any, settings: Settings, day: Day) -> Row:
    branches = sorted(route.branches.all(), key=lambda branch: (-branch.weight, branch.upstream.name))
    total = sum(branch.weight for branch in branches)
    links = [
        Link(branch.upstream, (branch.weight / total if total else 0.0) if len(branches) > 1 else None)
        for branch in branches
    ]
    return Row(route, links, _plugins(route, (link.upstream.name for link in links), settings), day)


def _plugins(route: Route, upstreams: Iterable[str], settings: Settings) -> list[PluginSpec]:
    found: dict[str, PluginSpec] = {}
    for upstream in upstreams:
        for setting in settings.chosen(settings.applying(route.name, upstream)):
            found.setdefault(setting.name, setting)
    return sorted(found.values(), key=lambda setting: settings.place(setting.name))
