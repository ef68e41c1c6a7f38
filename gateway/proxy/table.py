"""The routing table: a Snapshot made ready to serve. Built aside, swapped in by one assignment, then changed in one way
only: discovery puts an upstream with other targets in the place of the one before.

A route leads to one of its weighted upstreams; each such **branch** has its own chain of plugin hooks, because settings
may be scoped to an upstream. Settings scoped to a consumer make **variants** of a branch, compiled when the consumer
first calls. The most specific setting of a plugin wins whole; settings are not merged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.plugins.base import Plugin, Resources
from gateway.plugins.batches import Batches
from gateway.plugins.dryruns import DryRun, note, tell
from gateway.plugins.registry import Registry
from gateway.proxy.conditions import Conditional
from gateway.proxy.errors import NoTarget
from gateway.proxy.exchange import Answer, Exchange
from gateway.proxy.match import Index
from gateway.proxy.snapshot import PluginSpec, RouteSpec, Scope, Snapshot, UpstreamSpec

AccessHook = Callable[[Exchange], Answer | Awaitable[Answer | None] | None]
Forward = Callable[[Exchange], Awaitable[None]]
ForwardHook = Callable[[Exchange, Forward], Awaitable[None]]
ResponseHook = Callable[[Exchange], Awaitable[None] | None]
BodyHook = Callable[[Exchange, AsyncIterator[bytes]], AsyncIterator[bytes]]
LogHook = Callable[[Exchange], None]

#: From the most to the least specific (design: Scope).
_SPECIFICITY: tuple[Scope, ...] = ("route_consumer", "upstream_consumer", "consumer", "route", "upstream", "global")


@dataclass(frozen=True, slots=True)
class Chain:
    """The hooks of one way through the gateway, flat and in order: all but `access` and `log` already reversed."""

    access: tuple[AccessHook, ...] = ()
    forward: tuple[ForwardHook, ...] = ()
    response: tuple[ResponseHook, ...] = ()
    body: tuple[BodyHook, ...] = ()
    log: tuple[LogHook, ...] = ()


class Branch:
    """One upstream of a route, with its chains. `identify` runs first and may name a consumer; then `chain_for` it."""

    __slots__ = ("_build", "_default", "_special", "_variants", "identify", "upstream", "weight")

    def __init__(self, upstream: UpstreamSpec, weight: int, special: frozenset[int], build: _ChainBuilder) -> None:
        self.upstream = upstream
        self.weight = weight
        self.identify, self._default = build(0)
        self._special = special  # consumers that have settings of their own here
        self._variants: dict[int, Chain] = {}
        self._build = build

    def chain_for(self, consumer_id: int) -> Chain:
        """0: nobody was identified."""
        if consumer_id not in self._special:
            return self._default
        if consumer_id not in self._variants:
            self._variants[consumer_id] = self._build(consumer_id)[1]
        return self._variants[consumer_id]


_ChainBuilder = Callable[[int], tuple[tuple[AccessHook, ...], Chain]]


class CompiledRoute:
    """A route and its branches that have a weight. `single`: the usual case costs no choice."""

    __slots__ = ("branches", "single", "spec", "total_weight")

    def __init__(self, spec: RouteSpec, branches: list[Branch]) -> None:
        self.spec = spec
        self.branches = [branch for branch in branches if branch.weight]
        self.single = self.branches[0] if len(self.branches) == 1 else None
        self.total_weight = sum(branch.weight for branch in self.branches)

    def choose(self, random: Callable[[], float]) -> Branch:
        """By weight. Raises NoTarget if none has any."""
        if self.single is not None:
            return self.single
        if not self.branches:
            raise NoTarget("No upstream of this route has a weight.")
        point = random() * self.total_weight
        for branch in self.branches:
            point -= branch.weight
            if point < 0:
                return branch
        return self.branches[0]


class RoutingTable:
    """Everything a request needs to be decided."""

    __slots__ = ("_branches", "_leading", "index", "snapshot", "version")

    def __init__(self, snapshot: Snapshot, registry: Registry, resources: Resources) -> None:
        """Raises whatever a plugin's `__init__` raises: the caller keeps the table it has."""
        self.snapshot = snapshot
        self.version = snapshot.version
        compiler = _Compiler(snapshot, registry, resources)
        routes = [(route, compiler.route(route)) for route in snapshot.routes]
        self._branches = [branch for _, route in routes for branch in route.branches]
        plugins = [one.plugin if isinstance(one, Conditional) else one for one in compiler.plugins.values()]
        self._leading = [plugin for plugin in plugins if plugin.config.upstreams_named()]
        for plugin in self._leading:
            plugin.upstreams = snapshot.upstreams
        self.index: Index[CompiledRoute] = Index(routes)

    def retarget(self, now: Callable[[UpstreamSpec], UpstreamSpec]) -> None:
        """`now`: an upstream as it is now, the same object if nothing has changed. Requests under way keep theirs."""
        upstreams = {name: now(upstream) for name, upstream in self.snapshot.upstreams.items()}
        self.snapshot = replace(self.snapshot, upstreams=upstreams)
        for branch in self._branches:
            branch.upstream = upstreams[branch.upstream.name]
        for plugin in self._leading:
            plugin.upstreams = upstreams


class Settings:
    """Which setting of each plugin applies where. Of specs alone, so that a page that explains a route can ask too."""

    __slots__ = ("_by_place", "_positions")

    def __init__(self, settings: Iterable[PluginSpec], order: Sequence[str]) -> None:
        """`order`: the names of the plugins as they run; others stand last, by name."""
        self._positions = {name: position for position, name in enumerate(order)}
        self._by_place: dict[tuple[Scope, str], list[PluginSpec]] = {}
        for setting in settings:
            self._by_place.setdefault((setting.scope, setting.route or setting.upstream), []).append(setting)

    def applying(self, route: str, upstream: str) -> list[PluginSpec]:
        """All that could apply on the way from a route to one of its upstreams, most specific first."""
        found: list[PluginSpec] = []
        for scope in _SPECIFICITY:
            place = route if scope.startswith("route") else upstream if scope.startswith("upstream") else ""
            found += self._by_place.get((scope, place), ())
        return found

    def chosen(self, applying: Iterable[PluginSpec], consumer_id: int = 0) -> list[PluginSpec]:
        """The one of each plugin that does apply to a consumer (0: nobody), in the order they run."""
        winners: dict[str, PluginSpec] = {}
        for setting in applying:
            if setting.consumer_id in (0, consumer_id):
                winners.setdefault(setting.name, setting)
        return sorted(winners.values(), key=lambda setting: self.place(setting.name))

    def place(self, name: str) -> tuple[int, str]:
        """Sorts plugins as they run."""
        return self._positions.get(name, len(self._positions)), name


class _Compiler:
    def __init__(self, snapshot: Snapshot, registry: Registry, resources: Resources) -> None:
        self.snapshot = snapshot
        self.settings = Settings(snapshot.plugins, registry.names)
        self.plugins = {setting.id: _plugin(setting, registry, resources) for setting in snapshot.plugins}
        self.batches = resources.batches
        self.collectors: dict[Plugin | Conditional, LogHook] = {}
        self.identify_names = frozenset(registry.names[: registry.identified + 1])

    def route(self, route: RouteSpec) -> CompiledRoute:
        branches = []
        for link in route.upstreams:
            upstream = self.snapshot.upstreams[link.upstream]
            settings = self.settings.applying(route.name, upstream.name)
            special = frozenset(setting.consumer_id for setting in settings if setting.consumer_id)

            def build(consumer_id: int, settings: list[PluginSpec] = settings) -> tuple[tuple[AccessHook, ...], Chain]:
                return self._chain(settings, consumer_id)

            branches.append(Branch(upstream, link.weight, special, build))
        return CompiledRoute(route, branches)

    def _chain(self, settings: list[PluginSpec], consumer_id: int) -> tuple[tuple[AccessHook, ...], Chain]:
        plugins = [self.plugins[setting.id] for setting in self.settings.chosen(settings, consumer_id)]
        first = [plugin for plugin in plugins if plugin.name in self.identify_names]
        then = [plugin for plugin in plugins if plugin.name not in self.identify_names]
        dry = any(plugin.dry_run for plugin in plugins)
        chain = Chain(
            access=_access(then),
            forward=_hooks("forward", reversed(plugins)),
            response=(*((tell,) if dry else ()), *_hooks("response", reversed(plugins))),
            body=_hooks("body", reversed(plugins)),
            log=(*((note,) if dry else ()), *_hooks("log", plugins), *self._collectors(plugins)),
        )
        return _access(first), chain

    def _collectors(self, plugins: Iterable[Plugin | Conditional]) -> list[LogHook]:
        """Of the `batch` phase, which has no hook of its own in a request. One for each setting."""
        found = []
        for plugin in plugins:
            if "batch" in plugin.hooks():
                if plugin not in self.collectors:
                    self.collectors[plugin] = _collector(plugin, self.batches)
                found.append(self.collectors[plugin])
        return found


def _plugin(setting: PluginSpec, registry: Registry, resources: Resources) -> Plugin | Conditional:
    plugin = registry[setting.name](setting.config, resources, setting.id)
    plugin.dry_run = plugin.dry_run or setting.dry_run
    return plugin if setting.when is None else Conditional(plugin, setting.when)


def _collector(plugin: Plugin | Conditional, batches: Batches) -> LogHook:
    if isinstance(plugin, Conditional):
        return plugin.where_it_holds(batches.collector(plugin.plugin))
    return batches.collector(plugin)


def _access(plugins: Iterable[Plugin | Conditional]) -> tuple[AccessHook, ...]:
    return tuple(_dry(plugin) if plugin.dry_run else plugin.access for plugin in plugins if "access" in plugin.hooks())


def _dry(plugin: Plugin | Conditional) -> AccessHook:
    if isinstance(plugin, Conditional):
        return DryRun(plugin.plugin, plugin.access, plugin.holds).access
    return DryRun(plugin).access


def _hooks(phase: str, plugins: Iterable[Plugin | Conditional]) -> tuple[Any, ...]:
    return tuple(getattr(plugin, phase) for plugin in plugins if phase in plugin.hooks())
