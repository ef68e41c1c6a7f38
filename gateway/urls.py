"""Control-plane URLs, and the proxy as the catch-all where no better door is mounted (runserver, AsyncClient)."""

from __future__ import annotations

from django.conf import settings
from django.urls import URLPattern, URLResolver, include, path, re_path

from gateway import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("health", views.health),
    path("ready", views.ready),
    path("status", views.status),
    path("metrics", views.metrics_view),
]

if not settings.PROXY_ONLY:
    from django.contrib import admin

    from dashboard.api import urls as usage
    from gateway.api import pages
    from keys.api import urls as credentials
    from routes.api import urls as configuration

    v1 = [
        *pages.urlpatterns,
        *configuration.urlpatterns,
        *credentials.urlpatterns_with(usage.key_snippets),
        *usage.urlpatterns,
        pages.nowhere,
    ]
    urlpatterns.append(path("admin/v1/", include((v1, "v1"))))
    urlpatterns.append(path("admin/", admin.site.urls))
    urlpatterns.append(path("dashboard/", include("dashboard.urls")))
    urlpatterns.append(path("docs/", include("gateway.docs")))

if settings.ENVIRONMENT.role != "admin":  # an admin node has no recorder: traffic it passed would never be recorded
    # Not below the prefixes of the control plane: there Django says what is missing, if only a slash at the end.
    traffic = "" if settings.PROXY_ONLY else r"^(?!(?:admin|dashboard|docs|static)/)"
    urlpatterns.append(re_path(traffic, views.proxy))
