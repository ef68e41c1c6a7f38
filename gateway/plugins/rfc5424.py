"""Syslog messages (RFC 5424) of finished requests.

    <134>1 2026-11-29T03:47:03.123Z gw-1 hydragate 4711 request [request@32473 request_id="…" …] GET /orders/7 …

Everything in it is ASCII or, in values, UTF-8, without control characters: no request can write a line of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
MSGID = "request"
MAX_VALUE_BYTES = 512
_KEPT_CHARACTERS = 128  # of a longer value; however it is escaped and encoded, it is no longer than MAX_VALUE_BYTES
_SPECIAL = re.compile(r'["\\\]]')
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_NAME = re.compile(r"[^!-~]")
#: Not among the values: what the head says already.
_IN_HEAD = frozenset({"at", "node"})
#: First, for what does not fit is left out.
_FIRST = ("request_id", "status", "outcome", "method", "host", "path")


class Writer:
    """`values_id`: SD-ID of the values, `name@number`. `as_json`: the text is the whole record as JSON."""

    def __init__(self, facility: str, app: str, process: int, node: str, values_id: str, *, as_json: bool) -> None:
        self._facility = FACILITIES.index(facility) << 3
        self._about = f"{_name(node, 255)} {_name(app, 48)} {process} {MSGID} [{values_id}".encode()
        self._as_json = as_json

    def message(self, severity: int, said: Mapping[str, object], max_bytes: int) -> bytes:
        """`said`: of `gateway.proxy.record.members`. Never longer than `max_bytes` (1,024 or more)."""
        written = b"<%d>1 %s %s" % (self._facility | severity, str(said["at"]).encode(), self._about)
        for name in dict.fromkeys((*_FIRST, *said)):
            if name in said and name not in _IN_HEAD:
                value = b' %s="%s"' % (name.encode(), _value(str(said[name])))
                if len(written) + len(value) < max_bytes:
                    written += value
        written += b"]"
        room = max_bytes - len(written) - 1
        text = json.dumps(said, separators=(",", ":")).encode() if self._as_json else _line(said)[: max(room, 0)]
        return written + b" " + text if text and len(text) <= room else written


def counted(message: bytes) -> bytes:
    """With its length before it (RFC 6587 §3.4.1, RFC 5425 §4.3): how messages follow one another in a stream."""
    return b"%d %s" % (len(message), message)


def _name(text: str, longest: int) -> str:
    return _NO_NAME.sub("", text)[:longest] or "-"


def _value(text: str) -> bytes:
    escaped = _escaped(text)
    return escaped if len(escaped) <= MAX_VALUE_BYTES else _escaped(text[:_KEPT_CHARACTERS])


def _escaped(text: str) -> bytes:
    return _SPECIAL.sub(r"\\\g<0>", _CONTROLS.sub(" ", text)).encode(errors="replace")


def _line(said: Mapping[str, object]) -> bytes:
    """ASCII: a text in UTF-8 would have to begin with a mark that many receivers show (RFC 5424 §6.4)."""
    text = f"{said.get('method', '-')} {said['path']} {said['status']} {said['outcome']} {said['duration_ms']} ms"
    return _CONTROLS.sub(" ", text).encode("ascii", "backslashreplace")
