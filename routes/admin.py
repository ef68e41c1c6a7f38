"""The pages of the configuration: the working copy, its versions, the workers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action

from routes import portable, selectors, services
from routes.difference import difference
from routes.models import ConfigVersion, PluginSetting, Route, RouteUpstream, Target, Upstream, WorkerReport
from routes.problems import CompileError
from routes.publishing import ConfigAdmin, ConfigStackedInline, ConfigTabularInline, announce

PUBLISH = "routes.publish_config"


class TargetInline(ConfigTabularInline):
    model = Target
    fields = ("host", "port", "weight", "enabled")


class RouteUpstreamInline(ConfigTabularInline):
    model = RouteUpstream
    fields = ("upstream", "weight")
    autocomplete_fields = ("upstream",)


class PluginSettingInline(ConfigStackedInline):
    model = PluginSetting
    fields = (("name", "enabled"), "consumer", "config")
    raw_id_fields = ("consumer",)
    verbose_name = "plugin"
    verbose_name_plural = "plugins"


@admin.register(Upstream)
class UpstreamAdmin(ConfigAdmin):
    list_display = ("name", "protocol", "balancing", "target_count", "route_count", "words", "updated_at")
    list_filter = ("protocol", "balancing")
    search_fields = ("name", "targets__host", "tags")
    inlines = (TargetInline, PluginSettingInline)
    fieldsets = (
        (None, {"fields": ("name", ("protocol", "balancing"), "tags")}),
        (
            "Timeouts and limits",
            {
                "fields": (
                    ("connect_timeout_ms", "first_byte_timeout_ms"),
                    ("idle_timeout_ms", "total_timeout_ms"),
                    ("retries", "max_connections"),
                )
            },
        ),
        ("TLS to the targets", {"fields": (("tls_verify", "tls_server_name"),)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Upstream]:
        enabled = Count("targets", filter=Q(targets__enabled=True, targets__weight__gt=0), distinct=True)
        counts = {"targets_all": Count("targets", distinct=True), "targets_on": enabled}
        rows: QuerySet[Upstream] = super().get_queryset(request)
        return rows.annotate(**counts, routes_all=Count("branches", distinct=True))

    @admin.display(description="targets", ordering="targets_all")
    def target_count(self, upstream: Any) -> str:
        every, active = upstream.targets_all, upstream.targets_on
        return str(every) if every == active else f"{active} of {every}"

    @admin.display(description="routes", ordering="routes_all")
    def route_count(self, upstream: Any) -> str:
        return str(upstream.routes_all)

    @admin.display(description="tags")
    def words(self, upstream: Upstream) -> str:
        return ", ".join(upstream.tags)


@admin.register(Route)
class RouteAdmin(ConfigAdmin):
    list_display = ("name", "on", "match", "leads_to", "plugins", "priority", "updated_at")
    list_filter = ("enabled", "upstreams")
    search_fields = ("name", "hosts", "paths", "tags")
    actions = ("enable", "disable")
    inlines = (RouteUpstreamInline, PluginSettingInline)
    fieldsets = (
        (None, {"fields": (("name", "enabled"), "tags")}),
        ("Match", {"fields": ("paths", ("hosts", "methods"), ("header_conditions", "query_conditions"), "priority")}),
        ("Send", {"fields": (("strip_path", "preserve_host"), "path_rewrite", "max_body_bytes")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Route]:
        rows: QuerySet[Route] = super().get_queryset(request)
        return rows.prefetch_related("branches__upstream", "plugin_settings")

    @admin.display(description="enabled", boolean=True, ordering="enabled")
    def on(self, route: Route) -> bool:
        return route.enabled

    @admin.display(description="match")
    def match(self, route: Route) -> str:
        parts = (" ".join(route.methods), " ".join(route.hosts), " ".join(route.paths))
        return " · ".join(filter(None, parts)) or "everything"

    @admin.display(description="upstreams")
    def leads_to(self, route: Any) -> str:
        branches = route.branches.all()
        return ", ".join(f"{b.upstream.name} ({b.weight})" if len(branches) > 1 else b.upstream.name for b in branches)

    @admin.display(description="plugins")
    def plugins(self, route: Any) -> str:
        return ", ".join(sorted({setting.name for setting in route.plugin_settings.all() if setting.enabled}))

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, routes: QuerySet[Route]) -> None:
        self._switch(request, routes, True)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, routes: QuerySet[Route]) -> None:
        self._switch(request, routes, False)

    def _switch(self, request: HttpRequest, routes: QuerySet[Route], enabled: bool) -> None:
        names = ", ".join(routes.values_list("name", flat=True))
        routes.order_by().update(enabled=enabled, updated_at=timezone.now())
        self.settle(request, f"{'Enabled' if enabled else 'Disabled'} {names}.")


@admin.register(PluginSetting)
class PluginSettingAdmin(ConfigAdmin):
    list_display = ("name", "on", "route", "upstream", "consumer", "updated_at")
    list_filter = ("name", "enabled")
    list_select_related = ("route", "upstream", "consumer")
    search_fields = ("name", "route__name", "upstream__name", "consumer__username")
    autocomplete_fields = ("route", "upstream")
    raw_id_fields = ("consumer",)
    fieldsets = (
        (None, {"fields": (("name", "enabled"), "config")}),
        ("Scope: nothing chosen is everywhere", {"fields": (("route", "upstream", "consumer"),)}),
    )

    @admin.display(description="enabled", boolean=True, ordering="enabled")
    def on(self, setting: PluginSetting) -> bool:
        return setting.enabled


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
    list_filter = ("source", "author")
    search_fields = ("comment", "author", "digest")
    fields = ("number", "is_live", "created_at", "author", "source", "comment", "digest", "changes", "file")
    readonly_fields = ("is_live", "changes", "file")
    actions_list = ("publish",)
    actions_detail = ("roll_back",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConfigVersion]:
        rows: QuerySet[ConfigVersion] = super().get_queryset(request)
        return rows.defer("document")

    @admin.display(description="live", boolean=True, ordering="live")
    def is_live(self, version: ConfigVersion) -> bool:
        return version.live

    @admin.display(description="digest")
    def short_digest(self, version: ConfigVersion) -> str:
        return version.digest[:12]

    @admin.display(description="changes")
    def changes(self, version: ConfigVersion) -> str:
        before = version.parent.document if version.parent else {}
        return _preformatted("\n".join(difference(before, version.document)) or "none")

    @admin.display(description="configuration")
    def file(self, version: ConfigVersion) -> str:
        return _preformatted(portable.to_yaml(version.document))

    def has_publish_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        # A method, for unfold's check of a dotted permission asks the database before there is one.
        return request.user.has_perm(PUBLISH)

    @action(description="Publish", icon="publish", permissions=["publish"])
    def publish(self, request: Any) -> HttpResponse:
        """Drafts, and what was changed past the admin."""
        if request.method == "POST":
            comment = request.POST.get("comment", "")
            author = request.user.get_username()
            return self._go(request, lambda: services.publish(author=author, source="admin", comment=comment))
        problems = services.problems_of(selectors.working_document())
        context = {"title": "Publish the working copy", "lines": services.draft(), "problems": problems}
        return self._confirm(request, context)

    @action(description="Roll back to this", icon="undo", permissions=["publish"])
    def roll_back(self, request: Any, object_id: str) -> HttpResponse:
        version = get_object_or_404(ConfigVersion, pk=object_id)
        if request.method == "POST":
            comment, author = request.POST.get("comment", ""), request.user.get_username()
            return self._go(request, lambda: services.rollback(version.number, author=author, comment=comment))
        problems = services.problems_of(version.document)
        lines = difference(selectors.working_document(), version.document)
        return self._confirm(request, {"title": f"Roll back to {version}", "lines": lines, "problems": problems})

    def _go(self, request: HttpRequest, write: Any) -> HttpResponse:
        try:
            announce(request, write().number)
        except CompileError as error:
            for problem in error.problems:
                messages.error(request, f"Nothing was published. {problem}")
        return HttpResponseRedirect(reverse("admin:routes_configversion_changelist"))

    def _confirm(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        page = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        return render(request, "routes/confirm.html", page)


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


def _preformatted(text: str) -> str:
    return format_html('<pre class="font-mono text-xs whitespace-pre-wrap">{}</pre>', text)
