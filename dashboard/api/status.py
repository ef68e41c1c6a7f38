"""What runs: the live version, the workers and what each serves, what is degraded, and how the upstreams do."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

import redis
from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework.request import Request
from rest_framework.response import Response

from dashboard import selectors
from dashboard.api import examples, living
from dashboard.guards import GuardState, guarded
from gateway.api.lists import check_parameters
from gateway.api.views import ApiView
from routes.health import Health, Healths
from routes.models import Target, Upstream, WorkerReport
from routes.selectors import live_version, workers

WINDOW = timedelta(minutes=15)
TIMEOUT_S = 0.2
_SHOWN = ("state", "since", "nodes", "failures", "fault", "in_flight", "latency_ms")
_MOST_UPSTREAMS = 100_000  # of a ranking that shall leave none out


class Status(ApiView):
    permissions = dict.fromkeys(("GET", "HEAD"), ("routes.view_workerreport", "routes.view_upstream"))

    @extend_schema(
        summary="Status of the gateway",
        responses=living.GatewayStatus,
        examples=[examples.answer("One worker", examples.STATUS)],
    )
    def get(self, request: Request) -> Response:
        """The gateway now. A worker counts while it reports, which it does every few seconds."""
        check_parameters(request, ())
        number, digest = live_version()
        alive = list(workers())
        status = living.GatewayStatus(
            version=living.LiveVersion(number=number, digest=digest),
            workers=[_worker(worker, number) for worker in alive],
            degraded=_degraded(number, alive),
            window_s=int(WINDOW.total_seconds()),
            upstreams=_upstreams(),
        )
        return Response(status.model_dump())


def _worker(worker: WorkerReport, live: int) -> living.WorkerStatus:
    names = ("node", "worker", "pid", "role", "version", "applied_at", "apply_ms", "seen_at", "error")
    return living.WorkerStatus(**{name: getattr(worker, name) for name in names}, current=worker.version >= live)


def _degraded(live: int, alive: list[WorkerReport]) -> list[living.Degraded]:
    """PostgreSQL is not among them: without it this answer is a 503."""
    found: list[tuple[str, str]] = []
    if not alive:
        found.append(("workers", "No worker reports: nothing serves traffic."))
    found += [
        (f"worker {worker}", f"Serves version {worker.version}, not {live}: {worker.error}")
        for worker in alive
        if worker.error
    ]
    if not _redis_answers(settings.REDIS_URL):
        found.append(("redis", "Redis does not answer: limits go by their `on_error`, changes arrive by polling."))
    return [living.Degraded(part=part, detail=detail) for part, detail in found]


def _upstreams() -> list[living.UpstreamStatus]:
    """Four queries, however many there are."""
    now, healths, guards = timezone.now(), Healths(), guarded()
    shares: dict[Any, selectors.Share] = {
        share.value: share for share in selectors.top(now - WINDOW, now, "upstream_id", limit=_MOST_UPSTREAMS)
    }
    return [
        _upstream(upstream, shares.get(upstream.pk), healths, guards.get(upstream.name))
        for upstream in Upstream.objects.prefetch_related("targets")
    ]


def _upstream(
    upstream: Upstream, share: selectors.Share | None, healths: Healths, guard: GuardState | None
) -> living.UpstreamStatus:
    return living.UpstreamStatus(
        id=upstream.pk,
        name=upstream.name,
        balancing=upstream.balancing,
        guard=guard and living.GuardStatus.model_validate(guard),
        requests=share.requests if share else 0,
        server_errors=share.server_errors if share else 0,
        error_share=share.server_errors / share.requests if share else None,
        targets=[_target(target, healths.of(upstream, target)) for target in healths.targets(upstream)],
    )


def _target(target: Target, health: Health) -> living.TargetStatus:
    probe = health.probe
    return living.TargetStatus(
        id=target.pk or 0,
        address=str(target),
        weight=target.weight,
        enabled=target.enabled,
        **{name: getattr(health, name) for name in _SHOWN},
        nodes_agreeing=health.on,
        probe=probe
        and living.ProbeStatus(at=health.probed_at, fault=probe.fault, took_ms=probe.took_ms, streak=probe.streak),
    )


def _redis_answers(url: str) -> bool:
    try:
        return bool(_client(url).ping())
    except (redis.RedisError, OSError):
        return False


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
