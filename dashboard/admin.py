"""Usage rows in Django admin: to look at, never to change. A list of millions that never counts them."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from dashboard.models import UsageRow
from gateway.proxy.errors import OUTCOMES

#: Rows the list pages through. Whoever wants more narrows the filters.
SHOWN_MAX = 10_000


class CappedPaginator(Paginator):  # no generic at run time
    object_list: QuerySet[UsageRow]

    @cached_property
    def count(self) -> int:
        return int(self.object_list.order_by()[:SHOWN_MAX].count())  # LIMIT inside: PostgreSQL stops there


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
        first = int(value) * 100
        return queryset.filter(status__gte=first, status__lt=first + 100)


@admin.register(UsageRow)
class UsageRowAdmin(ModelAdmin):  # unfold has no types
    """`?route_id=`, `?consumer_id=` and `?key_id=` in the URL work too: pages about those link here."""

    list_display = (
        "when", "method", "host", "path", "status", "outcome", "duration_ms", "upstream_ms", "route_id", "consumer_id",
        "client_ip",
    )  # fmt: skip
    list_filter = (WhenFilter, OutcomeFilter, StatusFilter)
    search_fields = ("request_id__exact",)
    search_help_text = "A whole request id"
    sortable_by = ()
    ordering = ("-at", "-id")
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator

    @admin.display(description="when")
    def when(self, row: UsageRow) -> str:
        at = f"{timezone.localtime(row.at):%Y-%m-%d %H:%M:%S}"
        return format_html('<span class="whitespace-nowrap">{}</span>', at)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: UsageRow | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: UsageRow | None = None) -> bool:
        return False
