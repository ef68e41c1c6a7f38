"""Usage, status, open WebSockets and traces in the admin API, and the calls that show how to use a new key."""

from __future__ import annotations

from django.urls import path
from rest_framework.request import Request

from dashboard.api.rows import Rows
from dashboard.api.status import Status
from dashboard.api.traces import TraceRead, TracesBegin
from dashboard.api.usage import Series, Summary, Top
from dashboard.api.websockets import WebSocketClose, WebSockets, WebSocketsClose
from dashboard.snippets import door, snippets, traffic_url

urlpatterns = [
    path("usage/summary", Summary.as_view(), name="usage-summary"),
    path("usage/series", Series.as_view(), name="usage-series"),
    path("usage/top", Top.as_view(), name="usage-top"),
    path("usage/rows", Rows.as_view(), name="usage-rows"),
    path("websockets", WebSockets.as_view(), name="websockets"),
    path("websockets/close", WebSocketsClose.as_view(), name="websockets-close"),
    path("websockets/<str:ref>/close", WebSocketClose.as_view(), name="websocket-close"),
    path("traces", TracesBegin.as_view(), name="traces"),
    path("traces/<str:ref>", TraceRead.as_view(), name="trace"),
    path("status", Status.as_view(), name="status"),
]


def key_snippets(request: Request, secret: str) -> dict[str, str]:
    """Language → a call of a route that asks for a key, with this one. Two queries."""
    return {snippet.slug: snippet.text for snippet in snippets(traffic_url(request._request), door(), secret)}
