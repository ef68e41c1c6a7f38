"""Open WebSockets of all workers, and the buttons that end them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import path, reverse

from dashboard import websockets
from dashboard.page import Guarded, Page
from dashboard.rollcall import RedisAway
from dashboard.snippets import traffic_url
from dashboard.websockets import Closed, Listed, Place, Wish
from routes.selectors import workers

PER_PAGE = 100
FILTERS = ("route", "consumer", "node")


class WebSockets(Page):
    template_name = "dashboard/websockets.html"
    title, nav = "WebSockets", "websockets"
    permissions = ("dashboard.view_usagerow",)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        wish = wish_of(self.request.GET)
        found, away = Listed([], 0, None, []), ""
        try:
            found = websockets.listed(wish, limit=PER_PAGE, before=Place.parse(self.request.GET.get("before", "")))
        except RedisAway as error:
            away = str(error)
        return super().get_context_data(
            found=found,
            away=away,
            wish=wish,
            nodes=sorted({*workers().values_list("node", flat=True), *filter(None, [wish.node])}),
            address=traffic_url(self.request).replace("http", "ws", 1),
            **context,
        )


class WebSocketsClose(Guarded):
    """POST `id`, or `route`, `consumer` and `node` as the list was narrowed; these come back as its filters, too."""

    permissions = ("dashboard.view_usagerow",)
    writes = ("routes.change_route",)
    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        narrowed = wish_of(request.POST)
        wish = Wish(id=request.POST["id"]) if request.POST.get("id") else narrowed
        if not wish.narrowed:
            messages.error(request, "Nothing was closed: narrow the list to a route, a consumer or a node first.")
        else:
            self._close(request, wish)
        query = urlencode({name: value for name in FILTERS if (value := getattr(narrowed, name))})
        return redirect(reverse("dashboard:websockets") + (f"?{query}" if query else ""))

    def _close(self, request: HttpRequest, wish: Wish) -> None:
        try:
            closed = websockets.close(wish, author=request.user)
        except RedisAway as error:
            messages.error(request, f"Nothing was closed. {error}")
            return
        if closed.silent:
            silent = ", ".join(closed.silent)
            messages.warning(
                request, f"{_words(closed)} No answer from {silent}: what is open there may be open still."
            )
        elif closed.count:
            messages.success(request, _words(closed))
        else:
            messages.info(request, "It has ended already." if wish.id else "None was open any more.")


def wish_of(query: QueryDict) -> Wish:
    return Wish(**{name: query.get(name, "").replace("\0", "").strip()[:200] for name in FILTERS})


def _words(closed: Closed) -> str:
    return f"Closed {closed.count} WebSocket{'' if closed.count == 1 else 's'}."


urlpatterns = [
    path("websockets/", WebSockets.as_view(), name="websockets"),
    path("websockets/close/", WebSocketsClose.as_view(), name="websockets-close"),
]
