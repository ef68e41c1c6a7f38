"""What a request of one route passes, as a page draws it: plugins in order, upstreams, targets. Pure.

Built from the same Snapshot as a worker's routing table, by the same precedence (`table.Settings`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal
from urllib.parse import quote as url_quote
from urllib.parse import urlencode

from dashboard.snippets import PLACEHOLDER, curl
from gateway.proxy.snapshot import FieldCondition, PluginSpec, RouteSpec, Snapshot, TargetSpec, UpstreamSpec
from gateway.proxy.table import Settings
from routes.masking import shown

_PARAMETER = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Option:
    """A field of a plugin's config. `given`: the setting names it; otherwise it is at its default."""

    name: str
    value: Any
    given: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A plugin at work. `beats`: less specific settings of it. `others`: settings of consumers, which win for them."""

    setting: PluginSpec
    beats: tuple[PluginSpec, ...]
    others: tuple[PluginSpec, ...]
    options: tuple[Option, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Equal for steps that are drawn alike."""
        return tuple(setting.id for setting in (self.setting, *self.beats, *self.others))

    @property
    def when(self) -> str:
        """Which requests it is for, in words; empty: for every request."""
        when = self.setting.when
        if when is None:
            return ""
        said = {
            "method": " or ".join(sorted(when.methods)),
            "header": " and ".join(f"{name}: {pattern}" if pattern else name for name, pattern in when.headers),
            "group": " or ".join(sorted(when.groups)),
            "address": " or ".join(when.networks),
            "path": " or ".join(when.paths),
        }
        return ", ".join(f"{kind} {words}" for kind, words in said.items() if words)

    @property
    def given(self) -> list[Option]:
        return [option for option in self.options if option.given]

    @property
    def defaults(self) -> list[Option]:
        return [option for option in self.options if not option.given]

    @property
    def for_consumers_only(self) -> bool:
        return bool(self.setting.consumer_id)


@dataclass(frozen=True, slots=True)
class Aim:
    """A target. `share`: of its upstream's traffic, 0 to 1."""

    target: TargetSpec
    share: float


@dataclass(frozen=True, slots=True)
class Branch:
    """An upstream of the route. `share`: of the route's traffic, 0 to 1."""

    upstream: UpstreamSpec
    weight: int
    share: float
    aims: tuple[Aim, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """Upstreams that are reached through the same plugins; `steps` are those that not all lanes begin with."""

    steps: tuple[Step, ...]
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """`steps`, then one of the lanes. Most routes have one lane, with no steps of its own."""

    route: RouteSpec
    steps: tuple[Step, ...]
    lanes: tuple[Lane, ...]

    @property
    def all_steps(self) -> list[Step]:
        return [*self.steps, *(step for lane in self.lanes for step in lane.steps)]

    @property
    def consumer_ids(self) -> set[int]:
        """Whose names a page needs."""
        return {setting.consumer_id for step in self.all_steps for setting in (step.setting, *step.others)} - {0}


def flow(snapshot: Snapshot, route: RouteSpec, order: Sequence[str]) -> Flow:
    lanes = _lanes(snapshot, route, order)
    alike = (len({step.ids for step in steps}) == 1 for steps in zip(*(lane.steps for lane in lanes), strict=False))
    shared = sum(takewhile(bool, alike))
    steps = lanes[0].steps[:shared] if lanes else ()
    return Flow(route, steps, tuple(Lane(lane.steps[shared:], lane.branches) for lane in lanes))


def _lanes(snapshot: Snapshot, route: RouteSpec, order: Sequence[str]) -> list[Lane]:
    """By what their plugins are, in the order of the route's upstreams."""
    settings = Settings(snapshot.plugins, order)
    total = sum(link.weight for link in route.upstreams)
    by_steps: dict[tuple[tuple[int, ...], ...], Lane] = {}
    for link in route.upstreams:
        upstream = snapshot.upstreams[link.upstream]
        steps = tuple(_steps(settings, settings.applying(route.name, upstream.name)))
        # As `CompiledRoute.choose`: with all weights zero the first one is taken, whose answer is `no_target`.
        branch = Branch(upstream, link.weight, link.weight / total if total else 0.0, tuple(_aims(upstream)))
        key = tuple(step.ids for step in steps)
        known = by_steps.get(key, Lane(steps, ()))
        by_steps[key] = Lane(known.steps, (*known.branches, branch))
    return list(by_steps.values())


def _steps(settings: Settings, applying: list[PluginSpec]) -> list[Step]:
    """One for each plugin; one that has settings for consumers only stands where it would run."""
    winners = {setting.name: setting for setting in settings.chosen(applying)}
    for setting in applying:
        winners.setdefault(setting.name, setting)
    return [_step(winners[name], applying) for name in sorted(winners, key=settings.place)]


def _step(winner: PluginSpec, applying: Iterable[PluginSpec]) -> Step:
    rest = [setting for setting in applying if setting.name == winner.name and setting is not winner]
    return Step(
        winner,
        beats=tuple(setting for setting in rest if not setting.consumer_id),
        others=tuple(setting for setting in rest if setting.consumer_id),
        options=tuple(options(winner.config)),
    )


def options(config: Any) -> list[Option]:
    return [Option(name, value, name in config.model_fields_set) for name, value in shown(config).items()]


def _aims(upstream: UpstreamSpec) -> Iterable[Aim]:
    total = sum(target.weight for target in upstream.targets)
    return (Aim(target, target.weight / total if total else 0.0) for target in upstream.targets)


# --- a line to try it -------------------------------------------------------------------------------------------------


def example(drawn: Flow, url: str) -> str:
    """A curl line that the route matches, as far as one can be made up: a regular expression becomes `/`."""
    route = drawn.route
    method = "GET" if not route.methods or "GET" in route.methods else min(route.methods)
    headers = {"Host": route.hosts[0].replace("*", "www")} if route.hosts else {}
    headers |= {condition.name: _value(condition) for condition in route.headers}
    query = {condition.name: _value(condition) for condition in route.query}
    where, name = _credential(drawn)
    if where == "header":
        headers[name] = PLACEHOLDER
    elif where == "query":
        query[name] = PLACEHOLDER
    elif where == "authorization":
        headers["Authorization"] = f"Bearer {name}"
    return curl(f"{url}{_path(route)}{'?' if query else ''}{urlencode(query)}", method, headers)


def _path(route: RouteSpec) -> str:
    path = next((path for path in route.paths if not path.startswith("~")), "/")
    return url_quote(_PARAMETER.sub("1", path.removesuffix("*")), safe="/%:@!$&'()*+,;=~-._")


def _value(condition: FieldCondition) -> str:
    return condition.values[0] if condition.values else "1"


def _credential(drawn: Flow) -> tuple[Literal["header", "query", "authorization", ""], str]:
    """Where key-auth looks for a key first, and under which name; in Authorization, what stands for it."""
    for step in drawn.all_steps:
        if step.setting.name == "jwt" and not step.for_consumers_only:
            return "authorization", "YOUR_TOKEN"
        if step.setting.name == "key-auth" and not step.for_consumers_only:
            config = step.setting.config
            if config.key_in_header:
                return "header", config.key_names[0]
            return ("authorization", PLACEHOLDER) if config.key_in_authorization else ("query", config.key_names[0])
    return "", ""
