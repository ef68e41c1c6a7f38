"""Paths of the configuration, under `/admin/v1/`."""

from __future__ import annotations

from django.urls import path

from routes.api import explain, plugins, versions, views
from routes.api.bulk import BulkView
from routes.api.cache import CachePurge
from routes.api.whole import RouteRows

urlpatterns = [
    path("upstreams", views.UpstreamRows.as_view(), name="upstreams"),
    path("upstreams/<str:ref>", views.UpstreamRow.as_view(), name="upstream"),
    path("upstreams/<str:ref>/discovery", views.UpstreamDiscovery.as_view(), name="upstream-discovery"),
    path("upstreams/<str:upstream>/targets", views.TargetRows.as_view(), name="targets"),
    path("upstreams/<str:upstream>/targets/<str:ref>", views.TargetRow.as_view(), name="target"),
    path("routes", RouteRows.as_view(), name="routes"),
    path("routes/<str:ref>", views.RouteRow.as_view(), name="route"),
    path("plugins", plugins.Plugins.as_view(), name="plugins"),
    path("plugins/<str:name>", plugins.PluginView.as_view(), name="plugin"),
    path("plugin-settings", views.SettingRows.as_view(), name="plugin-settings"),
    path("plugin-settings/<str:ref>", views.SettingRow.as_view(), name="plugin-setting"),
    path("versions", versions.VersionRows.as_view(), name="versions"),
    path("versions/publish", versions.Publish.as_view(), name="publish"),
    path("versions/<str:ref>", versions.VersionRow.as_view(), name="version"),
    path("versions/<str:ref>/diff", versions.VersionDiff.as_view(), name="diff"),
    path("versions/<str:ref>/rollback", versions.Rollback.as_view(), name="rollback"),
    path("config", versions.Config.as_view(), name="config"),
    path("bulk", BulkView.as_view(), name="bulk"),
    path("cache/purge", CachePurge.as_view(), name="cache-purge"),
    path("explain", explain.Explain.as_view(), name="explain"),
]
