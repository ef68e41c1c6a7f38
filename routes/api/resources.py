"""The rows of the working copy as resources: how each is found, shown, checked against what is there, and written.

Call `check` and `write` inside `services.change`: nobody else writes there, so what was checked stays true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from django.db.models import Model, Prefetch, Q, QuerySet
from rest_framework.exceptions import NotFound

from gateway.api.lists import Filter, Listing
from keys.models import Consumer
from routes import masking, selectors
from routes.api.shapes import RouteWrite, SettingWrite, TargetWrite, UpstreamWrite, writable
from routes.catalogue import fence, references, registry
from routes.compile import config_problems, discovery_problems, tls_problems
from routes.document import PluginFields, RouteFields
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.parts import Part
from routes.problems import Path
from routes.upstreams import TargetFields, UpstreamFields

R = TypeVar("R", bound=Model)
Found = Iterator[tuple[Path, str]]

_TAG = Filter("tag", "tags__contains", listed=True, description="With this tag.")
_ENABLED = Filter("enabled", kind="boolean", description="Only enabled, or only disabled ones.")
_TIMES = ("created_at", "updated_at")


class Names:
    """Ids by name, read once for all writes of a request and kept up with them."""

    @cached_property
    def upstreams(self) -> dict[str, int]:
        return dict(Upstream.objects.values_list("name", "id"))

    @cached_property
    def routes(self) -> dict[str, int]:
        return dict(Route.objects.values_list("name", "id"))

    @cached_property
    def consumers(self) -> dict[str, int]:
        return dict(Consumer.objects.values_list("username", "id"))

    @cached_property
    def settings(self) -> dict[tuple[Any, ...], int]:
        rows = PluginSetting.objects.values_list("name", "route_id", "upstream_id", "consumer_id", "id")
        return {row[:4]: row[4] for row in rows}


class Resource(Generic[R]):
    kind: ClassVar[str]
    model: ClassVar[type[Model]]
    shape: ClassVar[type[Part]]  # what may be written
    listing: ClassVar[Listing]

    def rows(self) -> QuerySet[R]:
        """With all that `represent` shows: the number of queries does not grow with the rows."""
        raise NotImplementedError

    def find(self, ref: str) -> R:
        """By name, else by id. Raises NotFound."""
        wanted = Q(name=ref)
        if is_id(ref):
            wanted |= Q(pk=int(ref))
        found = sorted(self.rows().filter(wanted), key=lambda row: row.name != ref)  # type: ignore[attr-defined]
        if not found:
            raise NotFound(f"There is no {self.model._meta.verbose_name} '{ref}'.")
        return found[0]

    def represent(self, row: R) -> dict[str, Any]:
        raise NotImplementedError

    def writable(self, row: R) -> dict[str, Any]:
        """The row as a request would write it."""
        shown: dict[str, Any] = writable(self.represent(row))
        return shown

    def faults(self, entry: Any, row: R | None) -> Found:
        """What is wrong with it by itself, beyond its shape."""
        return iter(())

    def conflicts(self, entry: Any, row: R | None, names: Names) -> Found:
        """What does not fit the rest."""
        return iter(())

    def write(self, entry: Any, row: R | None, names: Names) -> R:
        raise NotImplementedError

    def blocked(self, row: R) -> str:
        """Why it cannot be deleted, or ""."""
        return ""

    def forget(self, row: R, names: Names) -> None:
        """It is gone."""


def is_id(ref: str) -> bool:
    return ref.isascii() and ref.isdecimal() and len(ref) <= 18


def _shown(row: Model, shape: type[Part], *more: str) -> dict[str, Any]:
    return {"id": row.pk} | {name: getattr(row, name) for name in (*shape.model_fields, *more)}


def _filled(row: Model, entry: Part, shape: type[Part]) -> Any:
    for name in shape.model_fields:
        setattr(row, name, getattr(entry, name))
    row.save()
    return row


def _taken(entry: Any, row: Any, ids: Mapping[str, int]) -> Found:
    if ids.get(entry.name, row.pk if row else None) != (row.pk if row else None):
        yield ("name",), f"The name '{entry.name}' is taken."


class Upstreams(Resource[Upstream]):
    kind, model, shape = "upstreams", Upstream, UpstreamWrite
    listing = Listing(
        ordering=("name", *_TIMES),
        filters=(
            Filter("name"),
            _TAG,
            Filter("protocol", choices=("http", "https")),
            Filter("balancing", choices=("round-robin", "least-connections", "ewma", "consistent-hashing")),
            Filter("route", "routes__name", description="That this route leads to."),
        ),
        search=("name", "tags"),
    )

    def rows(self) -> QuerySet[Upstream]:
        return Upstream.objects.prefetch_related("targets")

    def represent(self, row: Upstream) -> dict[str, Any]:
        shown = masking.mask_entry("upstreams", _shown(row, UpstreamFields))
        targets = sorted(row.targets.all(), key=lambda target: (target.host, target.port))
        return {**shown, "targets": [show_target(target) for target in targets], **_times(row)}

    def faults(self, entry: UpstreamWrite, row: Upstream | None) -> Found:
        full, faults = self._full(entry, row)
        yield from faults or tls_problems(full.tls_ca, full.tls_client_certificate, full.tls_client_key)
        yield from discovery_problems(entry.discovery_url, entry.discovery_resolver, fence())
        seen: set[tuple[str, int]] = set()
        for index, target in enumerate(entry.targets):
            if (target.host, target.port) in seen:
                yield ("targets", index), "The same address is there twice."
            seen.add((target.host, target.port))
            if fault := fence().fault(target.host, target.port):
                yield ("targets", index, "host"), fault

    def conflicts(self, entry: UpstreamWrite, row: Upstream | None, names: Names) -> Found:
        return _taken(entry, row, names.upstreams)

    def write(self, entry: UpstreamWrite, row: Upstream | None, names: Names) -> Upstream:
        if row is not None:
            names.upstreams = {name: pk for name, pk in names.upstreams.items() if pk != row.pk}
        known = {(target.host, target.port): target for target in row.targets.all()} if row else {}
        row = _filled(row or Upstream(), self._full(entry, row)[0], UpstreamFields)
        names.upstreams[row.name] = row.pk
        new = []
        for wanted in entry.targets:
            target = known.pop((wanted.host, wanted.port), None)
            if target is None:
                new.append(Target(upstream=row, **wanted.model_dump()))
            elif (target.weight, target.enabled) != (wanted.weight, wanted.enabled):
                _filled(target, wanted, TargetFields)
        Target.objects.bulk_create(new)
        if known:
            Target.objects.filter(pk__in=[target.pk for target in known.values()]).delete()
        return row

    def _full(self, entry: UpstreamWrite, row: Upstream | None) -> tuple[UpstreamWrite, masking.Faults]:
        """With the secrets that stand-ins stand for."""
        given = {name: getattr(entry, name) for name in masking.UPSTREAM_SECRETS}
        stored = {name: getattr(row, name) for name in masking.UPSTREAM_SECRETS} if row else {}
        full, faults = masking.unmask_upstream(given, stored)
        return entry.model_copy(update=full), faults

    def blocked(self, row: Upstream) -> str:
        routes = list(RouteUpstream.objects.filter(upstream=row).values_list("route__name", flat=True)[:5])
        if routes:
            return f"Routes lead to it: {', '.join(routes)}."
        settings = selectors.settings_leading_to(row.name, registry())[:5]
        return f"Plugin settings lead to it: {', '.join(str(setting) for setting in settings)}." if settings else ""

    def forget(self, row: Upstream, names: Names) -> None:
        names.upstreams.pop(row.name, None)
        names.__dict__.pop("settings", None)


def show_target(target: Target) -> dict[str, Any]:
    return {**_shown(target, TargetFields), "address": str(target)}


def _times(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _TIMES}


class Targets(Resource[Target]):
    kind, model, shape = "targets", Target, TargetWrite
    listing = Listing(ordering=("host", "id"), filters=(Filter("host"), _ENABLED))

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def rows(self) -> QuerySet[Target]:
        return Target.objects.filter(upstream=self.upstream).select_related("upstream")

    def find(self, ref: str) -> Target:
        """By id or address. Raises NotFound."""
        for target in self.rows():
            if str(target.pk) == ref or str(target) == ref:
                return target
        raise NotFound(f"The upstream has no target '{ref}'.")

    def represent(self, row: Target) -> dict[str, Any]:
        return show_target(row)

    def faults(self, entry: TargetWrite, row: Target | None) -> Found:
        if fault := fence().fault(entry.host, entry.port):
            yield ("host",), fault

    def conflicts(self, entry: TargetWrite, row: Target | None, names: Names) -> Found:
        twins = Target.objects.filter(upstream=self.upstream, host=entry.host, port=entry.port)
        if (twins.exclude(pk=row.pk) if row else twins).exists():
            yield (), "The upstream has this target already."

    def write(self, entry: TargetWrite, row: Target | None, names: Names) -> Target:
        target: Target = _filled(row or Target(upstream=self.upstream), entry, TargetFields)
        return target


class Routes(Resource[Route]):
    kind, model, shape = "routes", Route, RouteWrite
    listing = Listing(
        ordering=("name", "priority", *_TIMES),
        filters=(
            Filter("name"),
            _TAG,
            _ENABLED,
            Filter("upstream", "upstreams__name", description="That lead to this upstream."),
            Filter("host", "hosts__contains", listed=True, description="With this host, as it is written there."),
            Filter("path", "paths__contains", listed=True, description="With this path, as it is written there."),
            Filter("method", "methods__contains", listed=True, description="With this method."),
            Filter(
                "plugin", "plugin_settings__name", description="With a setting of this plugin for the route itself."
            ),
        ),
        search=("name", "paths", "hosts", "tags"),
    )

    def rows(self) -> QuerySet[Route]:
        branches = RouteUpstream.objects.select_related("upstream").order_by("upstream__name")
        return Route.objects.prefetch_related(Prefetch("branches", branches))

    def represent(self, row: Route) -> dict[str, Any]:
        branches = [{"name": branch.upstream.name, "weight": branch.weight} for branch in row.branches.all()]
        return {**_shown(row, RouteFields), "upstreams": branches, **_times(row)}

    def faults(self, entry: RouteWrite, row: Route | None) -> Found:
        seen: set[str] = set()
        for index, branch in enumerate(entry.upstreams):
            if branch.name in seen:
                yield ("upstreams", index, "name"), "The upstream is there twice."
            seen.add(branch.name)

    def conflicts(self, entry: RouteWrite, row: Route | None, names: Names) -> Found:
        yield from _taken(entry, row, names.routes)
        for index, branch in enumerate(entry.upstreams):
            if branch.name not in names.upstreams:
                yield ("upstreams", index, "name"), f"There is no upstream '{branch.name}'."

    def write(self, entry: RouteWrite, row: Route | None, names: Names) -> Route:
        known: dict[str, int] = {}
        if row is not None:
            names.routes = {name: pk for name, pk in names.routes.items() if pk != row.pk}
            known = {branch.upstream.name: branch.weight for branch in row.branches.all()}
        row = _filled(row or Route(), entry, RouteFields)
        names.routes[row.name] = row.pk
        if known != {branch.name: branch.weight for branch in entry.upstreams}:
            if known:
                RouteUpstream.objects.filter(route=row).delete()
            RouteUpstream.objects.bulk_create(
                RouteUpstream(route=row, upstream_id=names.upstreams[branch.name], weight=branch.weight)
                for branch in entry.upstreams
            )
        return row

    def forget(self, row: Route, names: Names) -> None:
        names.routes.pop(row.name, None)
        names.__dict__.pop("settings", None)


class Settings(Resource[PluginSetting]):
    kind, model, shape = "plugin-settings", PluginSetting, SettingWrite
    listing = Listing(
        ordering=("name", *_TIMES),
        filters=(
            Filter("name", description="The plugin's name."),
            _ENABLED,
            Filter("route", "route__name", description="For this route."),
            Filter("upstream", "upstream__name", description="For this upstream."),
            Filter("consumer", "consumer__username", description="For this consumer."),
        ),
        search=("name", "route__name", "upstream__name", "consumer__username"),
    )

    def rows(self) -> QuerySet[PluginSetting]:
        return PluginSetting.objects.select_related("route", "upstream", "consumer")

    def find(self, ref: str) -> PluginSetting:
        """By id: a setting has no name of its own. Raises NotFound."""
        found = self.rows().filter(pk=int(ref)).first() if is_id(ref) else None
        if found is None:
            raise NotFound(f"There is no plugin setting '{ref}'.")
        return found

    def represent(self, row: PluginSetting) -> dict[str, Any]:
        shown = _shown(row, PluginFields) | {"config": masking.mask(row.name, row.config)}
        scope = ("route", "upstream", "consumer")
        return {**shown, **{kind: str(getattr(row, kind) or "") for kind in scope}, **_times(row)}

    def faults(self, entry: SettingWrite, row: PluginSetting | None) -> Found:
        config, faults = self._config(entry, row)
        yield from ((("config", *path), said) for path, said in faults)
        if entry.enabled and not faults:
            yield from config_problems(entry.name, config, registry(), references())

    def conflicts(self, entry: SettingWrite, row: PluginSetting | None, names: Names) -> Found:
        missing = False
        known = {"route": names.routes, "upstream": names.upstreams, "consumer": names.consumers}
        for kind, ids in known.items():
            if (name := getattr(entry, kind)) and name not in ids:
                missing = True
                yield (kind,), f"There is no {kind} '{name}'."
        if not missing and names.settings.get(_scope(entry, names), row and row.pk) != (row and row.pk):
            yield (), "This plugin has a setting of this scope already."

    def write(self, entry: SettingWrite, row: PluginSetting | None, names: Names) -> PluginSetting:
        config, _ = self._config(entry, row)
        if row is not None:
            names.settings = {scope: pk for scope, pk in names.settings.items() if pk != row.pk}
        row = row or PluginSetting()
        scope = _scope(entry, names)
        _, row.route_id, row.upstream_id, row.consumer_id = scope
        row = _filled(row, entry.model_copy(update={"config": config}), PluginFields)
        names.settings[scope] = row.pk
        return row

    def _config(self, entry: SettingWrite, row: PluginSetting | None) -> tuple[Any, list[tuple[Path, str]]]:
        return masking.unmask(entry.name, entry.config, row.config if row and row.name == entry.name else {})

    def forget(self, row: PluginSetting, names: Names) -> None:
        names.__dict__.pop("settings", None)


def _scope(entry: SettingWrite, names: Names) -> tuple[Any, ...]:
    upstream, consumer = names.upstreams.get(entry.upstream), names.consumers.get(entry.consumer)
    return entry.name, names.routes.get(entry.route), upstream, consumer


#: What a bulk change may name.
RESOURCES: dict[str, Resource[Any]] = {resource.kind: resource for resource in (Upstreams(), Routes(), Settings())}
