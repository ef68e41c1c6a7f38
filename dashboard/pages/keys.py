"""Keys and consumers: lists, and what one of them did. `pages.issuing` makes, rotates and revokes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from django.core.paginator import Paginator
from django.shortcuts import get_object_or_404
from django.urls import path

from dashboard import callers, latest, quotas
from dashboard.bars import PARTS, bars
from dashboard.callers import Calls
from dashboard.page import Page
from dashboard.pages.requests import lines_of
from dashboard.quotas import Quota
from dashboard.snippets import door, snippets, traffic_url
from dashboard.timerange import RANGES, TimeRange, parse
from keys.models import ApiKey, Consumer

PAGE_SIZE = 50
#: Of the limits that hold for a caller; there may be one for each of hundreds of routes.
LIMITS_SHOWN = 12
STATE_KINDS = {"live": "ok", "soon": "warn", "rotated": "primary", "expired": "muted", "revoked": "bad"}
#: Callers are counted by the hour, so shorter ranges would say little.
SPANS = ("24h", "7d", "30d")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A key as lists show it."""

    key: ApiKey
    state: str
    calls: Calls
    limits: list[Quota]

    @property
    def state_words(self) -> str:
        return callers.STATES[self.state]

    @property
    def state_kind(self) -> str:
        return STATE_KINDS[self.state]


@dataclass(frozen=True, slots=True)
class ConsumerLine:
    consumer: Consumer
    calls: Calls
    limits: list[Quota]


class Keys(Page):
    template_name = "dashboard/keys.html"
    title, nav = "Keys", "keys"
    permissions = ("keys.view_apikey", "keys.view_consumer")

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        query = self.request.GET
        search, state = query.get("q", "").strip(), query.get("state", "")
        order = query.get("order", "")
        found = callers.keys(search=search, state=state, now=self.now)
        found = found.order_by(*callers.ORDERS.get(order, callers.ORDERS["newest"]))
        shown = Paginator(found, PAGE_SIZE).get_page(query.get("page"))
        return super().get_context_data(
            shown=shown,
            lines=key_lines(list(shown), self.now),
            states=callers.STATES,
            state=state,
            order=order or "newest",
            search=search[:40],
            narrowed=bool(search or state),
            **context,
        )


class Consumers(Page):
    template_name = "dashboard/consumers.html"
    title, nav = "Consumers", "keys"
    permissions = ("keys.view_consumer",)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        search = self.request.GET.get("q", "").strip()
        found = callers.consumers(search, now=self.now)
        shown = Paginator(found, PAGE_SIZE).get_page(self.request.GET.get("page"))
        consumers = list(shown)
        calls = callers.calls_of_consumers(consumers, self.now)
        limits = quotas.own_limits(consumer.pk for consumer in consumers)
        return super().get_context_data(
            shown=shown,
            lines=[
                ConsumerLine(consumer, calls.get(consumer.pk, Calls()), _limits(limits, consumer.pk))
                for consumer in consumers
            ],
            search=search,
            **context,
        )


class Caller(Page):
    """What the pages of a key and of a consumer share: a range of a day at least, a chart, refusals, limits."""

    nav = "keys"
    ranged = True
    permissions = ("keys.view_apikey", "keys.view_consumer")

    @cached_property
    def range(self) -> TimeRange:
        query = self.request.GET.copy()
        if not query.get("from") and query.get("range") not in SPANS:
            query["range"] = SPANS[0]
        return parse(query, self.now)

    def caller(self, consumer: Consumer, key: ApiKey | None) -> dict[str, Any]:
        key_id = key.pk if key else None
        steps = callers.series(self.range.start, self.range.end, consumer_id=consumer.pk, key_id=key_id)
        wish = latest.Wish(self.range.start, self.range.end, consumer_id=consumer.pk, key_id=key_id, refused=True)
        limits = quotas.quotas_of(consumer.pk, key_id)
        may_see_rows = self.request.user.has_perm("dashboard.view_usagerow")
        return {
            "consumer": consumer,
            "ranges": {name: RANGES[name] for name in SPANS},
            "chart": bars(steps),
            "parts": PARTS,
            "limits": limits[:LIMITS_SHOWN],
            "limits_more": max(0, len(limits) - LIMITS_SHOWN),
            "refusals": lines_of(latest.page(wish, size=10).rows) if may_see_rows else [],
        }


class OneKey(Caller):
    template_name = "dashboard/key.html"

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        key = get_object_or_404(callers.keys(now=self.now), pk=self.kwargs["pk"])
        (line,) = key_lines([key], self.now, with_limits=False)
        where = door()
        return super().get_context_data(
            **self.caller(key.consumer, key),
            title=f"{key.prefix}…",
            key=key,
            line=line,
            successor=key.rotated_to.first(),
            door=where,
            snippets=snippets(traffic_url(self.request), where),
            **context,
        )


class OneConsumer(Caller):
    template_name = "dashboard/consumer.html"

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        consumer = get_object_or_404(Consumer, pk=self.kwargs["pk"])
        found = callers.keys(consumer_id=consumer.pk, now=self.now).order_by("-created_at", "-id")
        shown = Paginator(found, 20).get_page(self.request.GET.get("page"))
        return super().get_context_data(
            **self.caller(consumer, None),
            title=consumer.username,
            shown=shown,
            lines=key_lines(list(shown), self.now, with_limits=False),
            calls=callers.calls_of_consumers([consumer], self.now).get(consumer.pk, Calls()),
            **context,
        )


def key_lines(keys: list[ApiKey], now: datetime, with_limits: bool = True) -> list[KeyLine]:
    """Of keys read by `callers.keys`. Two queries, one without limits."""
    calls = callers.calls_of_keys(keys, now)
    limits = quotas.own_limits({key.consumer_id for key in keys}) if with_limits else {}
    return [
        KeyLine(key, callers.state_of(key, now), calls.get(key.pk, Calls()), _limits(limits, key.consumer_id))
        for key in keys
    ]


def _limits(found: dict[int, list[Quota]], consumer_id: int) -> list[Quota]:
    """A consumer's own, else those of everybody."""
    return found.get(consumer_id) or found.get(0, [])


urlpatterns = [
    path("keys/", Keys.as_view(), name="keys"),
    path("keys/<int:pk>/", OneKey.as_view(), name="key"),
    path("consumers/", Consumers.as_view(), name="consumers"),
    path("consumers/<int:pk>/", OneConsumer.as_view(), name="consumer"),
]
