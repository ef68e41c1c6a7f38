"""Overview: how the gateway does, at a glance."""

from __future__ import annotations

from django.urls import path

from dashboard.page import Page


class Overview(Page):
    template_name = "dashboard/overview.html"
    title, nav = "Overview", "overview"
    ranged = True
    permissions = ("dashboard.view_usagerow",)


urlpatterns = [path("", Overview.as_view(), name="overview")]
