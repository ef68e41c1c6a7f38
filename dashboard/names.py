"""What the ids on usage rows are called now. Usage outlives what it is about, so a name may be missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dashboard.models import UsageRow
from keys.models import ApiKey, Consumer
from routes.models import Route, Upstream


@dataclass(frozen=True, slots=True)
class Names:
    """Id → name; of a key its prefix."""

    routes: dict[int, str] = field(default_factory=dict)
    upstreams: dict[int, str] = field(default_factory=dict)
    consumers: dict[int, str] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)


def names_of(rows: Iterable[UsageRow]) -> Names:
    """One query for each kind of thing that the rows name, four at most."""
    rows = list(rows)
    return Names(
        routes=_names(Route, "name", {row.route_id for row in rows}),
        upstreams=_names(Upstream, "name", {row.upstream_id for row in rows}),
        consumers=_names(Consumer, "username", {row.consumer_id for row in rows}),
        keys=_names(ApiKey, "prefix", {row.key_id for row in rows}),
    )


def _names(model: Any, name: str, ids: set[int | None]) -> dict[int, str]:
    wanted = ids - {None}
    return dict(model.objects.filter(pk__in=wanted).values_list("pk", name)) if wanted else {}
