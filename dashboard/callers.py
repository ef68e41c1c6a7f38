"""What pages ask of consumers and keys: lists, what they did lately, and the limits that hold for them.

Usage comes from the rollups by caller, whose grain is the hour: "24 hours" are those up to now, widened to whole hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from dashboard.fold import DAY_S, HOUR_S
from dashboard.ranges import floor
from keys import secrets
from keys.models import ApiKey, Consumer

SOON = timedelta(days=7)
#: What a list can be narrowed to, and how each is said. A rotated key still works, until its overlap ends.
STATES = {
    "live": "live", "soon": "expires soon", "rotated": "rotated", "expired": "expired", "revoked": "revoked",
}  # fmt: skip
ORDERS = {"newest": ("-created_at", "-id"), "used": ("-last_used_at", "-id"), "expiry": ("expires_at", "-id")}


@dataclass(frozen=True, slots=True)
class Calls:
    """Of one caller. `refused`: over a limit; it is part of `client_errors`."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    refused: int = 0

    @property
    def other_client_errors(self) -> int:
        return max(0, self.client_errors - self.refused)


@dataclass(frozen=True, slots=True)
class Step:
    """One bar of a chart. The four parts add up to the requests."""

    start: datetime
    delivered: int = 0
    refused: int = 0
    client_errors: int = 0
    server_errors: int = 0


def keys(*, search: str = "", state: str = "", consumer_id: int | None = None, now: datetime) -> QuerySet[ApiKey]:
    """With the owner, and `succeeded`: whether it was rotated."""
    found = ApiKey.objects.select_related("consumer").annotate(
        succeeded=Exists(ApiKey.objects.filter(rotated_from=OuterRef("pk")))
    )
    if secrets.SHAPE.fullmatch(search):  # a whole key was pasted: exactly that one
        found = found.filter(digest=secrets.digest(search))
    elif search:
        found = found.filter(
            Q(prefix__startswith=search) | Q(name__icontains=search) | Q(consumer__username__icontains=search)
        )
    if consumer_id is not None:
        found = found.filter(consumer_id=consumer_id)
    ended, soon = Q(expires_at__lte=now), Q(expires_at__gt=now, expires_at__lte=now + SOON)
    match state:
        case "revoked":
            found = found.exclude(revoked_at=None)
        case "expired":
            found = found.filter(ended, revoked_at=None)
        case "rotated":
            found = found.live(now).filter(succeeded=True)
        case "soon":
            found = found.live(now).filter(soon, succeeded=False)
        case "live":
            found = found.live(now).filter(~soon | Q(expires_at=None), succeeded=False)
    return found


def state_of(key: ApiKey, now: datetime) -> str:
    """One of STATES, of a key read by `keys`."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    if key.succeeded:  # type: ignore[attr-defined]  # annotated above
        return "rotated"
    return "soon" if key.expires_at is not None and key.expires_at <= now + SOON else "live"


def consumers(search: str = "", *, now: datetime) -> QuerySet[Consumer]:
    """By name, with `live_total`: how many keys work."""
    live = Q(keys__revoked_at=None) & (Q(keys__expires_at=None) | Q(keys__expires_at__gt=now))
    found = Consumer.objects.annotate(live_total=Count("keys", filter=live))
    if search:
        found = found.filter(
            Q(username__icontains=search) | Q(custom_id__icontains=search) | Q(groups__contains=[search])
        )
    return found.order_by("username")


def calls_of_keys(found: Iterable[ApiKey], end: datetime) -> dict[int, Calls]:
    """Key id → its last 24 hours. One query of so many index look-ups: 25 for each key."""
    return _calls("key_id", [(key.consumer_id, key.pk) for key in found], end)


def calls_of_consumers(found: Iterable[Consumer], end: datetime) -> dict[int, Calls]:
    """Consumer id → its last 24 hours, whatever the key. One query."""
    return _calls("consumer_id", [(consumer.pk, None) for consumer in found], end)


def _calls(by: str, callers: Sequence[tuple[int, int | None]], end: datetime) -> dict[int, Calls]:
    if not callers:
        return {}
    which = "AND key_id = caller.key" if by == "key_id" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {by}, sum(requests), sum(client_errors), sum(server_errors), sum(rate_limited) "  # noqa: S608 (our own names)
            "FROM generate_series(%(first)s, %(end)s, interval '1 hour') AS hour "
            "CROSS JOIN unnest(%(consumers)s::bigint[], %(keys)s::bigint[]) AS caller (consumer, key) "
            "CROSS JOIN LATERAL (SELECT * FROM usage_calls WHERE grain_s = %(grain_s)s AND start = hour "
            f"AND consumer_id = caller.consumer {which}) AS calls GROUP BY 1",
            {
                "first": floor(end - timedelta(hours=24), HOUR_S),
                "end": end,
                "consumers": [consumer for consumer, _ in callers],
                "keys": [key for _, key in callers],
                "grain_s": HOUR_S,
            },
        )
        return {caller: Calls(*map(int, sums)) for caller, *sums in cursor.fetchall()}


def series(start: datetime, end: datetime, *, consumer_id: int, key_id: int | None = None) -> list[Step]:
    """Every hour of the range, or every day of one beyond four days. One query."""
    grain_s = HOUR_S if end - start <= timedelta(days=4) else DAY_S
    first, step = floor(start, grain_s), timedelta(seconds=grain_s)
    steps = {first + n * step: Step(first + n * step) for n in range(-((first - end) // step))}
    which = "AND key_id = %(key_id)s" if key_id is not None else ""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT hour, sum(requests), sum(client_errors), sum(server_errors), sum(rate_limited) "  # noqa: S608 (our own names)
            "FROM unnest(%(starts)s::timestamptz[]) AS hour JOIN usage_calls "
            f"ON grain_s = %(grain_s)s AND start = hour AND consumer_id = %(consumer_id)s {which} GROUP BY 1",
            {"starts": list(steps), "grain_s": grain_s, "consumer_id": consumer_id, "key_id": key_id},
        )
        for at, *sums in cursor.fetchall():
            steps[at] = _step(at, *map(int, sums))
    return list(steps.values())


def _step(at: datetime, requests: int, client_errors: int, server_errors: int, refused: int) -> Step:
    """A plugin may refuse with a 5xx too (`error_code`): what is refused is taken out of whichever counted it."""
    of_clients = min(refused, client_errors)
    return Step(
        at,
        delivered=requests - client_errors - server_errors,
        refused=refused,
        client_errors=client_errors - of_clients,
        server_errors=server_errors - (refused - of_clients),
    )
