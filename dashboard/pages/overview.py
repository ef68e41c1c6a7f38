"""Overview: how the gateway does, at a glance; and the same as JSON, to refresh the page without a reload."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.template.loader import render_to_string
from django.urls import path

from dashboard.overview import overview, page_url, requests_url
from dashboard.page import Guarded, Page
from dashboard.timerange import TimeRange
from routes.models import Route

PERMISSIONS = ("dashboard.view_usagerow",)
#: What changes with time: id of an element → the template of what is in it.
PARTS = {name: f"dashboard/parts/overview_{name}.html" for name in ("stats", "tops", "state")}


class Overview(Page):
    template_name = "dashboard/overview.html"
    title, nav = "Overview", "overview"
    ranged = True
    permissions = PERMISSIONS

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        has_routes = Route.objects.exists()
        return super().get_context_data(has_routes=has_routes, **shown(self.range), **context)


class OverviewData(Guarded):
    """The numbers of the charts, and the parts of the page that change, rendered."""

    permissions = PERMISSIONS

    def get(self, request: HttpRequest) -> JsonResponse:
        context = shown(self.range)
        parts = {name: render_to_string(template, context, request) for name, template in PARTS.items()}
        return JsonResponse({"charts": context["overview"].charts, "parts": parts})


def shown(range_: TimeRange) -> dict[str, Any]:
    return {
        "overview": overview(range_),
        "range": range_,
        "links": {
            "requests": requests_url(range_),
            "errors": requests_url(range_, **{"class": 5}),
            "limited": requests_url(range_, outcome="rate_limited"),
            "routes": page_url(range_, "routes"),
            "keys": page_url(range_, "keys"),
            "config": page_url(range_, "config"),
            "upstreams": page_url(range_, "upstreams"),
        },
    }


urlpatterns = [
    path("", Overview.as_view(), name="overview"),
    path("overview.json", OverviewData.as_view(), name="overview-data"),
]
