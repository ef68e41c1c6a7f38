"""Config: versions and what differs between them, publishing and rolling back, and what each worker serves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import path

from dashboard import edits
from dashboard.page import Guarded, Page
from routes import masking, portable, selectors, services
from routes.difference import RowChange, changes
from routes.models import ConfigVersion, WorkerReport
from routes.problems import CompileError

PER_PAGE = 20
#: Workers that reported within this time are shown, if only as gone.
SHOWN_SPAN = timedelta(hours=1)


class Config(Page):
    template_name = "dashboard/config.html"
    title, nav = "Config", "config"
    permissions = ("routes.view_configversion",)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        versions = ConfigVersion.objects.defer("document")
        live = selectors.live_document()
        shown = Paginator(versions, PER_PAGE).get_page(self.request.GET.get("page"))
        return super().get_context_data(
            live_number=live[0] if live else 0,
            shown=shown,
            workers=self._workers(live[0] if live else 0),
            autopublish=settings.ENVIRONMENT.autopublish,
            **self._draft(live[2] if live else {}),
            **self._compared(),
            **context,
        )

    def _draft(self, live: dict[str, Any]) -> dict[str, Any]:
        """Of every edit that is not live: gathered ones, and what was changed past the dashboard."""
        working = selectors.working_document()
        pending = _changes(live, working)
        return {"pending": pending, "pending_problems": services.problems_of(working) if pending else ()}

    def _workers(self, live_number: int) -> list[dict[str, Any]]:
        if not self.request.user.has_perm("routes.view_workerreport"):
            return []
        reports = WorkerReport.objects.exclude(role="admin").filter(seen_at__gt=self.now - SHOWN_SPAN)
        gone = self.now - timedelta(seconds=selectors.WORKER_GONE_S)
        return [
            {"report": report, "gone": report.seen_at < gone, "behind": report.version != live_number}
            for report in reports
        ]

    def _compared(self) -> dict[str, Any]:
        """`?to=7` against the version before it, `?from=3&to=7` any two."""
        if not self.request.GET.get("to"):
            return {"compared": None}
        after = _version(self.request.GET["to"])
        first = self.request.GET.get("from")
        before = _version(first) if first else ConfigVersion.objects.filter(number__lt=after.number).first()
        return {
            "compared": after,
            "before": before,
            "differences": _changes(before.document if before else {}, after.document),
        }


class RollBack(Page):
    """GET says what would change, POST does it."""

    template_name = "dashboard/rollback.html"
    nav = "config"
    permissions = ("routes.view_configversion", "routes.publish_config")

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        version = _version(str(context["number"]))
        return super().get_context_data(
            title=f"Roll back to version {version.number}",
            version=version,
            differences=_changes(selectors.working_document(), version.document),
            problems=services.problems_of(version.document),
            **context,
        )

    def post(self, request: HttpRequest, number: int) -> HttpResponse:
        get_object_or_404(ConfigVersion.objects.defer("document"), number=number)
        comment = request.POST.get("comment", "").strip()[:1000]
        edits.publish(request, partial(services.rollback, number, author=request.user, comment=comment))
        return redirect("dashboard:config")


class Publish(Guarded):
    permissions = ("routes.view_configversion",)
    writes = ("routes.publish_config",)
    http_method_names = ["post"]

    def post(self, request: HttpRequest) -> HttpResponse:
        comment = request.POST.get("comment", "").strip()[:1000]
        write = partial(services.publish, author=request.user, source=edits.SOURCE, comment=comment)
        edits.publish(request, write)
        return redirect("dashboard:config")


class Export(Guarded):
    """A version as the YAML file that `manage.py config import` takes. Secrets are masked: it leaves the gateway."""

    permissions = ("routes.view_configversion",)
    http_method_names = ["get"]

    def get(self, request: HttpRequest, number: int) -> HttpResponseBase:
        try:
            text = portable.to_yaml(masking.mask_document(_version(str(number)).document))
        except CompileError as error:
            return HttpResponse(str(error), status=409, content_type="text/plain; charset=utf-8")
        response = HttpResponse(text, content_type="application/yaml; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="hydragate-{number}.yaml"'
        return response


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[RowChange]:
    return changes(masking.mask_document(before), masking.mask_document(after))


def _version(text: str) -> ConfigVersion:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise Http404("A version is a number.")
    return get_object_or_404(ConfigVersion, number=int(text))


urlpatterns = [
    path("config/", Config.as_view(), name="config"),
    path("config/publish/", Publish.as_view(), name="config-publish"),
    path("config/<int:number>/rollback/", RollBack.as_view(), name="config-rollback"),
    path("config/<int:number>/export/", Export.as_view(), name="config-export"),
]
