"""What only the pages of the configuration show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from django import template

from dashboard.templatetags.dashboard import NOTHING
from gateway.proxy.snapshot import TargetSpec
from routes.health import Health, Healths

register = template.Library()


@register.filter
def named(consumers: Mapping[int, str] | str, consumer_id: int) -> str:
    """A consumer's name; one that is gone is known by its number."""
    return consumers.get(consumer_id, f"consumer {consumer_id}") if isinstance(consumers, Mapping) else ""


@register.simple_tag
def health_at(healths: Healths, upstream: str, target: TargetSpec) -> Health:
    """What the nodes know of a target that is served."""
    return healths.at(upstream, target.address, target.weight)


@register.filter
def pairs(fields: Mapping[str, tuple[Any, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """(field, before, after). Of objects, such as a plugin's config, only what differs in them."""
    for field, (before, after) in fields.items():
        if isinstance(before, dict) and isinstance(after, dict):
            inside = {name: (before.get(name), after.get(name)) for name in sorted({**before, **after})}
            yield from ((f"{field}.{name}", old, new) for name, (old, new) in inside.items() if old != new)
        else:
            yield field, before, after


@register.filter
def value(content: Any) -> str:
    """A configuration value as one reads it: words as they are, `yes` and `no`, lists with commas, the rest as JSON."""
    if content in (None, "", [], {}):
        return NOTHING
    match content:
        case bool():
            return "yes" if content else "no"
        case str():
            return content
        case list() if all(isinstance(item, str | int | float) for item in content):
            return ", ".join(map(str, content))
    return json.dumps(content, ensure_ascii=False, indent=2 if isinstance(content, dict | list) else None)
