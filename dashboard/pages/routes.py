"""Routes: the list with its switches, and one route with the way of its requests drawn."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.utils.http import url_has_allowed_host_and_scheme

from dashboard import edits, latest, listing
from dashboard.figures import figures
from dashboard.flow import example, flow
from dashboard.page import Guarded, Page
from dashboard.snippets import traffic_url
from gateway.plugins.purges import Purge
from gateway.proxy.snapshot import RouteSpec, Snapshot
from keys.models import Consumer
from routes import purging, snapshots
from routes.catalogue import registry
from routes.health import Healths
from routes.models import Route
from routes.problems import CompileError

PER_PAGE = 50
LATEST_ROWS = 20
LATEST_SPAN = timedelta(days=7)


class Routes(Page):
    template_name = "dashboard/routes.html"
    title, nav = "Routes", "routes"
    permissions = ("routes.view_route",)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        filters = listing.Filters.parse(self.request.GET)
        shown = Paginator(listing.ids(filters, self.now), PER_PAGE).get_page(self.request.GET.get("page"))
        return super().get_context_data(
            filters=filters,
            shown=shown,
            rows=listing.rows(list(shown), self.now),
            choices=listing.choices(),
            sorts=listing.SORTS,
            **context,
        )


class RouteSwitch(Guarded):
    """POST `enabled=on`, or nothing for off. htmx is given the switch as it now is, others are sent back."""

    permissions = ("routes.view_route",)
    writes = ("routes.change_route",)
    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        route = get_object_or_404(Route, pk=pk)
        enabled = request.POST.get("enabled") == "on"
        edits.edit(request, f"{'Enabled' if enabled else 'Disabled'} route {route}.", lambda: self._write(pk, enabled))
        route.refresh_from_db()
        if request.headers.get("HX-Request"):
            return edits.toasts(request, render(request, "dashboard/parts/route_switch.html", {"route": route}))
        back = request.POST.get("next", "")
        safe = url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure())
        return redirect(back if safe else "dashboard:routes")

    def _write(self, pk: int, enabled: bool) -> None:
        route = Route.objects.get(pk=pk)  # under the writers' lock
        route.enabled = enabled
        route.save(update_fields=["enabled", "updated_at"])


class RoutePurge(Guarded):
    """POST: what response-cache keeps of this route is no longer used."""

    permissions = ("routes.view_route",)
    writes = ("routes.change_route",)
    http_method_names = ["post"]

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        route = get_object_or_404(Route, pk=pk)
        try:
            purges = [Purge("all", route=route.pk)]
            purging.purge(purges, author=request.user, route=route, wanted={"everything": True})
            messages.success(request, f"Kept answers of route {route} are no longer used.")
        except purging.StoreUnavailable:
            messages.error(request, "Nothing was purged: Redis is away, so workers would not hear of it.")
        return redirect("dashboard:route", pk=pk)


class RouteDetail(Page):
    template_name = "dashboard/route.html"
    nav = "routes"
    ranged = True
    permissions = ("routes.view_route",)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.route = get_object_or_404(Route, pk=kwargs["pk"])
        return super().get(request, *args, **kwargs)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        return super().get_context_data(
            title=self.route.name,
            route=self.route,
            latest=self._latest(),
            **figures(self.range, route_id=self.route.pk),
            **self._drawn(),
            **context,
        )

    @cached_property
    def may_see_requests(self) -> bool:
        return self.request.user.has_perm("dashboard.view_usagerow")

    def _latest(self) -> Any:
        if not self.may_see_requests:
            return []
        wish = latest.Wish(self.now - LATEST_SPAN, self.now + timedelta(minutes=1), route_id=self.route.pk)
        return latest.page(wish, size=LATEST_ROWS).rows

    def _drawn(self) -> dict[str, Any]:
        """The flow from what is live; of a route that is not live, from what it would be."""
        try:
            snapshot = snapshots.live()
            spec = _find(snapshot, self.route.pk)
            is_live = spec is not None
            if spec is None:
                snapshot = snapshots.with_route(self.route)
                spec = _find(snapshot, self.route.pk)
        except CompileError as error:
            return {"problems": error.problems}
        assert snapshot is not None  # the route was found in it
        assert spec is not None
        drawn = flow(snapshot, spec, registry().names)
        names = Consumer.objects.filter(pk__in=drawn.consumer_ids).values_list("pk", "username")
        return {
            "flow": drawn,
            "is_live": is_live,
            "keeps": any(one.name == "response-cache" and one.route in ("", spec.name) for one in snapshot.plugins),
            "consumers": dict(names),
            "healths": Healths(),
            "curl": example(drawn, traffic_url(self.request)),
        }


def _find(snapshot: Snapshot | None, pk: int) -> RouteSpec | None:
    return next((route for route in snapshot.routes if route.id == pk), None) if snapshot else None


urlpatterns = [
    path("routes/", Routes.as_view(), name="routes"),
    path("routes/<int:pk>/", RouteDetail.as_view(), name="route"),
    path("routes/<int:pk>/purge/", RoutePurge.as_view(), name="route-purge"),
    path("routes/<int:pk>/switch/", RouteSwitch.as_view(), name="route-switch"),
]
