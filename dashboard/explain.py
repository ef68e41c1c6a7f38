"""Why a request ended as it did, as a sentence or two for people. Pure: a row and the names of what it is about."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from datetime import timedelta
from math import floor
from typing import Any

from dashboard.names import Names
from gateway.plugins.dryruns import parted
from gateway.proxy import errors

#: What rate-limiting writes into a row's `detail` (`plugins.rate_limiting`).
_OVER = re.compile(
    r"rate-limiting: (?P<caller>\S+) is over (?P<limit>\d+) per (?P<window>\S+) s "
    r"\((?P<algorithm>[a-z-]+)\), room again in (?P<wait>\d+) s"
)

_PLAIN = {
    "answered": "A plugin of the route answered by itself; no upstream was asked.",
    "no_route": "No route matches this host, path and method.",
    "not_ready": "The gateway had not loaded a configuration yet.",
    "bad_request": "The request was not valid HTTP.",
    "bad_path": "The path held control characters or a stray %.",
    "ambiguous_path": "Read differently, the path would have reached another route, so it was refused.",
    "body_too_large": "The request body was larger than the route accepts.",
    "key_missing": "The route asks for an API key.",
    "key_invalid": "The request had a key, but no such key exists.",
    "key_expired": "The request's key has expired.",
    "key_revoked": "The request's key has been revoked.",
    "consumer_disabled": "The credentials were right, but its owner is switched off.",
    "token_missing": "The route asks for a token.",
    "token_invalid": "The request had a token that does not count here.",
    "token_expired": "The request's token has expired.",
    "credentials_missing": "The route asks for a username and password.",
    "credentials_invalid": "The request had a wrong username or password.",
    "rejected": "A plugin refused the request.",
    "plugin_failed": "A plugin failed, so the request was not forwarded. The gateway's log has the reason.",
    "redis_unavailable": "The counters in Redis could not be reached, and the route is set to refuse then.",
    "credentials_unavailable": "The key could not be looked up: neither Redis nor PostgreSQL answered in time.",
    "internal_error": "The gateway itself failed. Its log has the trace under this request id.",
}

#: What stands in `detail` when there was nothing particular to say.
_STANDARD = {error.detail for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "detail")}
_STANDARD |= {
    "This API key is not valid here.",
    "This API key has expired. Ask for a new one.",
    "This API key has been revoked. Ask for a new one.",
    "The owner of this API key is disabled.",
    "The token has expired.",
}


def explain(row: Any, names: Names) -> str:
    """`row` has the attributes of a UsageRow."""
    detail, dry = parted(row.detail)
    if dry:
        row = copy(row)
        row.detail = detail
    said = _SENTENCES.get(row.outcome, _plain)(row, names)
    if row.tries > 1:
        said += f" It took {row.tries} attempts."
    return f"{said} In a dry run, {dry}{'' if dry.endswith('?') else '.'}" if dry else said


def _ok(row: Any, names: Names) -> str:
    if row.upstream_ms is None:
        return f"Answered with {row.status} by the gateway."
    said = f"Delivered: {_upstream(row, names)} answered {row.status} after {_ms(row.upstream_ms)}."
    if row.status >= 500:
        said += " The error is the upstream's own, passed on unchanged."
    return said


def _rate_limited(row: Any, names: Names) -> str:
    match = _OVER.fullmatch(row.detail)
    if match is None:
        return row.detail or "The caller was over a rate limit."
    wait_s = int(match["wait"])
    again = row.at + timedelta(milliseconds=row.duration_ms, seconds=wait_s)
    limit = int(match["limit"])
    counted = {
        "token-bucket": "the bucket was empty",
    }.get(match["algorithm"], f"this would have been number {limit + 1}")
    who = _caller(match["caller"], row, names)
    return f"{who} {limit} per {match['window']} s; {counted}; room again at {again:%H:%M:%S} UTC."


def _acl_denied(row: Any, names: Names) -> str:
    reason = row.detail.removeprefix("acl: ")
    return f"The route lets in certain groups only: {reason}." if reason else "The consumer's groups may not pass."


def _client_closed(row: Any, names: Names) -> str:
    after = f"after {_ms(row.duration_ms)}"
    if row.upstream_ms is None:
        return f"The client left {after}, before anything was sent upstream."
    return f"The client left {after}, before the answer of {_upstream(row, names)} was complete."


def _upstream_failed(row: Any, names: Names) -> str:
    where = _upstream(row, names)
    said = {
        "no_target": f"{where} has no target that takes traffic.",
        "no_healthy_target": f"Every target of {where} failed its health checks.",
        "circuit_open": f"The circuit to {where} was open: it had failed too often, or been too slow.",
        "upstream_busy": f"All connections to {where} were in use, and waiting for one took too long.",
        "upstream_unreachable": f"No connection to {where} could be made.",
        "upstream_forbidden": f"{where} is at an address where no upstream may be, so no connection was made.",
        "upstream_broke": f"{where} closed the connection or sent an invalid answer.",
        "upstream_timeout": f"{where} did not answer in time: the gateway gave up after {_ms(row.duration_ms)}.",
    }.get(row.outcome, f"{where} could not answer.")
    return _with_detail(said[0].upper() + said[1:], row)


def _plain(row: Any, names: Names) -> str:
    return _with_detail(_PLAIN.get(row.outcome, row.outcome.replace("_", " ").capitalize() + "."), row)


_SENTENCES: dict[str, Callable[[Any, Names], str]] = {
    "ok": _ok,
    "rate_limited": _rate_limited,
    "acl_denied": _acl_denied,
    "client_closed": _client_closed,
    **dict.fromkeys(
        (
            "no_target",
            "no_healthy_target",
            "circuit_open",
            "upstream_busy",
            "upstream_unreachable",
            "upstream_forbidden",
            "upstream_broke",
            "upstream_timeout",
            "upstream_error",
        ),
        _upstream_failed,
    ),
}


def _caller(counted: str, row: Any, names: Names) -> str:
    """Of whom the limit speaks, and the verb: `key:5`, `jwt:7`, `hmac:7`, `consumer:3`, `ip:192.0.2.1`, `header:…`."""
    kind, _, id_ = counted.partition(":")
    number = int(id_) if id_.isdecimal() else None
    if kind == "key" and number is not None:
        return f"Key {names.keys[number]}… allows" if number in names.keys else f"Key {number} allows"
    if kind == "consumer" and number is not None:
        return f"Consumer {names.consumers.get(number, number)} may send"
    if kind == "route" and number is not None:
        return f"Route {names.routes.get(number, number)} takes"
    if kind in ("jwt", "oauth2", "oidc", "mtls", "hmac", "basic"):
        proof = {"hmac": "signature", "mtls": "certificate", "basic": "username"}.get(kind, "token")
        return f"The caller that the {proof} names may send"
    return "The value of the header allows" if kind == "header" else f"Address {id_} may send"


def _upstream(row: Any, names: Names) -> str:
    name = names.upstreams.get(row.upstream_id, "") if row.upstream_id is not None else ""
    name = f"upstream {name}" if name else "the upstream"
    return f"{name} ({row.target})" if row.target else name


def _with_detail(said: str, row: Any) -> str:
    """With the row's own sentence, unless it is the one that goes without saying."""
    return said if not row.detail or row.detail in _STANDARD else f"{said} {row.detail}"


def _ms(value: float) -> str:
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms" if value < 10 else f"{floor(value)} ms"
