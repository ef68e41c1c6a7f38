"""Single requests, newest first, each with a sentence that says why it ended as it did."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any
from urllib.parse import urlencode

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from dashboard import latest
from dashboard.api import examples, shapes
from dashboard.api.asked import SINCE, UNTIL, Parameter, read, span
from dashboard.explain import explain
from dashboard.models import UsageRow
from dashboard.names import Names, names_of
from gateway.api.lists import DEFAULT_LIMIT, MAX_LIMIT
from gateway.api.problems import BadQuery, Fault
from gateway.api.views import ApiView
from gateway.proxy.errors import OUTCOMES

DAY = timedelta(days=1)


class Rows(ApiView):
    model = UsageRow
    parameters = (
        SINCE, UNTIL,
        Parameter("route_id", "integer", "Of this route."),
        Parameter("consumer_id", "integer", "Of this consumer."),
        Parameter("key_id", "integer", "With this key."),
        Parameter("status_class", "integer", "2 for 2xx …; 0: the client left before an answer.", low=0, high=5),
        Parameter("outcome", "text", "Ended so.", choices=sorted(OUTCOMES)),
        Parameter("method", "text", "With this method."),
        Parameter("slower_than_ms", "integer", "Took at least so long.", high=86_400_000),
        Parameter("request_id", "text", "The requests of this id, whenever they were. Stands alone."),
        Parameter("limit", "integer", f"Most items on a page. Default: {DEFAULT_LIMIT}.", high=MAX_LIMIT),
        Parameter("cursor", "text", "From `next`: where the page before ended."),
    )  # fmt: skip

    @extend_schema(
        summary="List requests",
        parameters=[parameter.schema() for parameter in parameters],
        responses=shapes.UsageRowPage,
        examples=[examples.answer("Over a limit", examples.ROWS)],
    )
    def get(self, request: Request) -> Response:
        """Requests, newest first, by default of the last 24 hours. `searched_to` says where looking stopped."""
        asked = read(request, self.parameters)
        if asked["request_id"] is not None:
            if len(request.query_params) > 1:
                raise BadQuery(errors=[Fault("It stands alone.", parameter="request_id")])
            return Response(_page(latest.Page(latest.by_request_id(asked["request_id"])), None))
        wish, before = _wish(asked), _cursor(asked["cursor"])
        page = latest.page(wish, before=before, size=asked["limit"] or DEFAULT_LIMIT)
        link = None
        if page.older is not None:
            # The begin of the range does not move on while somebody pages through it.
            fixed = {"since": wish.start.isoformat(), "cursor": str(page.older)}
            query = urlencode({**request.query_params.dict(), **fixed})
            link = f"{request.build_absolute_uri(request.path)}?{query}"
        response = Response(_page(page, link))
        if link:
            response["Link"] = f'<{link}>; rel="next"'
        return response


def _wish(asked: dict[str, Any]) -> latest.Wish:
    since, until = span(asked, DAY)
    names = ("route_id", "consumer_id", "key_id", "status_class")
    return latest.Wish(
        since,
        until,
        **{name: asked[name] for name in names},
        outcome=asked["outcome"] or "",
        method=asked["method"] or "",
        slower_ms=asked["slower_than_ms"],
    )


def _cursor(text: str | None) -> latest.Cursor | None:
    if text is None:
        return None
    try:
        cursor = latest.Cursor.parse(text)
    except OverflowError:
        cursor = None
    if cursor is None:
        raise BadQuery(errors=[Fault("This cursor is not one of this list.", parameter="cursor")])
    return cursor


def _page(page: latest.Page, link: str | None) -> dict[str, Any]:
    names = names_of(page.rows)
    return {"items": [represent(row, names) for row in page.rows], "next": link, "searched_to": page.searched_to}


def represent(row: UsageRow, names: Names) -> dict[str, Any]:
    """As `shapes.UsageRow` says."""
    return {
        "id": row.pk,
        "at": row.at.astimezone(UTC),
        "request_id": row.request_id,
        "explanation": explain(row, names),
        "method": row.method,
        "host": row.host,
        "path": row.path,
        "status": row.status,
        "outcome": row.outcome,
        "detail": row.detail,
        "client_ip": row.client_ip,
        "route_id": row.route_id,
        "route": names.routes.get(row.route_id or 0),
        "upstream_id": row.upstream_id,
        "upstream": names.upstreams.get(row.upstream_id or 0),
        "target": row.target,
        "consumer_id": row.consumer_id,
        "consumer": names.consumers.get(row.consumer_id or 0),
        "key_id": row.key_id,
        "key": names.keys.get(row.key_id or 0),
        "duration_ms": row.duration_ms,
        "gateway_ms": row.gateway_ms,
        "upstream_ms": row.upstream_ms,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "tries": row.tries,
        "cache_status": row.cache_status,
        "config_version": row.config_version,
        "node": row.node,
        "worker": row.worker,
    }
