"""Links that choose one value of a facet or drop the facet, and keep the rest of the page's query."""

from __future__ import annotations

from typing import Any

from django import template

register = template.Library()

#: Places in a list that another choice makes meaningless.
PLACES = ("cursor", "page", "q")


@register.simple_tag(takes_context=True)
def choosing(context: dict[str, Any], name: str, value: object) -> str:
    query = context["request"].GET.copy()
    for place in PLACES:
        query.pop(place, None)
    query[name] = str(value)
    return f"?{query.urlencode()}"


@register.simple_tag(takes_context=True)
def dropping(context: dict[str, Any], name: str) -> str:
    query = context["request"].GET.copy()
    for place in (*PLACES, name):
        query.pop(place, None)
    return f"?{query.urlencode()}"
