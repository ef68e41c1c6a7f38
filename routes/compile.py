"""Document → Snapshot, or every reason why not. Pure: the same document and plugins always give the same answer.

Runs where a configuration is published (nothing unsound goes live) and in each worker that loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    BreakerPolicy,
    CarePolicy,
    DiscoveryPolicy,
    EjectPolicy,
    FieldCondition,
    HashPolicy,
    PluginSpec,
    ProbePolicy,
    RouteSpec,
    Scope,
    Snapshot,
    StickyPolicy,
    TargetSpec,
    TlsSpec,
    UpstreamSpec,
    WeightedUpstream,
    When,
)
from routes.configs import config_of, config_problems
from routes.document import PluginEntry, RouteEntry, TargetEntry, UpstreamEntry, digest
from routes.problems import CompileError, Path, Problem, Row, pointer
from routes.reading import Reading, read
from routes.syntax import status_ranges

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
    routes = tuple(_route_spec(entry) for entry in reading.routes.values() if entry.enabled)
    live = {route.name for route in routes}
    return Snapshot(
        version=version,
        digest=digest(document),
        upstreams={entry.name: _upstream_spec(entry) for entry in reading.upstreams.values()},
        routes=routes,
        plugins=tuple(
            _plugin_spec(entry, configs[index])
            for index, entry in reading.plugins.items()
            if index in configs and (not entry.route or entry.route in live)
        ),
    )


def upstreams_of(document: Mapping[str, Any]) -> dict[str, UpstreamSpec]:
    """Of a document that compiled once: without its plugins, which may be anything."""
    reading = read({"format": document.get("format"), "upstreams": document.get("upstreams", [])})
    return {entry.name: _upstream_spec(entry) for entry in reading.upstreams.values()}


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


# --- entries to specs -------------------------------------------------------------------------------------------------


def _upstream_spec(entry: UpstreamEntry) -> UpstreamSpec:
    return UpstreamSpec(
        id=entry.id,
        name=entry.name,
        protocol=entry.protocol,
        balancing=entry.balancing,
        connect_timeout_s=entry.connect_timeout_ms / 1000,
        first_byte_timeout_s=entry.first_byte_timeout_ms / 1000,
        idle_timeout_s=entry.idle_timeout_ms / 1000,
        total_timeout_s=entry.total_timeout_ms / 1000,
        retries=entry.retries,
        max_connections=entry.max_connections,
        tls=TlsSpec(
            entry.tls_verify, entry.tls_server_name, entry.tls_ca, entry.tls_client_certificate, entry.tls_client_key
        ),
        transport=entry.transport,
        http2=entry.http2,
        targets=tuple(_target_specs(entry.targets)),
        eject=EjectPolicy(
            entry.eject_after,
            entry.eject_base_ms / 1000,
            entry.eject_max_ms / 1000,
            entry.eject_max_percent / 100,
            frozenset(entry.eject_on),
            frozenset(status for low, high in status_ranges(entry.eject_statuses) for status in range(low, high + 1)),
        ),
        probe=_probe_policy(entry),
        hashing=_hash_policy(entry),
        sticky=_sticky_policy(entry),
        slow_start_s=entry.slow_start_ms / 1000,
        care=_care_policy(entry),
        discovery=_discovery_policy(entry),
    )


def _discovery_policy(entry: UpstreamEntry) -> DiscoveryPolicy | None:
    match entry.discovery:
        case "dns":
            return DiscoveryPolicy("dns", entry.discovery_name, entry.discovery_port, resolver=entry.discovery_resolver)
        case "srv":
            return DiscoveryPolicy("srv", entry.discovery_name, resolver=entry.discovery_resolver)
        case "http":
            return DiscoveryPolicy("http", url=entry.discovery_url, interval_s=entry.discovery_interval_ms / 1000)
    return None


def _care_policy(entry: UpstreamEntry) -> CarePolicy | None:
    """None where nothing of it is asked for: such requests go the short way."""
    breaker = BreakerPolicy(
        error_share=entry.breaker_error_percent / 100,
        slow_s=entry.breaker_slow_ms / 1000,
        slow_share=entry.breaker_slow_percent / 100,
        min_requests=entry.breaker_min_requests,
        window_s=entry.breaker_window_ms / 1000,
        open_s=entry.breaker_open_ms / 1000,
    )
    breaks = bool(entry.breaker_error_percent or entry.breaker_slow_ms)
    repeats = entry.retry_statuses or entry.retry_on_timeout or entry.retry_all_methods or entry.retry_body_bytes
    if not (breaks or repeats or entry.max_concurrency or entry.hedge_after_ms):
        return None
    return CarePolicy(
        breaker=breaker if breaks else None,
        max_concurrency=entry.max_concurrency,
        max_queue=entry.max_queue,
        queue_timeout_s=entry.queue_timeout_ms / 1000,
        retry_statuses=frozenset(entry.retry_statuses),
        retry_on_timeout=entry.retry_on_timeout,
        retry_all=entry.retry_all_methods,
        backoff_s=entry.retry_backoff_ms / 1000,
        body_bytes=entry.retry_body_bytes,
        budget_share=entry.retry_budget_percent / 100,
        hedge_s=entry.hedge_after_ms / 1000,
    )


def _probe_policy(entry: UpstreamEntry) -> ProbePolicy | None:
    if entry.probe == "none":
        return None
    return ProbePolicy(
        kind=entry.probe,
        path=entry.probe_path,
        host=entry.probe_host,
        interval_s=entry.probe_interval_ms / 1000,
        timeout_s=entry.probe_timeout_ms / 1000,
        healthy_after=entry.probe_healthy_after,
        unhealthy_after=entry.probe_unhealthy_after,
        statuses=status_ranges(entry.probe_statuses),
        body=entry.probe_body.encode(),
        down_interval_s=entry.probe_down_interval_ms / 1000,
    )


def _hash_policy(entry: UpstreamEntry) -> HashPolicy:
    name = {"header": entry.hash_on_header, "cookie": entry.hash_on_cookie}.get(entry.hash_on, "")
    return HashPolicy(entry.hash_on, name.encode("ascii"))


def _sticky_policy(entry: UpstreamEntry) -> StickyPolicy | None:
    if not entry.sticky_cookie:
        return None
    return StickyPolicy(
        cookie=entry.sticky_cookie.encode("ascii"),
        max_age_s=entry.sticky_max_age_s,
        path=entry.sticky_path,
        secure=entry.sticky_secure,
        http_only=entry.sticky_http_only,
        same_site=entry.sticky_same_site,
    )


def _target_specs(targets: Iterable[TargetEntry]) -> Iterator[TargetSpec]:
    for target in targets:
        if target.enabled:
            yield TargetSpec(id=target.id, host=target.host, port=target.port, weight=target.weight)


def _route_spec(entry: RouteEntry) -> RouteSpec:
    return RouteSpec(
        id=entry.id,
        name=entry.name,
        hosts=tuple(entry.hosts),
        paths=tuple(entry.paths),
        methods=frozenset(entry.methods),
        headers=_conditions(entry.header_conditions),
        query=_conditions(entry.query_conditions),
        upstreams=tuple(WeightedUpstream(part.name, part.weight) for part in entry.upstreams),
        priority=entry.priority,
        strip_path=entry.strip_path,
        preserve_host=entry.preserve_host,
        path_rewrite=entry.path_rewrite,
        max_body_bytes=entry.max_body_bytes,
        tags=tuple(entry.tags),
    )


def _conditions(conditions: Mapping[str, list[str]]) -> tuple[FieldCondition, ...]:
    return tuple(FieldCondition(name, tuple(values)) for name, values in sorted(conditions.items()))


#: By which of route, upstream and consumer a setting names.
_SCOPES: dict[tuple[bool, bool, bool], Scope] = {
    (False, False, False): "global",
    (True, False, False): "route",
    (False, True, False): "upstream",
    (False, False, True): "consumer",
    (True, False, True): "route_consumer",
    (False, True, True): "upstream_consumer",
}


def _plugin_spec(entry: PluginEntry, config: Any) -> PluginSpec:
    return PluginSpec(
        id=entry.id,
        name=entry.name,
        scope=_SCOPES[bool(entry.route), bool(entry.upstream), bool(entry.consumer)],
        route=entry.route,
        upstream=entry.upstream,
        consumer_id=entry.consumer_id,
        config=config,
        when=_when(entry.when),
        dry_run=entry.dry_run,
    )


def _when(when: Mapping[str, Any]) -> When | None:
    if not when:
        return None
    return When(
        methods=frozenset(when.get("methods", ())),
        headers=tuple(sorted(when.get("headers", {}).items())),
        groups=frozenset(when.get("groups", ())),
        networks=tuple(when.get("networks", ())),
        paths=tuple(when.get("paths", ())),
    )
