"""Control-plane URLs, and the proxy as the catch-all where no better door is mounted."""

from __future__ import annotations

from django.conf import settings
from django.urls import URLPattern, URLResolver, path

urlpatterns: list[URLPattern | URLResolver] = []

if not settings.PROXY_ONLY:
    from django.contrib import admin

    urlpatterns.append(path("admin/", admin.site.urls))
