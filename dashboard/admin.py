"""Usage rows in Django admin: to look at, never to change. A list of millions that never counts them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from dashboard.models import UsageRow
from dashboard.names import names_of
from gateway.proxy.errors import OUTCOMES
from keys.models import ApiKey

#: Rows the list pages through. Whoever wants more narrows the filters.
SHOWN_MAX = 10_000
STATUS_COLOURS = {2: "success", 3: "info", 4: "warning", 5: "danger"}


class CappedPaginator(Paginator):  # no generic at run time
    object_list: QuerySet[UsageRow]

    @cached_property
    def count(self) -> int:
        # LIMIT inside: PostgreSQL stops there. In the order of the list, for that is the order of an index.
        return int(self.object_list[:SHOWN_MAX].count())


class WhenFilter(admin.SimpleListFilter):
    """Never off: without a bound on time a rare outcome would be looked for in every partition."""

    title = "when"
    parameter_name = "when"
    spans = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "all": None}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("hour", "Last hour"), ("week", "Last 7 days"), ("all", "All")]

    def choices(self, changelist: Any) -> Any:
        choices = super().choices(changelist)
        yield {**next(choices), "display": "Last 24 hours"}
        yield from choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRow]) -> QuerySet[UsageRow]:
        span = self.spans.get(self.value() or "day", self.spans["day"])
        return queryset if span is None else queryset.filter(at__gte=timezone.now() - span)


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(outcome, outcome.replace("_", " ")) for outcome in sorted(OUTCOMES)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRow]) -> QuerySet[UsageRow]:
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "class"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(first), f"{first}xx") for first in range(2, 6)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRow]) -> QuerySet[UsageRow]:
        if (value := self.value()) not in ("2", "3", "4", "5"):
            return queryset
        by_class = queryset.alias(status_class=F("status") / 100).filter(
            status_class=int(value)
        )  # as the index says it
        return by_class if value == "2" else by_class.filter(status__gte=300)


@admin.register(UsageRow)
class UsageRowAdmin(ModelAdmin):  # unfold has no types
    """`?route_id=`, `?consumer_id=` and `?key_id=` in the URL work too."""

    list_display = (
        "when", "method", "host", "path", "status_label", "outcome", "duration", "upstream_time", "route", "consumer",
        "client_ip",
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": ("request_id", ("when", "client_ip"), ("method", "host"), "path")}),
        ("Came to", {"fields": (("status", "outcome"), "detail", ("bytes_in", "bytes_out"), "cache_status")}),
        ("Way", {"fields": (("route", "upstream"), ("target", "tries"), ("consumer", "key"), "config_version")}),
        ("Time", {"fields": (("duration", "gateway_time", "upstream_time"),)}),
    )
    actions_detail = ("open_dashboard",)
    list_filter = (WhenFilter, OutcomeFilter, StatusFilter)
    search_fields = ("request_id__exact",)
    search_help_text = "A whole request id"
    sortable_by = ()
    ordering = ("-at", "-id")
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRow]:
        """Keys have no index of their own, their consumers have."""
        rows: QuerySet[UsageRow] = super().get_queryset(request)
        wanted = request.GET.get("key_id", "")
        if wanted.isdecimal() and "consumer_id" not in request.GET:
            rows = rows.filter(
                consumer_id__in=ApiKey.objects.filter(pk=wanted[:18]).values_list("consumer_id", flat=True)
            )
        return rows

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        changelist.result_list = named(changelist.result_list)
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        return named([row])[0] if row is not None else None

    @action(description="Dashboard", icon="monitoring", permissions=["view"])
    def open_dashboard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The same in plain words, with the request as curl."""
        row = get_object_or_404(UsageRow, pk=object_id)
        return redirect("dashboard:request", row.request_id)

    @admin.display(description="when (UTC)")
    def when(self, row: UsageRow) -> str:
        at = f"{timezone.localtime(row.at):%Y-%m-%d %H:%M:%S}"
        return format_html('<span class="whitespace-nowrap">{}</span>', at)

    @display(description="status", label=STATUS_COLOURS)
    def status_label(self, row: UsageRow) -> tuple[int, int]:
        return row.status // 100, row.status

    @admin.display(description="took")
    def duration(self, row: UsageRow) -> str:
        return _ms(row.duration_ms)

    @admin.display(description="of it the upstream")
    def upstream_time(self, row: UsageRow) -> str:
        return "" if row.upstream_ms is None else _ms(row.upstream_ms)

    @admin.display(description="of it the gateway")
    def gateway_time(self, row: UsageRow) -> str:
        return _ms(row.gateway_ms)

    @admin.display(description="route")
    def route(self, row: Any) -> str:
        return _link("route", row.route_id, row.names.routes)

    @admin.display(description="upstream")
    def upstream(self, row: Any) -> str:
        return _link("upstream", row.upstream_id, row.names.upstreams)

    @admin.display(description="consumer")
    def consumer(self, row: Any) -> str:
        return _link("consumer", row.consumer_id, row.names.consumers)

    @admin.display(description="key")
    def key(self, row: Any) -> str:
        return _link("key", row.key_id, row.names.keys)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: UsageRow | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: UsageRow | None = None) -> bool:
        return False


def named(rows: Iterable[Any]) -> list[Any]:
    """The rows, each with the `names` of what they all point to."""
    rows = list(rows)
    names = names_of(rows)
    for row in rows:
        row.names = names
    return rows


def _ms(value: float) -> str:
    return f"{value:.1f}\N{NO-BREAK SPACE}ms"


def _link(page: str, pk: int | None, names: dict[int, str]) -> str:
    """To its page of the dashboard; the bare number of what has been deleted."""
    if pk is None:
        return ""
    if pk not in names:
        return f"{pk} (deleted)"
    address = reverse(f"dashboard:{page}", args=[pk])
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', address, names[pk])
