"""The pages of what is published: versions, and the workers that serve them. To look at, to publish, to roll back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import mark_safe
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from keys import trail
from routes import masking, portable, selectors, services
from routes.difference import changes
from routes.document import SECTIONS
from routes.models import ConfigVersion, WorkerReport
from routes.problems import CompileError
from routes.publishing import announce

PUBLISH = "routes.publish_config"
MAX_ROWS_SHOWN = 200  # a larger configuration is a file to download, not a page to read
Shown = Callable[[Any, ConfigVersion], str]


def once(show: Shown) -> Shown:
    """The theme asks for a read-only field several times while it lays out one page."""

    @wraps(show)
    def shown(admin_: Any, version: ConfigVersion) -> str:
        memory = version.__dict__.setdefault("_shown", {})
        if show.__name__ not in memory:
            memory[show.__name__] = show(admin_, version)
        return str(memory[show.__name__])

    return shown


class ReadOnlyAdmin(ModelAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ConfigVersion)
class ConfigVersionAdmin(ReadOnlyAdmin):
    list_display = ("number", "is_live", "created_at", "author", "source", "comment", "short_digest")
    list_display_links = ("number", "comment")
    list_filter = ("source", "author")
    search_fields = ("comment", "author", "digest")
    fields = ("number", "is_live", "created_at", "author", "source", "comment", "digest", "changes", "file")
    readonly_fields = ("is_live", "changes", "file")
    actions_list = ("publish",)
    actions_detail = ("open_dashboard", "roll_back")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConfigVersion]:
        rows: QuerySet[ConfigVersion] = super().get_queryset(request)
        return rows.defer("document")

    @display(description="state", ordering="live", label={"live": "success"})
    def is_live(self, version: ConfigVersion) -> str:
        return "live" if version.live else "past"

    @admin.display(description="digest")
    def short_digest(self, version: ConfigVersion) -> str:
        return version.digest[:12]

    @admin.display(description="changes")
    @once
    def changes(self, version: ConfigVersion) -> str:
        """Against the version that was live before it."""
        steps = _steps(version.parent.document if version.parent else {}, version.document)
        return mark_safe(render_to_string("admin/steps.html", {"steps": steps, "nothing": "None."}))  # noqa: S308

    @admin.display(description="configuration")
    @once
    def file(self, version: ConfigVersion) -> str:
        rows = sum(len(version.document.get(section, ())) for section in SECTIONS)
        if rows <= MAX_ROWS_SHOWN:
            return _preformatted(portable.to_yaml(masking.mask_document(version.document)))
        url = reverse("dashboard:config-export", args=[version.number])
        return format_html('<a class="text-primary-600 underline" href="{}">Download as YAML</a>, {} rows.', url, rows)

    def has_publish_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        # A method, for unfold's check of a dotted permission asks the database before there is one.
        return request.user.has_perm(PUBLISH)

    @action(description="Publish", icon="publish", permissions=["publish"])
    def publish(self, request: Any) -> HttpResponse:
        """Drafts, and what was changed past the admin."""
        if request.method == "POST":
            comment = request.POST.get("comment", "")
            return self._go(request, partial(services.publish, author=request.user, source="admin", comment=comment))
        working, live = selectors.working_document(), selectors.live_document()
        steps = _steps(live[2] if live else {}, working)
        return self._confirm(request, "Publish the working copy", steps, services.problems_of(working))

    @action(description="Roll back to this", icon="undo", permissions=["publish"])
    def roll_back(self, request: Any, object_id: str) -> HttpResponse:
        version = get_object_or_404(ConfigVersion, pk=object_id)
        if request.method == "POST":
            comment = request.POST.get("comment", "")
            return self._go(request, partial(services.rollback, version.number, author=request.user, comment=comment))
        steps = _steps(selectors.working_document(), version.document)
        return self._confirm(request, f"Roll back to {version}", steps, services.problems_of(version.document))

    def _go(self, request: HttpRequest, write: Callable[[], ConfigVersion]) -> HttpResponse:
        try:
            announce(request, write().number)
        except CompileError as error:
            for problem in error.problems:
                messages.error(request, f"Nothing was published. {problem}")
        return HttpResponseRedirect(reverse("admin:routes_configversion_changelist"))

    @action(description="Dashboard", icon="monitoring", permissions=["view"])
    def open_dashboard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Any two versions compared, and what each worker serves."""
        return redirect(f"{reverse('dashboard:config')}?to={get_object_or_404(ConfigVersion, pk=object_id).number}")

    def _confirm(self, request: HttpRequest, title: str, steps: list[trail.Step], problems: Any) -> HttpResponse:
        context = {"opts": self.opts, "title": title, "steps": steps, "problems": problems}
        return render(request, "routes/confirm.html", {**self.admin_site.each_context(request), **context})


@admin.register(WorkerReport)
class WorkerReportAdmin(ReadOnlyAdmin):
    list_display = ("worker_name", "version", "role", "pid", "apply_time", "applied_at", "seen_at", "error")
    list_filter = ("node", "role")

    @admin.display(description="worker", ordering="node")
    def worker_name(self, report: WorkerReport) -> str:
        return str(report)

    @admin.display(description="applied in", ordering="apply_ms")
    def apply_time(self, report: WorkerReport) -> str:
        return f"{report.apply_ms:.0f} ms"


def _steps(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[trail.Step]:
    return [
        trail.Step(
            f"{change.kind.capitalize()} {change.section[:-1]} “{change.name}”.",
            [(field, trail.text(old), trail.text(new)) for field, (old, new) in change.fields.items()],
        )
        for change in changes(masking.mask_document(before), masking.mask_document(after))
    ]


def _preformatted(text: str) -> str:
    return format_html('<pre class="font-mono text-xs whitespace-pre-wrap">{}</pre>', text)
