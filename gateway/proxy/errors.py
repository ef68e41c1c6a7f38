"""Everything that can end a request badly, and the one answer format for it.

GatewayError                      status  code                     outcome
├── Reject                        any     any                      its code, or `rejected`
├── BadRequest                    400     bad_request              bad_request
│   ├── BadPath                   400     bad_path                 bad_path
│   ├── AmbiguousPath             400     ambiguous_path           ambiguous_path
│   └── BodyTooLarge              413     body_too_large           body_too_large
├── NoRoute                       404     no_route                 no_route
├── NotReady                      503     not_ready                not_ready
├── PluginFailed                  500     plugin_failed            plugin_failed
├── RedisUnavailable              503     redis_unavailable        redis_unavailable
├── CredentialsUnavailable        503     credentials_unavailable  credentials_unavailable
├── ClientClosed                  499     client_closed            client_closed
└── UpstreamError                 502     upstream_error           upstream_error
    ├── NoTarget                  503     no_target                no_target
    │   └── NoHealthyTarget       503     no_healthy_target        no_healthy_target
    ├── UpstreamBusy              503     upstream_busy            upstream_busy
    ├── CircuitOpen               503     circuit_open             circuit_open
    ├── ConnectFailed             502     upstream_unreachable     upstream_unreachable
    ├── UpstreamForbidden         502     upstream_forbidden       upstream_forbidden
    ├── UpstreamBroke             502     upstream_broke           upstream_broke
    └── UpstreamTimeout           504     upstream_timeout         upstream_timeout

`code` is stable and documented in docs/errors.md; `outcome` is what a usage row says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from typing import ClassVar, Self

Headers = Sequence[tuple[bytes, bytes]]

#: The closed list of reasons a request ended as it did. A row never carries another word.
OUTCOMES: frozenset[str] = frozenset({
    "ok",  # the upstream's (or a plugin's own) answer was delivered whole
    "answered",  # a plugin answered by itself (preflight, mock, cache)
    "no_route", "not_ready", "bad_request", "bad_path", "ambiguous_path", "body_too_large",
    "key_missing", "key_invalid", "key_expired", "key_revoked", "consumer_disabled", "acl_denied",
    "token_missing", "token_invalid", "token_expired", "credentials_missing", "credentials_invalid",
    "rate_limited", "rejected",
    "plugin_failed", "redis_unavailable", "credentials_unavailable",
    "no_target", "no_healthy_target", "upstream_busy", "circuit_open",
    "upstream_unreachable", "upstream_forbidden", "upstream_broke", "upstream_timeout",
    "upstream_error", "client_closed", "internal_error",
})  # fmt: skip


class GatewayError(Exception):
    """`detail` is one sentence for the client: what was wrong and how to mend it. No secrets, no addresses."""

    status: int = 500
    code: str = "internal_error"
    title: ClassVar[str] = "The gateway failed"
    detail: str = "The gateway could not handle this request."
    errors: Sequence[dict[str, str]] = ()  # all that is wrong, where that is more than one sentence

    def __init__(self, detail: str = "", *, headers: Headers = ()) -> None:
        super().__init__(detail or self.detail)
        if detail:
            self.detail = detail
        self.headers = headers

    @property
    def outcome(self) -> str:
        return self.code if self.code in OUTCOMES else "rejected"


class Reject(GatewayError):
    """Raised by a plugin's `access` hook: this request goes no further.

    `code` in OUTCOMES becomes the outcome of the usage row, any other word is recorded as `rejected`.
    """

    title = "Request refused"

    def __init__(self, status: int, code: str, detail: str, *, headers: Headers = ()) -> None:
        super().__init__(detail, headers=headers)
        self.status, self.code = status, code


class BadRequest(GatewayError):
    status, code, title = 400, "bad_request", "Bad request"
    detail = "The request is not valid HTTP."


class BadPath(BadRequest):
    code, title = "bad_path", "Bad request path"
    detail = "The path must start with '/' and hold no control characters; percent-encode them."


class AmbiguousPath(BadRequest):
    code, title = "ambiguous_path", "Ambiguous request path"
    detail = "Read differently, this path would reach another route. Send it without encoded slashes or dot segments."


class BodyTooLarge(BadRequest):
    status, code, title = 413, "body_too_large", "Request body too large"
    detail = "The request body is larger than this route accepts."


class NoRoute(GatewayError):
    status, code, title = 404, "no_route", "No route"
    detail = "No route matches this host, path and method."


class NotReady(GatewayError):
    status, code, title = 503, "not_ready", "Not ready"
    detail = "The gateway has not loaded a configuration yet. Try again in a moment."


class PluginFailed(GatewayError):
    status, code, title = 500, "plugin_failed", "A plugin failed"
    detail = "A plugin of this route failed, so the request was not forwarded. The gateway's log has the reason."


class RedisUnavailable(GatewayError):
    status, code, title = 503, "redis_unavailable", "Gateway store unavailable"
    detail = "The gateway cannot reach its counters, and this route is set to refuse in that case."


class CredentialsUnavailable(GatewayError):
    """Never a 401: the gateway's own trouble is not the client's."""

    status, code, title = 503, "credentials_unavailable", "Credentials cannot be checked"
    detail = "The gateway cannot look up credentials at the moment. Try again shortly."


class ClientClosed(GatewayError):
    """Never sent: the client left. 499 is nginx's word for it, used on the usage row."""

    status, code, title = 499, "client_closed", "Client closed the connection"
    detail = "The client closed the connection before the answer was complete."


class UpstreamError(GatewayError):
    status, code, title = 502, "upstream_error", "Upstream error"
    detail = "The upstream could not answer."
    safe_to_retry, phase = False, ""  # set by the transport: sending again can do no harm; the time limit that ran out

    def again(self) -> Self:
        """The same, to be raised by who goes on keeping this one: what is raised holds the frames that it passes, and
        they would hold it in turn, and a connection's buffers with it, until a collector comes by."""
        twin = copy(self)
        twin.__cause__ = self.__cause__
        return twin


class NoTarget(UpstreamError):
    status, code, title = 503, "no_target", "No upstream target"
    detail = "No target of the upstream is available."


class NoHealthyTarget(NoTarget):
    """There are targets with a weight, and the prober says of each that it is down."""

    code, title = "no_healthy_target", "No healthy upstream target"
    detail = "Every target of the upstream fails its health checks. Try again shortly."


class UpstreamBusy(UpstreamError):
    """All connections to the target are in use and the waiting queue is full, or waiting took too long."""

    status, code, title = 503, "upstream_busy", "Upstream busy"
    detail = "The upstream has no free connection. Try again shortly."


class CircuitOpen(UpstreamError):
    """The upstream failed too often or was too slow lately: it is left alone for a while."""

    status, code, title = 503, "circuit_open", "Upstream left alone"
    detail = "The upstream has failed too often lately and is not asked at the moment. Try again shortly."


class ConnectFailed(UpstreamError):
    """Nothing was sent: always safe to try another target."""

    status, code, title = 502, "upstream_unreachable", "Upstream unreachable"
    detail = "No connection to the upstream could be made."


class UpstreamForbidden(UpstreamError):
    """The target is where no upstream may be (`fence.py`): nothing was sent, and the target is not to blame."""

    status, code, title = 502, "upstream_forbidden", "Upstream forbidden"
    detail = "The upstream is at an address that this gateway may not connect to. The gateway's log names it."
    safe_to_retry = True


class UpstreamBroke(UpstreamError):
    """The connection died, or what came over it was not valid HTTP. Bytes may have been processed."""

    status, code, title = 502, "upstream_broke", "Upstream broke off"
    detail = "The upstream closed the connection or sent an invalid answer."


class UpstreamTimeout(UpstreamError):
    status, code, title = 504, "upstream_timeout", "Upstream timed out"
    detail = "The upstream did not answer in time."


def problem(error: GatewayError, instance: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The answer for an error: status, header pairs, body; `application/problem+json` (RFC 9457).

    `instance` is the request id. `message` repeats the detail for clients written for Kong.
    """
    body = json.dumps(
        {
            "type": f"/docs/errors#{error.code}",
            "title": error.title,
            "status": error.status,
            "detail": error.detail,
            "instance": instance,
            "code": error.code,
            "message": error.detail,
            **({"errors": error.errors} if error.errors else {}),
        },
        ensure_ascii=False,
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *error.headers,
    ]
    if isinstance(error, UpstreamError):  # RFC 9209 §2.3
        headers.append((b"proxy-status", b"hydragate; error=" + PROXY_STATUS.get(error.code, b"proxy_internal_error")))
    return error.status, headers, body


#: RFC 9209 §2.3: the error types for our codes.
PROXY_STATUS = {
    "no_target": b"destination_unavailable",
    "no_healthy_target": b"destination_unavailable",
    "upstream_busy": b"connection_limit_reached",
    "circuit_open": b"destination_unavailable",
    "upstream_unreachable": b"connection_refused",
    "upstream_forbidden": b"destination_ip_prohibited",
    "upstream_broke": b"http_response_incomplete",
    "upstream_timeout": b"http_response_timeout",
}
