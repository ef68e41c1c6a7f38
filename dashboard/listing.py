"""The routes of the working copy as their list shows them: what they match, where they lead, which plugins run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from django.db.models import Q, QuerySet

from dashboard.breakdown import Day, ranked
from gateway.proxy.snapshot import PluginSpec, Scope
from gateway.proxy.table import Settings
from routes.catalogue import registry
from routes.models import PluginSetting, Route, Upstream

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


@dataclass(slots=True)
class Row:
    route: Route
    links: list[Link]
    plugins: list[PluginSpec]
    day: Day = field(default_factory=Day)


def rows(filters: Filters, now: datetime) -> list[Row]:
    """All that fit, in order, without their day. Three queries, four when sorted by traffic."""
    settings = _settings()
    found = [_row(route, settings) for route in _routes(filters).prefetch_related("branches__upstream")]
    if filters.plugin:
        found = [row for row in found if filters.plugin in {setting.name for setting in row.plugins}]
    if filters.sort in ("requests", "errors"):
        by: Literal["requests", "errors"] = "errors" if filters.sort == "errors" else "requests"
        places = {id_: place for place, id_ in enumerate(ranked("route_id", by, now))}
        found.sort(key=lambda row: places.get(row.route.pk, len(places)))
    return found


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


def _settings() -> Settings:
    """Of everybody: what differs by consumer stands on the route's own page."""
    enabled = PluginSetting.objects.filter(enabled=True, consumer=None).order_by()
    return Settings(
        (_spec(*values) for values in enabled.values_list("id", "name", "route__name", "upstream__name")),
        registry().names,
    )


def _spec(id_: int, name: str, route: str | None, upstream: str | None) -> PluginSpec:
    scope: Scope = "route" if route else "upstream" if upstream else "global"
    return PluginSpec(id_, name, scope, route or "", upstream or "", 0, None)


def _row(route: Any, settings: Settings) -> Row:
    branches = sorted(route.branches.all(), key=lambda branch: (-branch.weight, branch.upstream.name))
    total = sum(branch.weight for branch in branches)
    links = [
        Link(branch.upstream, (branch.weight / total if total else 0.0) if len(branches) > 1 else None)
        for branch in branches
    ]
    return Row(route, links, _plugins(route, (link.upstream.name for link in links), settings))


def _plugins(route: Route, upstreams: Iterable[str], settings: Settings) -> list[PluginSpec]:
    found: dict[str, PluginSpec] = {}
    for upstream in upstreams:
        for setting in settings.chosen(settings.applying(route.name, upstream)):
            found.setdefault(setting.name, setting)
    return sorted(found.values(), key=lambda setting: settings.place(setting.name))
