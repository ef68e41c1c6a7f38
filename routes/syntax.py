"""What may be written in a field: one pure function per kind of text, each gives the normal form or a ValueError.

The sentence of the error is read by the person who wrote the text; it says how to mend it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_network
from pathlib import PurePosixPath
from typing import Any

from gateway.plugins.endpoints import check_url
from gateway.proxy.expressions import compiled
from gateway.proxy.patterns import Pattern

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
UNIX_PATH_MAX_BYTES = 107  # sun_path is 108 on Linux, with its NUL

# What JSON Schema can say of the rules below: it may take more than they do, never less.
_LABEL_ANY_CASE = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_PATTERN = rf"{_LABEL_ANY_CASE}(\.{_LABEL_ANY_CASE})*\.?"
_SEGMENT = r"((?!\.{1,2}(/|$))[^\x00-\x20\x7f?#*{}/]+|\{[A-Za-z_][A-Za-z0-9_]*\})"
_HEADER_EDGE = r"[!-~\x80-\x84\x86-\x9f\xa1-\xff]"
NAME_SCHEMA: dict[str, Any] = {"type": "string", "pattern": NAME}
TAG_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}$"}
SERVER_NAME_SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 253, "pattern": rf"^({_HOST_PATTERN})?$"}
TARGET_HOST_SCHEMA: dict[str, Any] = {
    "type": "string",
    "anyOf": [
        {"maxLength": 253, "pattern": rf"^{_HOST_PATTERN}$"},
        {"format": "ipv6"},
        {"maxLength": 112, "pattern": r"^unix:/[^\x00-\x1f\x7f]*$"},
    ],
}
ROUTE_HOST_SCHEMA: dict[str, Any] = {
    "type": "string",
    "anyOf": [
        {"maxLength": 253, "pattern": rf"^(\*\.)?{_HOST_PATTERN}$"},
        {"pattern": r"^\[[0-9A-Fa-f:.]{2,45}\]$"},
    ],
}
STATUSES_SCHEMA, EJECT_STATUSES_SCHEMA = (
    {"type": "string", "maxLength": 100, "pattern": rf"^ *{one} *(- *{one})? *(, *{one} *(- *{one})? *)*$"}
    for one in ("[1-5][0-9]{2}", "[45][0-9]{2}")
)
PROBE_PATH_SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 1000, "pattern": r"^/[!-\"$-~]*$"}
PROBE_HOST_SCHEMA: dict[str, Any] = {
    "type": "string", "maxLength": 259, "pattern": rf"^({_HOST_PATTERN}(:[1-9][0-9]{{0,3}})?)?$",
}  # fmt: skip
DISCOVERY_URL_SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 2048, "pattern": r"^(https?://[!-~]+)?$"}
METHOD_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$"}
HASH_HEADER_SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 100, "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]*$"}
COOKIE_NAME_SCHEMA = HASH_HEADER_SCHEMA
COOKIE_PATH_SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 200, "pattern": r"^/[!-:<-~]*$"}
PATH_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": 1000,
    "pattern": rf"^((/{_SEGMENT})+(/\*?)?|/\*?|~[^\x00]*)$",
}
REWRITE_SCHEMA: dict[str, Any] = {"type": "string", "maxLength": 1000, "pattern": r"^(/[^\x00-\x20\x7f?#*]*\*?)?$"}
HEADER_CONDITIONS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "propertyNames": {"pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
    "additionalProperties": {
        "type": "array",
        "items": {"type": "string", "pattern": rf"^({_HEADER_EDGE}([ -~\x80-\xff]*{_HEADER_EDGE})?)?$"},
    },
}
_GROUP = r"[A-Za-z0-9][A-Za-z0-9_.:/*-]{0,63}"  # as in `keys.models`
#: Of a plugin's setting. `routes.document.When` says what it means.
WHEN_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "methods": {"type": "array", "maxItems": 40, "items": METHOD_SCHEMA},
        "headers": {
            "type": "object",
            "maxProperties": 20,
            "propertyNames": {"pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
            "additionalProperties": {"type": "string", "maxLength": 500, "pattern": r"^[^\x00]*$"},
        },
        "groups": {"type": "array", "maxItems": 100, "items": {"type": "string", "pattern": rf"^{_GROUP}$"}},
        "networks": {
            "type": "array",
            "maxItems": 200,
            "items": {"type": "string", "maxLength": 50, "pattern": r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"},
        },
        "paths": {"type": "array", "maxItems": 50, "items": PATH_SCHEMA},
    },
}
QUERY_CONDITIONS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "propertyNames": {"pattern": r"^[^\x00-\x1f\x7f]+$"},
    "additionalProperties": {"type": "array", "items": {"type": "string", "pattern": r"^[^\x00-\x1f\x7f]*$"}},
}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise ValueError("Use letters, digits and . _ - only, at most 100, starting with a letter or digit.")
    return text


def tag(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}", text):
        raise ValueError(f"'{text}': a tag is letters, digits and _ . : / -, at most 64 of them.")
    return text


def host_name(text: str) -> str:
    """A DNS name or IPv4 address, lower case."""
    lowered = text.lower()
    if len(lowered) > 253 or not _HOST_NAME.fullmatch(lowered):
        raise ValueError(f"'{text}' is not a host name. Leave out scheme, port and path; write non-ASCII as xn--….")
    return lowered


def route_host(text: str) -> str:
    """As in a Host field without its port: a name, `*.` and a name, an IPv4 address, an IPv6 address in brackets."""
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError(f"'{text}': an IPv6 address stands in brackets, without a port.")
        return f"[{_ipv6(text[1:-1])}]"
    if text.startswith("*."):
        return "*." + host_name(text[2:])
    if "*" in text:
        raise ValueError(f"'{text}': a wildcard stands at the start and for whole labels, as in *.example.com.")
    return host_name(text)


def target_host(text: str) -> str:
    """A name, an IPv4 or IPv6 address without brackets, or `unix:` and an absolute path."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not PurePosixPath(path).is_absolute() or _CONTROL.search(path):
            raise ValueError(f"'{text}': a unix socket is written unix:/absolute/path.")
        if len(path.encode()) > UNIX_PATH_MAX_BYTES:
            raise ValueError(f"'{text}': the path of a unix socket has at most {UNIX_PATH_MAX_BYTES} bytes.")
        return text
    return _ipv6(text.removeprefix("[").removesuffix("]")) if ":" in text else host_name(text)


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise ValueError(f"'{text}' is not an IPv6 address. A port has a field of its own.") from None


def server_name(text: str) -> str:
    return host_name(text) if text else ""


def lines(text: str) -> str:
    """Of a text from a file or a browser: line ends as in Unix, nothing around it."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def probe_path(text: str) -> str:
    if not re.fullmatch(r"/[\x21-\x7e]*", text) or len(text) > 1000 or "#" in text:
        raise ValueError(f"'{text}': a path starts with '/' and has at most 1000 characters, all else percent-encoded.")
    return text


def probe_host(text: str) -> str:
    """As in a Host field: a name or an address, with or without a port. Empty: none."""
    if not text:
        return ""
    found = re.fullmatch(r"(\[.*\]|[^:*]*)(?::([0-9]{1,5}))?", text)
    if not found or not 0 < int(found[2] or 1) <= 65535:
        raise ValueError(f"'{text}': write a host as in example.com or example.com:8080.")
    return route_host(found[1]) + (f":{found[2]}" if found[2] else "")


def discovery_name(text: str) -> str:
    return host_name(text) if text else ""


def discovery_url(text: str) -> str:
    return check_url(text) if text else ""


def discovery_resolver(text: str) -> str:
    """`host`, `host:port` or `[::1]:port`."""
    return probe_host(text)


def statuses(text: str) -> str:
    """`200-299,401`: the ranges in order, without spaces."""
    ranges = sorted(status_ranges(text))
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def status_ranges(text: str) -> tuple[tuple[int, int], ...]:
    found = []
    for part in text.replace(" ", "").split(","):
        ends = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", part)
        if not ends:
            raise ValueError(f"'{part}': write statuses as 200 or 200-399, separated by commas.")
        if int(ends[1]) > int(ends[2] or ends[1]):
            raise ValueError(f"'{part}': the lower status stands first.")
        found.append((int(ends[1]), int(ends[2] or ends[1])))
    return tuple(found)


def eject_statuses(text: str) -> str:
    if any(low < 400 for low, _ in status_ranges(text)):
        raise ValueError("A status below 400 is a good answer: name statuses from 400 to 599.")
    return statuses(text)


def in_order(words: list[Any]) -> list[Any]:
    """Each once, in the alphabet's order: it has no meaning."""
    return sorted(set(words))


def hash_header(text: str) -> str:
    if (text and not _TOKEN.fullmatch(text)) or len(text) > 100:
        raise ValueError(f"'{text}' is not the name of a header.")
    return text.lower()


def cookie_name(text: str) -> str:
    if (text and not _TOKEN.fullmatch(text)) or len(text) > 100:
        raise ValueError(f"'{text}' is not the name of a cookie: letters, digits and !#$%&'*+.^_`|~- only.")
    return text


def cookie_path(text: str) -> str:
    if not re.fullmatch(COOKIE_PATH_SCHEMA["pattern"], text) or len(text) > 200:
        raise ValueError("A cookie's path begins with / and holds neither ; nor spaces.")
    return text


def method(text: str) -> str:
    upper = text.upper()
    if not _TOKEN.fullmatch(upper) or len(upper) > 32:
        raise ValueError(f"'{text}' is not a request method.")
    if upper == "CONNECT":
        raise ValueError("CONNECT opens a tunnel, which this gateway does not do.")
    return upper


def path(text: str) -> str:
    if len(text) > 1000:
        raise ValueError("A path has at most 1000 characters.")
    Pattern.parse(text)
    return text


def header_conditions(conditions: dict[str, list[str]]) -> dict[str, list[str]]:
    normal: dict[str, list[str]] = {}
    for header, values in conditions.items():
        if not _TOKEN.fullmatch(header):
            raise ValueError(f"'{header}' is not a header name.")
        if header.lower() in normal:
            raise ValueError(f"'{header}' is there twice; header names are the same in upper and lower case.")
        for value in values:
            if _CONTROL.search(value) or not _is_latin_1(value) or value != value.strip():
                raise ValueError(f"{header}: '{value}' cannot be the value of a header.")
        normal[header.lower()] = values
    return normal


def query_conditions(conditions: dict[str, list[str]]) -> dict[str, list[str]]:
    for parameter, values in conditions.items():
        if not parameter or any(_CONTROL.search(text) for text in (parameter, *values)):
            raise ValueError(f"'{parameter}': a query parameter has a name, and no control characters.")
    return conditions


def header_patterns(patterns: dict[str, str]) -> dict[str, str]:
    normal: dict[str, str] = {}
    for header, pattern in patterns.items():
        if not _TOKEN.fullmatch(header):
            raise ValueError(f"'{header}' is not a header name.")
        if header.lower() in normal:
            raise ValueError(f"'{header}' is there twice; header names are the same in upper and lower case.")
        compiled(pattern)
        normal[header.lower()] = pattern
    return normal


def group(text: str) -> str:
    if not re.fullmatch(_GROUP, text):
        raise ValueError(f"'{text}' is not the name of a group: letters, digits and _ . : / * - only.")
    return text


def network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"'{text}' is no network such as 10.0.0.0/8 or 2001:db8::/32: {error}.") from None


def config(value: dict[str, object]) -> dict[str, object]:
    """JSON as PostgreSQL keeps it; what it means is the plugin's own business."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("A number is infinite or not a number.") from None
    return value


def is_storable(value: object) -> bool:
    """No text in it, however deep, that neither PostgreSQL nor UTF-8 can hold."""
    if isinstance(value, str):
        return _UNSTORABLE.search(value) is None
    if isinstance(value, Mapping):
        return all(map(is_storable, value)) and all(map(is_storable, value.values()))
    return not isinstance(value, list) or all(map(is_storable, value))


def _is_latin_1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True
