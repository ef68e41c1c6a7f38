"""Page: what every page of the dashboard is. Staff only, Django's permissions, a range of time from the query."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.generic import TemplateView, View

from dashboard.timerange import RANGES, TimeRange, parse


class Guarded(View):
    """A view for staff who have all of `permissions` (`app.codename`); `writes` are asked for on anything but a GET.

    Who is not logged in is sent to the login page, who lacks a permission gets a 403. Django's CSRF middleware
    covers the rest.
    """

    permissions: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = request.user
        if not (user.is_authenticated and user.is_staff):
            return redirect_to_login(request.get_full_path())
        needed = self.permissions if request.method in ("GET", "HEAD") else (*self.permissions, *self.writes)
        if not user.has_perms(needed):
            raise PermissionDenied
        response = super().dispatch(request, *args, **kwargs)
        response.setdefault("Cache-Control", "no-store")
        return response

    @cached_property
    def now(self) -> datetime:
        return timezone.now()

    @cached_property
    def range(self) -> TimeRange:
        return parse(self.request.GET, self.now)


class Page(Guarded, TemplateView):
    """Its template extends `dashboard/base.html` and knows: `page` (this view), `title`, `range`, `ranges`, `now`."""

    title: ClassVar[str] = ""
    nav: ClassVar[str] = ""  # the URL name of the entry in the sidebar that is marked as the current one
    ranged: ClassVar[bool] = False  # whether it shows the picker of ranges

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        return super().get_context_data(
            **{
                "page": self,
                "title": self.title,
                "range": self.range,
                "ranges": RANGES,
                "now": self.now,
                **context,
            }
        )
