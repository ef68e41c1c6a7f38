"""Upstreams: their targets, what each takes of the traffic, and the drain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from django.contrib import messages
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path

from dashboard import breakdown, edits
from dashboard.breakdown import Day, TargetUsage, last_day
from dashboard.figures import figures
from dashboard.guards import GuardState, guarded
from dashboard.page import Guarded, Page
from routes.health import Health, Healths
from routes.models import RouteUpstream, Target, Upstream
from routes.parts import bounds
from routes.selectors import former_weights
from routes.upstreams import TargetFields

#: What a target without a past gets back.
DEFAULT_WEIGHT: int = TargetFields.model_fields["weight"].default
MAX_WEIGHT = bounds(TargetFields)["weight"][1]


@dataclass(frozen=True, slots=True)
class Aim:
    """A target. `share`: of its upstream's traffic by the weights, 0 to 1. `former`: the weight to restore."""

    target: Target
    share: float
    health: Health
    usage: TargetUsage | None = None
    former: int = DEFAULT_WEIGHT

    @property
    def state(self) -> str:
        return self.health.state

    @property
    def serves(self) -> bool:
        return self.state in ("up", "unknown")

    @property
    def address(self) -> str:
        return str(self.target)


@dataclass(slots=True)
class Row:
    upstream: Upstream
    aims: list[Aim]
    routes: int
    day: Day
    guard: GuardState | None = None

    @property
    def serving(self) -> int:
        return sum(aim.serves for aim in self.aims)


class Upstreams(Page):
    template_name = "dashboard/upstreams.html"
    title, nav = "Upstreams", "upstreams"
    permissions = ("routes.view_upstream",)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        wanted = self.request.GET.get("q", "").strip()
        found = Upstream.objects.prefetch_related("targets", Prefetch("branches", RouteUpstream.objects.order_by()))
        if wanted:
            found = found.filter(name__icontains=wanted) | found.filter(targets__host__icontains=wanted)
        upstreams: list[Any] = list(found.distinct())
        healths = Healths()
        guards = guarded() if any(map(_is_guarded, upstreams)) else {}
        days = last_day("upstream_id", [upstream.pk for upstream in upstreams], self.now)
        rows = [
            Row(
                upstream,
                aims(upstream, healths.targets(upstream), healths),
                len(upstream.branches.all()),
                days[upstream.pk],
                guards.get(upstream.name),
            )
            for upstream in upstreams
        ]
        return super().get_context_data(rows=rows, q=wanted, **context)


class UpstreamDetail(Page):
    template_name = "dashboard/upstream.html"
    nav = "upstreams"
    ranged = True
    permissions = ("routes.view_upstream",)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.upstream = get_object_or_404(Upstream, pk=kwargs["pk"])
        return super().get(request, *args, **kwargs)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        upstream = self.upstream
        branches = list(upstream.branches.select_related("route").order_by("route__name"))
        healths = Healths()
        targets = healths.targets(upstream)
        usage = breakdown.targets(upstream.pk, [branch.route_id for branch in branches], self.now)
        former = former_weights([target.pk for target in targets if target.pk and not target.weight])
        return super().get_context_data(
            title=upstream.name,
            upstream=upstream,
            aims=aims(upstream, targets, healths, usage, former),
            discovery=healths.discovery(upstream),
            guard=_guard(upstream),
            branches=branches,
            sampled=sum(one.requests for one in usage.values()),
            gone={address: one for address, one in usage.items() if address not in set(map(str, targets))},
            max_weight=MAX_WEIGHT,
            **figures(self.range, upstream_id=upstream.pk),
            **context,
        )


def _guard(upstream: Upstream) -> GuardState | None:
    """None: nothing guards it, so nobody is asked."""
    if not _is_guarded(upstream):
        return None
    return guarded().get(upstream.name) or GuardState("unused" if _has_breaker(upstream) else None)


def _is_guarded(upstream: Upstream) -> bool:
    return bool(_has_breaker(upstream) or upstream.max_concurrency)


def _has_breaker(upstream: Upstream) -> bool:
    return bool(upstream.breaker_error_percent or upstream.breaker_slow_ms)


def aims(
    upstream: Upstream,
    targets: Iterable[Target],
    healths: Healths,
    usage: Mapping[str, TargetUsage] = MappingProxyType({}),
    former: Mapping[int, int] = MappingProxyType({}),
) -> list[Aim]:
    """In the order given."""
    targets = list(targets)
    total = sum(target.weight for target in targets if target.enabled)
    return [
        Aim(
            target,
            target.weight / total if total and target.enabled else 0.0,
            healths.of(upstream, target),
            usage.get(str(target)),
            former.get(target.pk, DEFAULT_WEIGHT),
        )
        for target in targets
    ]


class TargetWeight(Guarded):
    """POST `weight`: 0 drains (requests under way go on, new ones go elsewhere), anything else restores."""

    permissions = ("routes.view_upstream",)
    writes = ("routes.change_target",)
    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        target = get_object_or_404(Target.objects.select_related("upstream"), pk=pk)
        text = request.POST.get("weight", "")
        if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= MAX_WEIGHT):
            messages.error(request, f"A weight is a whole number from 0 to {MAX_WEIGHT}.")
        else:
            weight = int(text)
            done = f"Restored {target} to weight {weight}" if weight else f"Drained {target}"
            edits.edit(request, f"{done} in upstream {target.upstream}.", lambda: self._write(pk, weight))
        return redirect("dashboard:upstream", target.upstream_id)

    def _write(self, pk: int, weight: int) -> None:
        target = Target.objects.get(pk=pk)  # under the writers' lock
        target.weight = weight
        target.save(update_fields=["weight"])


urlpatterns = [
    path("upstreams/", Upstreams.as_view(), name="upstreams"),
    path("upstreams/<int:pk>/", UpstreamDetail.as_view(), name="upstream"),
    path("upstreams/targets/<int:pk>/weight/", TargetWeight.as_view(), name="target-weight"),
]
