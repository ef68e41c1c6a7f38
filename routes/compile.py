"""Document → Snapshot, or every reason why not. Pure: the same document and plugins always give the same answer.

Runs where a configuration is published (nothing unsound goes live) and in each worker that loads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from gateway.plugins.base import PluginConfig
from gateway.plugins.references import References
from gateway.plugins.registry import Registry
from gateway.proxy import certificates
from gateway.proxy.fence import Fence
from gateway.proxy.fence import split as split_resolver
from gateway.proxy.patterns import Pattern
from gateway.proxy.snapshot import (
    Snapshot,
    UpstreamSpec,
)
from routes.configs import config_of, config_problems
from routes.document import RouteEntry, digest
from routes.problems import CompileError, Path, Problem, Row, pointer
from routes.reading import Reading, read
from routes.specs import plugin_spec, route_spec, upstream_spec

__all__ = ["CompileError", "Problem", "compile", "config_problems", "tls_problems"]


def compile(  # noqa: A001 - the word of the design
    document: Mapping[str, Any],
    registry: Registry,
    *,
    version: int = 0,
    fence: Fence | None = None,
    references: References | None = None,
    resolve: bool = False,
) -> Snapshot:
    """Raises CompileError. What is disabled, or scoped to something disabled, is checked less and left out.

    `fence`: where something is saved. A worker serves what is live, and asks the fence when it connects.
    `references`: where they can be looked up. `resolve`: put in what they stand for, in a worker. A page never does.
    """
    reading = read(document)
    configs, config_faults = _configs(reading, registry, references, resolve)
    problems = [
        *reading.problems,
        *_upstreams(reading, fence),
        *_routes(reading),
        *_twins(reading),
        *_scopes(reading, registry),
        *config_faults,
        *_led_to(reading, configs),
    ]
    if problems:
        raise CompileError(problems)
    routes = tuple(route_spec(entry) for entry in reading.routes.values() if entry.enabled)
    live = {route.name for route in routes}
    return Snapshot(
        version=version,
        digest=digest(document),
        upstreams={entry.name: upstream_spec(entry) for entry in reading.upstreams.values()},
        routes=routes,
        plugins=tuple(
            plugin_spec(entry, configs[index])
            for index, entry in reading.plugins.items()
            if index in configs and (not entry.route or entry.route in live)
        ),
    )


def upstreams_of(document: Mapping[str, Any]) -> dict[str, UpstreamSpec]:
    """Of a document that compiled once: without its plugins, which may be anything."""
    reading = read({"format": document.get("format"), "upstreams": document.get("upstreams", [])})
    return {entry.name: upstream_spec(entry) for entry in reading.upstreams.values()}


# --- checks across rows -----------------------------------------------------------------------------------------------


def _at(section: str, index: int, row: Row, field: Path, message: str, place: Path | None = None) -> Problem:
    """`place` is where in the entry it stands, if that is not `field`."""
    return Problem(row, field, message, pointer((section, index, *(field if place is None else place))))


def _upstreams(reading: Reading, fence: Fence | None) -> Iterator[Problem]:
    for index, entry in reading.upstreams.items():
        for path, message in tls_problems(entry.tls_ca, entry.tls_client_certificate, entry.tls_client_key):
            yield _at("upstreams", index, ("upstreams", entry.name), path, message)
        if fence is not None:
            for path, message in discovery_problems(entry.discovery_url, entry.discovery_resolver, fence):
                yield _at("upstreams", index, ("upstreams", entry.name), path, message)
        seen: set[str] = set()
        for number, target in enumerate(entry.targets):
            if target.address in seen:
                row = ("upstreams", entry.name, "targets", target.address)
                place = ("targets", number)
                yield _at("upstreams", index, row, (), "The same address is there twice.", place)
            seen.add(target.address)
            if fence is not None and (fault := fence.fault(target.host, target.port)):
                row = ("upstreams", entry.name, "targets", target.address)
                yield _at("upstreams", index, row, ("host",), fault, ("targets", number, "host"))


def _routes(reading: Reading) -> Iterator[Problem]:
    for index, entry in sorted({**reading.routes, **reading.mended}.items()):
        row = ("routes", entry.name)
        if entry.enabled and not entry.upstreams:
            yield _at("routes", index, row, ("upstreams",), "The route leads nowhere: give it an upstream.")
        seen: set[str] = set()
        for number, part in enumerate(entry.upstreams):
            part_row, place = (*row, "upstreams", part.name), ("upstreams", number, "name")
            if part.name not in reading.named["upstreams"]:
                yield _at("routes", index, part_row, ("name",), f"There is no upstream '{part.name}'.", place)
            if part.name in seen:
                yield _at("routes", index, part_row, ("name",), "The upstream is there twice.", place)
            seen.add(part.name)


def _twins(reading: Reading) -> Iterator[Problem]:
    """Enabled routes that some request fits in the very same way: only chance (the lower id) would choose."""
    first: dict[object, str] = {}
    for index, entry in reading.routes.items():
        rivals = {first.setdefault(place, entry.name): None for place in _places(entry)} if entry.enabled else {}
        for rival in rivals:
            if rival != entry.name:
                message = f"Matches the same requests as route '{rival}'. Give one of them another priority."
                yield _at("routes", index, ("routes", entry.name), (), message)


def _places(entry: RouteEntry) -> Iterator[object]:
    """All that decides a match, once for each host and path. Names of parameters do not."""
    conditions = tuple(
        tuple(sorted((name, tuple(sorted(values))) for name, values in group.items()))
        for group in (entry.header_conditions, entry.query_conditions)
    )
    rest = (frozenset(entry.methods), conditions, entry.priority)
    patterns = [Pattern.parse(path) for path in entry.paths] or [Pattern("any")]
    for host in entry.hosts or [""]:
        for pattern in patterns:
            yield host, pattern.segments, pattern.tail, pattern.regex, rest


def _scopes(reading: Reading, registry: Registry) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, entry in reading.plugins.items():
        row = ("plugins", entry.key)
        if entry.key in seen:
            yield _at("plugins", index, row, (), "A setting of this plugin with this scope is there twice.")
        seen.add(entry.key)
        for kind, name in (("route", entry.route), ("upstream", entry.upstream)):
            if name and name not in reading.named[f"{kind}s"]:
                yield _at("plugins", index, row, (kind,), f"There is no {kind} '{name}'.")
        early = entry.enabled and entry.name in registry and registry.position(entry.name) <= registry.identified
        if early and "groups" in entry.when:
            message = f"{entry.name} runs before the consumer is known, so it cannot differ by groups."
            yield _at("plugins", index, row, ("when",), message)
        if entry.enabled and entry.dry_run and entry.name in registry and not registry[entry.name].may_refuse():
            yield _at(
                "plugins", index, row, ("dry_run",), f"{entry.name} refuses nobody, so there is no dry run of it."
            )
        if entry.enabled and entry.consumer and entry.name in registry:
            if registry.identified < 0:
                yield _at("plugins", index, row, ("consumer",), "No plugin here finds out who the consumer is.")
            elif registry.position(entry.name) <= registry.identified:
                message = f"{entry.name} runs before the consumer is known, so it cannot differ by consumer."
                yield _at("plugins", index, row, ("consumer",), message)


# --- fields that fit together, or not: also asked for a row by itself -------------------------------------------------

_TLS_FIELDS = {"ca": "tls_ca", "certificate": "tls_client_certificate", "key": "tls_client_key"}


def tls_problems(ca: str, certificate: str, key: str) -> list[tuple[Path, str]]:
    """(path, sentence) for each fault of an upstream's certificates."""
    return [((_TLS_FIELDS[part],), message) for part, message in certificates.faults(ca, certificate, key)]


def discovery_problems(url: str, resolver: str, fence: Fence) -> list[tuple[Path, str]]:
    """(path, sentence) where an upstream's targets would be asked for where nothing may be asked."""
    parts, (host, _) = urlsplit(url), split_resolver(resolver)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = [("discovery_url", fence.fault(parts.hostname or "", port)), ("discovery_resolver", fence.fault(host))]
    return [((field,), message) for field, message in found if message]


# --- plugin configs ---------------------------------------------------------------------------------------------------


def _configs(
    reading: Reading, registry: Registry, references: References | None, resolve: bool
) -> tuple[dict[int, Any], list[Problem]]:
    """Validated configs of enabled settings by place, and the problems of the others."""
    configs: dict[int, Any] = {}
    problems: list[Problem] = []
    for index, entry in reading.plugins.items():
        if not entry.enabled:
            continue
        config, faults = config_of(entry.name, entry.config, registry, references, resolve=resolve)
        if not faults:
            configs[index] = config
        row = ("plugins", entry.key)
        problems += (_at("plugins", index, row, field, message) for field, message in faults)
    return configs, problems


def _led_to(reading: Reading, configs: Mapping[int, PluginConfig]) -> Iterator[Problem]:
    for index, config in configs.items():
        row = ("plugins", reading.plugins[index].key)
        for path, name in config.upstreams_named():
            if name not in reading.named["upstreams"]:
                yield _at("plugins", index, row, ("config", *path), f"There is no upstream '{name}'.")
