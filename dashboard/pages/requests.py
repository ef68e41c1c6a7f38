"""Requests: the newest rows, narrowed by facets, live; and one request with everything known about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse

from dashboard import latest, selectors
from dashboard.explain import explain
from dashboard.latest import Cursor, Wish
from dashboard.models import UsageRow
from dashboard.names import Names, names_of
from dashboard.page import Page
from dashboard.snippets import PLACEHOLDER, curl, traffic_url
from dashboard.timerange import TimeRange
from gateway.proxy.errors import OUTCOMES
from keys.models import ApiKey, Consumer
from routes.models import Route

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
SLOWER_MS = (100, 300, 1000, 3000)
CLASSES = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
FACETS = ("route", "consumer", "key", "class", "outcome", "method", "slower")


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that narrows. `count`: requests it would show; None when that is not cheap to know."""

    value: str
    label: str
    chosen: bool
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Facet:
    name: str
    label: str
    choices: list[Choice]

    @property
    def chosen(self) -> Choice | None:
        return next((choice for choice in self.choices if choice.chosen), None)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table, with the names of what it is about."""

    row: UsageRow
    route: str
    consumer: str
    key: str
    why: str


class Requests(Page):
    template_name = "dashboard/requests.html"
    title, nav = "Requests", "requests"
    ranged = True
    permissions = ("dashboard.view_usagerow",)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        wanted = request.GET.get("q", "").strip()
        if wanted and latest.by_request_id(wanted, limit=1):
            return HttpResponseRedirect(reverse("dashboard:request", args=[wanted]))
        return super().get(request, *args, **kwargs)

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        query = self.request.GET
        wish = wish_of(query, self.range)
        direction, _, place = query.get("cursor", "").partition("-")
        cursor = Cursor.parse(place)
        found = latest.page(
            wish,
            before=cursor if direction == "before" else None,
            after=cursor if direction == "after" else None,
        )
        names = names_of(found.rows)
        offered = facets(wish)
        return super().get_context_data(
            found=found,
            older=f"before-{found.older}",
            newer=f"after-{found.newer}",
            lines=[line_of(row, names) for row in found.rows],
            facets=offered,
            narrowed=any(query.get(name) for name in FACETS),
            key_chosen=ApiKey.objects.filter(pk=wish.key_id).first() if wish.key_id else None,
            not_found=query.get("q", "").strip(),
            live_wish=live_wish(wish, self.range) if cursor is None else None,
            consumer_names=names.consumers | {int(choice.value): choice.label for choice in offered[1].choices},
            **context,
        )


class OneRequest(Page):
    """Opened from the list it fills the drawer (`?drawer=1`, only the part); opened directly it is a page."""

    title, nav = "Request", "requests"
    permissions = ("dashboard.view_usagerow",)

    def get_template_names(self) -> list[str]:
        return ["dashboard/parts/request.html" if "drawer" in self.request.GET else "dashboard/request.html"]

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        rows = latest.by_request_id(self.kwargs["request_id"])
        if not rows:
            raise Http404("No request with this id is kept.")
        row = next((row for row in rows if str(row.id) == self.request.GET.get("row")), rows[0])
        later, earlier = latest.neighbours(row)
        names = names_of([*later, row, *earlier])
        return super().get_context_data(
            row=row,
            names=names,
            line=line_of(row, names),
            twins=[other for other in rows if other.id != row.id],
            neighbours=[line_of(other, names) for other in [*later, row, *earlier]],
            timings=timings(row),
            upstream_name=_name(names.upstreams, row.upstream_id),
            route_url=reverse("dashboard:route", args=[row.route_id]) if row.route_id in names.routes else "",
            upstream_url=reverse("dashboard:upstream", args=[row.upstream_id])
            if row.upstream_id in names.upstreams
            else "",
            version_url=f"{reverse('dashboard:config')}?to={row.config_version}",
            replay=replay(self.request, row),
            **context,
        )


# --- facets -----------------------------------------------------------------------------------------------------------


def wish_of(query: Any, range_: TimeRange) -> Wish:
    """What cannot be read counts as not given."""
    method, outcome = query.get("method", "").upper(), query.get("outcome", "")
    status_class = _number(query.get("class", ""))
    slower_ms = _number(query.get("slower", ""))
    return Wish(
        range_.start,
        range_.end,
        route_id=_number(query.get("route", "")),
        consumer_id=_number(query.get("consumer", "")),
        key_id=_number(query.get("key", "")),
        status_class=status_class if status_class in CLASSES else None,
        outcome=outcome if outcome in OUTCOMES else "",
        method=method if method.isalpha() and len(method) <= 32 else "",
        slower_ms=float(slower_ms) if slower_ms else None,
    )


def facets(wish: Wish) -> list[Facet]:
    """Counts only where the rollups have them. Three or four queries."""
    sums = latest.counts(wish) if wish.countable else None
    by_class: dict[int, int] = {}
    by_outcome: dict[str, int] = {}
    for (status_class, outcome), number in (sums or {}).items():
        if not wish.outcome or outcome == wish.outcome:
            by_class[status_class] = by_class.get(status_class, 0) + number
        if wish.status_class is None or status_class == wish.status_class:
            by_outcome[outcome] = by_outcome.get(outcome, 0) + number
    outcomes = sorted(by_outcome, key=lambda word: (-by_outcome[word], word)) if sums is not None else sorted(OUTCOMES)
    if wish.outcome and wish.outcome not in outcomes:
        outcomes.insert(0, wish.outcome)
    return [
        _route_facet(wish),
        _consumer_facet(wish),
        Facet("class", "Status", [
            Choice(str(number), label, wish.status_class == number, None if sums is None else by_class.get(number, 0))
            for number, label in CLASSES.items()
        ]),
        Facet("outcome", "Outcome", [
            Choice(word, word.replace("_", " "), wish.outcome == word, by_outcome.get(word))
            for word in outcomes
        ]),
        Facet("method", "Method", [
            Choice(word, word, wish.method == word) for word in dict.fromkeys([*METHODS, wish.method]) if word
        ]),
        Facet("slower", "Slower than", [
            Choice(f"{number:g}", _duration(number), number == wish.slower_ms)
            for number in sorted({*SLOWER_MS, wish.slower_ms or SLOWER_MS[0]})
        ]),
    ]  # fmt: skip


def _route_facet(wish: Wish) -> Facet:
    """The busiest ten, and the chosen one."""
    plain = wish.countable and wish.status_class is None and not wish.outcome
    shares = {share.value: share.requests for share in selectors.top(wish.start, wish.end, "route_id", limit=10)}
    shares.pop(0, None)
    if wish.route_id is not None:
        shares.setdefault(wish.route_id, 0)
    names = dict(Route.objects.filter(pk__in=shares).values_list("pk", "name"))
    return Facet("route", "Route", [
        Choice(str(id_), names.get(int(id_), f"route {id_}"), wish.route_id == id_, number if plain else None)
        for id_, number in shares.items()
    ])  # fmt: skip


def _consumer_facet(wish: Wish) -> Facet:
    """The busiest ten of the range's last hours, and the chosen one: a day of ten thousand keys is long to add up."""
    lately = max(wish.start, wish.end - timedelta(hours=2))
    shares = {share.value for share in selectors.top(lately, wish.end, "consumer_id", limit=10)} - {0}
    wanted = Consumer.objects.filter(Q(pk__in=shares) | Q(pk=wish.consumer_id))
    return Facet("consumer", "Consumer", [
        Choice(str(id_), name, wish.consumer_id == id_) for id_, name in wanted.values_list("pk", "username")
    ])  # fmt: skip


def live_wish(wish: Wish, range_: TimeRange) -> dict[str, Any] | None:
    """What the browser keeps of the rows that come in live; None where the range is over."""
    if not range_.name:
        return None
    fields = ("route_id", "consumer_id", "key_id", "status_class", "outcome", "method", "slower_ms")
    return {name: getattr(wish, name) for name in fields if getattr(wish, name) not in (None, "")}


def _duration(ms: float) -> str:
    return f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= 18 else None


# --- rows -------------------------------------------------------------------------------------------------------------


def lines_of(rows: Any) -> list[Line]:
    names = names_of(rows)
    return [line_of(row, names) for row in rows]


def line_of(row: UsageRow, names: Names) -> Line:
    return Line(
        row,
        route=_name(names.routes, row.route_id),
        consumer=_name(names.consumers, row.consumer_id),
        key=_name(names.keys, row.key_id),
        why=explain(row, names),
    )


def _name(names: dict[int, str], id_: int | None) -> str:
    return "" if id_ is None else names.get(id_, f"#{id_}, deleted")


@dataclass(frozen=True, slots=True)
class Timing:
    """A stretch of a request. `start` and `width` are percents of the whole."""

    slug: str
    label: str
    ms: float
    start: float
    width: float


def timings(row: UsageRow) -> list[Timing]:
    """Gateway, upstream, and the rest: the answer's body on its way, at the pace of the slower side."""
    whole = max(row.duration_ms, 0.001)
    upstream_ms = row.upstream_ms or 0.0
    parts = [("gateway", "Gateway", min(row.gateway_ms, whole)), ("upstream", "Upstream", upstream_ms)]
    parts.append(("rest", "Sending the answer", max(0.0, row.duration_ms - row.gateway_ms - upstream_ms)))
    found, at = [], 0.0
    for slug, label, part_ms in parts:
        width = min(100 * part_ms / whole, 100 - at)
        if slug == "gateway" or (row.upstream_ms is not None and (slug == "upstream" or part_ms >= 0.005)):
            found.append(Timing(slug, label, part_ms, at, width))
        at += width
    return found


def replay(request: HttpRequest, row: UsageRow) -> str:
    """The query, the fields and the body of a request are not kept, and its key least of all."""
    headers = {"Host": row.host} if row.host and row.host not in traffic_url(request) else {}
    if row.key_id is not None or row.outcome.startswith("key_"):
        headers["apikey"] = PLACEHOLDER
    return curl(traffic_url(request) + quote(row.path, safe="/%:@!$&'()*+,;=~-._"), row.method, headers)


urlpatterns = [
    path("requests/", Requests.as_view(), name="requests"),
    path("requests/<path:request_id>/", OneRequest.as_view(), name="request"),
]
