"""The pages of the configuration's working copy. `routes.versions` has those of what is published."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.urls import path
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.text import Truncator
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action, display

from routes import masking, versions
from routes.health import Healths
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.publishing import ConfigAdmin, ConfigStackedInline, ConfigTabularInline
from routes.widgets import redrawn

__all__ = ["versions"]  # its pages register themselves

#: A weight says how much in comparison; the dashboard knows what a target had before.
RESTORED_WEIGHT = 100


class TargetInline(ConfigTabularInline):
    model = Target
    fields = ("host", "port", "weight", "enabled", "state", "last_probe")
    readonly_fields = ("state", "last_probe")

    @cached_property
    def healths(self) -> Healths:
        """Of one page: an inline is made for each request."""
        return Healths()

    @admin.display(description="state")
    def state(self, target: Target) -> str:
        if not target.pk:
            return ""
        health = self.healths.of(target.upstream, target)
        return f"{health.state}, {health.blame}" if health.blame else health.state

    @admin.display(description="last probe")
    def last_probe(self, target: Target) -> str:
        health = self.healths.of(target.upstream, target) if target.pk else None
        if health is None or health.probe is None or health.probed_at is None:
            return ""
        found = (health.probe.fault or "passed").removesuffix(".")
        return f"{found}, {(timezone.now() - health.probed_at).total_seconds():.0f} s ago"


class RouteUpstreamInline(ConfigTabularInline):
    model = RouteUpstream
    fields = ("upstream", "weight")
    autocomplete_fields = ("upstream",)


class PluginSettingInline(ConfigStackedInline):
    model = PluginSetting
    fields = ("name", ("enabled", "dry_run"), "consumer", "config", "when")
    autocomplete_fields = ("consumer",)
    verbose_name = "plugin"
    verbose_name_plural = "plugins"

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset = super().get_formset(request, obj, **kwargs)
        formset.hides = not self.has_change_permission(request, obj)
        return formset


class Switched:
    """Mixin for rows that can be off."""

    @admin.display(description="enabled", boolean=True, ordering="enabled")
    def on(self, row: Any) -> bool:
        return bool(row.enabled)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.update_rows(request, queryset, "Enabled", enabled=True, **_now(queryset))  # type: ignore[attr-defined]

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self.update_rows(request, queryset, "Disabled", enabled=False, **_now(queryset))  # type: ignore[attr-defined]


def _now(queryset: QuerySet[Any]) -> dict[str, Any]:
    """An update of many rows leaves `auto_now` alone."""
    return {"updated_at": timezone.now()} if hasattr(queryset.model, "updated_at") else {}


@admin.register(Upstream)
class UpstreamAdmin(ConfigAdmin):
    list_display = ("name", "protocol", "balancing", "target_count", "route_count", "words", "updated_at")
    list_filter = ("protocol", "balancing")
    search_fields = ("name", "targets__host", "tags")
    inlines = (TargetInline, PluginSettingInline)
    actions_detail = ("open_dashboard",)
    readonly_fields = ("discovered",)
    fieldsets = (
        (None, {"fields": ("name", ("protocol", "balancing"), "tags")}),
        (
            "Balancing: hashing, sticky sessions, slow start",
            {
                "fields": (
                    ("hash_on", "slow_start_ms"),
                    ("hash_on_header", "hash_on_cookie"),
                    ("sticky_cookie", "sticky_max_age_s"),
                    ("sticky_path", "sticky_same_site"),
                    ("sticky_secure", "sticky_http_only"),
                )
            },
        ),
        (
            "Discovery of further targets",
            {
                "fields": (
                    ("discovery", "discovered"),
                    ("discovery_name", "discovery_port"),
                    "discovery_resolver",
                    ("discovery_url", "discovery_interval_ms"),
                )
            },
        ),
        (
            "Timeouts, limits and transport",
            {
                "fields": (
                    ("connect_timeout_ms", "first_byte_timeout_ms"),
                    ("idle_timeout_ms", "total_timeout_ms"),
                    ("retries", "max_connections"),
                    ("transport", "http2"),
                )
            },
        ),
        (
            "Further attempts",
            {
                "fields": (
                    ("retry_statuses", "retry_on_timeout"),
                    ("retry_all_methods", "retry_body_bytes"),
                    ("retry_backoff_ms", "retry_budget_percent"),
                    "hedge_after_ms",
                )
            },
        ),
        (
            "Circuit breaker and ceiling",
            {
                "fields": (
                    ("breaker_error_percent", "breaker_min_requests"),
                    ("breaker_slow_ms", "breaker_slow_percent"),
                    ("breaker_window_ms", "breaker_open_ms"),
                    ("max_concurrency", "max_queue"),
                    "queue_timeout_ms",
                )
            },
        ),
        (
            "TLS to the targets",
            {"fields": (("tls_verify", "tls_server_name"), "tls_ca", ("tls_client_certificate", "tls_client_key"))},
        ),
        (
            "Health: probes",
            {
                "fields": (
                    ("probe", "probe_path"),
                    ("probe_interval_ms", "probe_down_interval_ms"),
                    "probe_timeout_ms",
                    ("probe_healthy_after", "probe_unhealthy_after"),
                    ("probe_statuses", "probe_host"),
                    "probe_body",
                )
            },
        ),
        (
            "Health: ejection of targets that fail",
            {
                "fields": (
                    ("eject_after", "eject_max_percent"),
                    ("eject_base_ms", "eject_max_ms"),
                    ("eject_on", "eject_statuses"),
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Upstream]:
        enabled = Count("targets", filter=Q(targets__enabled=True, targets__weight__gt=0), distinct=True)
        counts = {"targets_all": Count("targets", distinct=True), "targets_on": enabled}
        rows: QuerySet[Upstream] = super().get_queryset(request)
        return rows.annotate(**counts, routes_all=Count("branches", distinct=True))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Who may only look sees no secrets; the form has stand-ins of its own."""
        upstream = super().get_object(request, object_id, from_field)
        if upstream is not None and not self.has_change_permission(request, upstream):
            for name in masking.UPSTREAM_SECRETS:
                setattr(upstream, name, getattr(upstream, name) and masking.MASK)
        return upstream

    @action(description="Dashboard", icon="monitoring", permissions=["view"])
    def open_dashboard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its traffic, and what the workers say of its targets."""
        return redirect("dashboard:upstream", object_id)

    @admin.display(description="found")
    def discovered(self, upstream: Upstream) -> str:
        found = Healths().discovery(upstream) if upstream.pk else None
        return "" if found is None else f"{found.words} {', '.join(target.address for target in found.targets)}".strip()

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


@admin.register(Target)
class TargetAdmin(Switched, ConfigAdmin):
    """To find and drain addresses across upstreams; an upstream's page has its own as rows."""

    list_display = ("address", "upstream", "weight", "state", "in_flight", "on")
    list_filter = ("enabled", ("upstream", RelatedDropdownFilter))
    list_select_related = ("upstream",)
    search_fields = ("host", "upstream__name")
    autocomplete_fields = ("upstream",)
    fields = ("upstream", ("host", "port"), ("weight", "enabled"))
    actions = ("drain", "restore", "enable", "disable")

    @admin.display(description="address", ordering="host")
    def address(self, target: Target) -> str:
        return str(target)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With what the nodes know of each target, in one query."""
        changelist = super().get_changelist_instance(request)
        healths = Healths()
        for target in changelist.result_list:
            target.health = healths.of(target.upstream, target)
        return changelist

    @display(
        description="state",
        label={"up": "success", "down": "danger", "ejected": "danger", "draining": "warning", "drained": "warning"},
    )
    def state(self, target: Any) -> str:
        return str(target.health.state)

    @admin.display(description="in flight")
    def in_flight(self, target: Any) -> int:
        return int(target.health.in_flight)

    @admin.action(description="Drain: no new requests", permissions=["change"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Target]) -> None:
        self.update_rows(request, queryset, "Drained", weight=0)

    @admin.action(description="Restore drained ones to weight 100", permissions=["change"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Target]) -> None:
        self.update_rows(request, queryset.filter(weight=0), "Restored", weight=RESTORED_WEIGHT)


@admin.register(Route)
class RouteAdmin(Switched, ConfigAdmin):
    list_display = ("name", "on", "match", "leads_to", "plugins", "priority", "updated_at")
    list_filter = ("enabled", "upstreams")
    search_fields = ("name", "hosts", "paths", "tags")
    actions = ("enable", "disable")
    inlines = (RouteUpstreamInline, PluginSettingInline)
    actions_detail = ("open_dashboard",)
    fieldsets = (
        (None, {"fields": (("name", "enabled"), "tags")}),
        ("Match", {"fields": ("paths", ("hosts", "methods"), ("header_conditions", "query_conditions"), "priority")}),
        ("Send", {"fields": (("strip_path", "preserve_host"), "path_rewrite", "max_body_bytes")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Route]:
        rows: QuerySet[Route] = super().get_queryset(request)
        return rows.prefetch_related("branches__upstream", "plugin_settings")

    @action(description="Dashboard", icon="monitoring", permissions=["view"])
    def open_dashboard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its traffic, and the way of a request drawn."""
        return redirect("dashboard:route", object_id)

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


@admin.register(PluginSetting)
class PluginSettingAdmin(Switched, ConfigAdmin):
    list_display = ("name", "on", "scope_words", "config_words", "updated_at")
    list_filter = ("name", "enabled", ("route", RelatedDropdownFilter), ("upstream", RelatedDropdownFilter))
    actions = ("enable", "disable")
    list_select_related = ("route", "upstream", "consumer")
    search_fields = ("name", "route__name", "upstream__name", "consumer__username")
    autocomplete_fields = ("route", "upstream", "consumer")
    fieldsets = (
        (None, {"fields": ("name", ("enabled", "dry_run"), "config", "when")}),
        ("Scope: nothing chosen is everywhere", {"fields": ("route", "upstream", "consumer")}),
    )

    def get_urls(self) -> list[Any]:
        drawn = path("config/", self.admin_site.admin_view(self.config_view), name="routes_pluginsetting_config")
        return [drawn, *super().get_urls()]

    def config_view(self, request: HttpRequest) -> HttpResponse:
        """The form of a plugin's config, drawn for what a page holds. Changes nothing, knows no stored config."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied
        return HttpResponse(redrawn(request.POST), headers={"Cache-Control": "no-store"})

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Who may only look sees no secrets; the form has stand-ins of its own."""
        setting = super().get_object(request, object_id, from_field)
        if setting is not None and not self.has_change_permission(request, setting):
            setting.config = masking.hidden(setting.name, setting.config)
        return setting

    @admin.display(description="scope")
    def scope_words(self, setting: PluginSetting) -> str:
        scope = {"route": setting.route, "upstream": setting.upstream, "consumer": setting.consumer}
        return ", ".join(f"{kind} {row}" for kind, row in scope.items() if row) or "everywhere"

    @admin.display(description="config")
    def config_words(self, setting: PluginSetting) -> str:
        text = json.dumps(masking.hidden(setting.name, setting.config), ensure_ascii=False)[1:-1].replace('"', "")
        return Truncator(text).chars(80) or "defaults"
