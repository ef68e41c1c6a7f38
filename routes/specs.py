"""What the gateway runs by, made of a document's entries that are checked already. See `routes.compile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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
    StickyPolicy,
    TargetSpec,
    TlsSpec,
    UpstreamSpec,
    WeightedUpstream,
    When,
)
from routes.document import PluginEntry, RouteEntry
from routes.syntax import status_ranges
from routes.upstreams import TargetEntry, UpstreamEntry


def upstream_spec(entry: UpstreamEntry) -> UpstreamSpec:
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


def route_spec(entry: RouteEntry) -> RouteSpec:
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


def plugin_spec(entry: PluginEntry, config: Any) -> PluginSpec:
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
