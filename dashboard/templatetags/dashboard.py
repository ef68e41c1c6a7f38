"""How the dashboard's templates show things: numbers with their units, times, badges, sparklines."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

NOTHING = "\N{EN DASH}"


# --- numbers ----------------------------------------------------------------------------------------------------------


@register.filter
def ms(value: float | None) -> str:
    """A duration given in ms: `0.42 ms`, `12 ms`, `1.25 s`."""
    if value is None:
        return NOTHING
    if value >= 1000:
        return f"{value / 1000:.2f} s" if value < 100_000 else f"{value / 60_000:.1f} min"
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


@register.filter
def count(value: float | None) -> str:
    """`950`, `12.3k`, `4.56M`. Exact below ten thousand."""
    if value is None:
        return NOTHING
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if letter == "k" else size)
            return f"{scaled:.3g}{letter}" if scaled < 1000 else f"{scaled:.0f}{letter}"
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


@register.filter
def rate(value: float | None) -> str:
    """Requests per second, without the unit."""
    if value is None:
        return NOTHING
    if value and value < 0.01:
        return "< 0.01"
    return (
        count(value)
        if value >= 1000
        else f"{value:.3g}"
        if value >= 100
        else f"{value:.2f}"
        if value < 10
        else f"{value:.1f}"
    )


@register.filter
def percent(value: float | None) -> str:
    """A share from 0 to 1."""
    if value is None:
        return NOTHING
    return (
        f"{value * 100:.2g} %"
        if 0 < value < 0.1
        else f"{value * 100:.3g} %"
        if 0 < value < 1
        else f"{value * 100:.0f} %"
    )


@register.filter
def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


# --- times ------------------------------------------------------------------------------------------------------------


@register.filter
def when(moment: datetime | None, form: str = "second") -> str | SafeString:
    """A `<time>` in UTC that the browser turns to local time if the user chose so. Forms: second, minute, day, ago."""
    if moment is None:
        return NOTHING
    moment = timezone.localtime(moment, timezone.get_fixed_timezone(0))
    if form == "ago":
        shown = ago(moment)
    else:
        shown = (
            f"{moment:%Y-%m-%d}"
            if form == "day"
            else f"{moment:{'%Y-%m-%d %H:%M' if form == 'minute' else '%Y-%m-%d %H:%M:%S'}}"
        )
    return format_html(
        '<time datetime="{}" data-form="{}">{}</time>', moment.isoformat(timespec="milliseconds"), form, shown
    )


def ago(moment: datetime) -> str:
    seconds = (timezone.now() - moment).total_seconds()
    before, left = ("", " ago") if seconds >= 0 else ("in ", "")
    seconds = abs(seconds)
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{before}{seconds // length:.0f} {unit}{left}"
    return f"{before}{seconds:.0f} s{left}"


# --- parts ------------------------------------------------------------------------------------------------------------


@register.simple_tag
def icon(name: str) -> SafeString:
    """One of Material Symbols, for decoration: what it stands beside says the same in words."""
    return format_html('<span class="icon" aria-hidden="true">{}</span>', name)


@register.simple_tag(takes_context=True)
def nav(context: dict[str, Any], name: str, label: str, symbol: str) -> SafeString | str:
    """An entry of the sidebar; nothing if no such page is mounted."""
    try:
        url = reverse(f"dashboard:{name}")
    except NoReverseMatch:
        return ""
    page = context.get("page")
    current = getattr(page, "nav", "") == name
    query = (
        f"?{page.range.query}"
        if page is not None and page.ranged and name in ("overview", "requests", "routes")
        else ""
    )
    return format_html(
        '<a class="nav-item" href="{}"{}>{}{}</a>',
        url + query, mark_safe(' aria-current="page"') if current else "", icon(symbol), label,
    )  # fmt: skip


@register.filter
def status_badge(status: int) -> SafeString:
    kind = {2: "ok", 3: "muted", 4: "warn", 5: "bad"}.get(int(status) // 100, "muted")
    return format_html('<span class="badge {}">{}</span>', kind, status or "none")


@register.filter
def outcome_badge(outcome: str) -> SafeString:
    return format_html('<span class="badge {}">{}</span>', outcome_kind(outcome), outcome.replace("_", " "))


def outcome_kind(outcome: str) -> str:
    """ok, warn: the client's doing; bad: ours or an upstream's."""
    if outcome in ("ok", "answered"):
        return "ok"
    bad = ("upstream", "redis", "credentials", "internal", "plugin", "no_target", "no_healthy", "not_ready")
    return "bad" if outcome.startswith(bad) else "muted" if outcome == "client_closed" else "warn"


@register.inclusion_tag("dashboard/parts/sparkline.html")
def sparkline(values: Iterable[float | None], label: str = "", kind: str = "") -> dict[str, Any]:
    """A line of values as SVG, 100 by 28 and stretched to its place. None is a gap bridged by its neighbours."""
    known = [(position, value) for position, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return {"label": label, "kind": kind, "points": ""}
    last, top = known[-1][0] or 1, max(value for _, value in known) or 1
    points = " ".join(f"{position * 100 / last:.1f},{26 - value * 24 / top:.1f}" for position, value in known)
    first = known[0][0] * 100 / last
    return {"label": label, "kind": kind, "points": points, "area": f"{first:.1f},28 {points} 100,28"}


@register.filter
def change_label(change: Any) -> SafeString | str:
    """Of an `overview.Change`: an arrow, the share, and whether that is good."""
    if change is None:
        return ""
    share, kind = change.share, {True: "good", False: "worse", None: ""}[change.better]
    if abs(share) < 0.005:
        return format_html('<span class="change" title="As in the time before">{}</span>', "\N{ALMOST EQUAL TO}")
    arrow = "\N{UPWARDS ARROW}" if share > 0 else "\N{DOWNWARDS ARROW}"
    times = f"{1 + share:.{0 if share >= 9 else 1}f}\N{MULTIPLICATION SIGN}"
    size = times if share >= 1 else f"{abs(share) * 100:.0f} %"
    return format_html(
        '<span class="change {}" title="Against the time before, as long as this">{}\N{THIN SPACE}{}</span>',
        kind, arrow, size,
    )  # fmt: skip
