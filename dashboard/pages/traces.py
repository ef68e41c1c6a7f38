"""Traces of requests: begun by a form, read where it leads to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import path, reverse

from dashboard import traces
from dashboard.page import Page
from dashboard.rollcall import RedisAway
from dashboard.traces import Wish
from gateway.proxy.tracing import MAX_REQUESTS, MAX_SECONDS

FILTERS = ("route", "consumer", "client_ip")


class Traces(Page):
    """GET `id`, or a form for a new one; POST begins one."""

    template_name = "dashboard/traces.html"
    title, nav = "Traces", "traces"
    permissions = ("dashboard.view_usagerow", "routes.view_route", "routes.view_pluginsetting")

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        id_, found, away = self.request.GET.get("id", ""), None, ""
        try:
            found = traces.found(id_) if id_ else None
        except RedisAway as error:
            away = str(error)
        return super().get_context_data(
            found=found,
            gone=bool(id_) and found is None and not away,
            away=away,
            wish=wish_of(self.request.GET),
            bounds={"requests": MAX_REQUESTS, "seconds": MAX_SECONDS},
            **context,
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        wish = wish_of(request.POST)
        query = {name: value for name in FILTERS if (value := getattr(wish, name))}
        query |= {"requests": str(wish.requests), "seconds": str(wish.seconds)}
        try:
            begun = traces.begin(wish)
        except RedisAway as error:
            messages.error(request, f"No trace was begun. {error}")
        else:
            query["id"] = begun.id
            if not begun.workers:
                messages.warning(request, "No worker answers, so there is nobody to trace requests.")
            elif begun.silent:
                messages.warning(request, f"No answer from {', '.join(begun.silent)}: requests there are not traced.")
        return redirect(f"{reverse('dashboard:traces')}?{urlencode(query)}")


def wish_of(query: QueryDict) -> Wish:
    texts = {name: query.get(name, "").replace("\0", "").strip()[:200] for name in FILTERS}
    requests = _number(query.get("requests", ""), traces.REQUESTS, MAX_REQUESTS)
    return Wish(**texts, requests=requests, seconds=_number(query.get("seconds", ""), traces.SECONDS, MAX_SECONDS))


def _number(text: str, default: int, most: int) -> int:
    return min(max(1, int(text)), most) if text.isascii() and text.isdecimal() and len(text) < 6 else default


urlpatterns = [path("traces/", Traces.as_view(), name="traces")]
