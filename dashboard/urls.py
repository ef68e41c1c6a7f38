"""The dashboard's URLs: each page is a module of `dashboard.pages` with its own `urlpatterns`."""

from __future__ import annotations

from django.urls import include, path

app_name = "dashboard"

#: In the order of the sidebar.
PAGES = (
    "dashboard.pages.overview",
    "dashboard.pages.requests",
    "dashboard.pages.routes",
    "dashboard.pages.upstreams",
    "dashboard.pages.websockets",
    "dashboard.pages.traces",
    "dashboard.pages.keys",
    "dashboard.pages.issuing",
    "dashboard.pages.config",
    "dashboard.pages.start",
)  # fmt: skip

urlpatterns = [path("", include(page)) for page in PAGES]
