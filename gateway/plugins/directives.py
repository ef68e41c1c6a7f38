"""directives: what `Cache-Control`, `CDN-Cache-Control`, dates and tags of a head say. Pure functions of values.

A directive that cannot be read makes an answer stale. Times are seconds since the epoch.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache

from gateway.proxy import headers
from gateway.proxy.headers import Pairs

Directives = Mapping[bytes, bytes | None]  # lower-cased name → argument without quotes; None: has none

MAX_S = 2**31  # RFC 9111 §1.2.2
MAX_MEMORISED_BYTES = 256  # of a field's value: longer ones are read anew, lest clients fill the memory
NONE: Directives = {}

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_DIRECTIVE = re.compile(rb'[ \t]*(%b)[ \t]*(?:=[ \t]*(?:"((?:[^"\\]|\\.)*)"|(%b)?))?[ \t]*(?:,|$)' % (_TOKEN, _TOKEN))
_NEXT = re.compile(rb"[^,]*(?:,|$)")
_LISTS = (b"no-cache", b"private")  # may name fields; without an argument they concern the whole answer


def directives(values: list[bytes]) -> Directives:
    """Of all lines of a `Cache-Control` field. What is not understood is passed over; the first of two counts."""
    if not values:
        return NONE
    value = values[0] if len(values) == 1 else b",".join(values)
    return _remembered(value) if len(value) <= MAX_MEMORISED_BYTES else _directives(value)


def _directives(value: bytes) -> Directives:
    found: dict[bytes, bytes | None] = {}
    position = 0
    while position < len(value):
        match = _DIRECTIVE.match(value, position)
        if match is None:
            match = _NEXT.match(value, position)
            assert match is not None
        else:
            _add(found, match[1].lower(), match[2] if match[2] is not None else match[3])
        position = match.end()
    return found


_remembered = lru_cache(maxsize=1024)(_directives)


def _add(found: dict[bytes, bytes | None], name: bytes, argument: bytes | None) -> None:
    """Of `no-cache` and `private` the whole answer outweighs a list, and two lists are one."""
    if name not in found:
        found[name] = argument
    elif name in _LISTS:
        before = found[name]
        found[name] = before + b"," + argument if before and argument else None


def seconds(found: Directives, name: bytes) -> int | None:
    """A directive's argument: None without the directive, 0 (stale) where it is no number."""
    if name not in found:
        return None
    argument = found[name]
    return min(int(argument[:11]), MAX_S) if argument and argument.isdigit() else 0


def listed(found: Directives, name: bytes) -> frozenset[bytes] | None:
    """The fields that `no-cache` or `private` names. None: no list, so the directive concerns all or is absent."""
    argument = found.get(name)
    return frozenset(word.strip().lower() for word in argument.split(b",") if word.strip()) if argument else None


_SECONDS = frozenset({b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"})
_KEY = rb"[a-z*][a-z0-9_.*-]*"
_BARE = (
    rb"(?:-?\d{1,12}\.\d{1,3}|-?\d{1,15}|\"(?:[ !#-\[\]-~]|\\[\"\\])*\"|\?[01]|:[A-Za-z0-9+/=]*:|@-?\d{1,15}"
    rb"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*)"
)
_PARAMETERS = rb"(?:;[ ]*%b(?:=%b)?)*" % (_KEY, _BARE)
_MEMBER = re.compile(
    rb"(%b)(?:=(%b|\([ ]*(?:%b%b[ ]*)*\)))?%b[ \t]*(,[ \t]*|$)" % (_KEY, _BARE, _BARE, _PARAMETERS, _PARAMETERS)
)


def targeted(values: list[bytes]) -> Directives | None:
    """Of `CDN-Cache-Control` (RFC 9213 §2.1), a structured dictionary. None: absent, empty or broken, so not heeded.

    A member of the wrong type is passed over: seconds are numbers, not texts."""
    text = b",".join(values).strip(b" ")
    found: dict[bytes, bytes | None] = {}
    position = 0
    while position < len(text):
        match = _MEMBER.match(text, position)
        if match is None or (match[3] and match.end() == len(text)):
            return None
        position = match.end()
        argument = match[2]
        found.pop(match[1], None)  # the last of two counts (RFC 8941 §3.2)
        if argument in (None, b"?1"):
            found[match[1]] = None
        elif argument and argument[:1] == b'"' and match[1] not in _SECONDS:
            found[match[1]] = re.sub(rb"\\(.)", rb"\1", argument[1:-1])
        elif argument and argument.isdigit():
            found[match[1]] = argument
    return found or None


_DAY, _MONTHS = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", (*b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(),)
_DATES = (
    re.compile(rb"%b, (?P<d>\d\d) (?P<m>[A-Z]{3}) (?P<y>\d{4}) (?P<t>\d\d:\d\d:\d\d) GMT" % _DAY, re.IGNORECASE),
    re.compile(rb"[MTWFS][a-z]+day, (?P<d>\d\d)-(?P<m>[A-Z]{3})-(?P<y>\d\d) (?P<t>\d\d:\d\d:\d\d) GMT", re.IGNORECASE),
    re.compile(rb"%b (?P<m>[A-Z]{3}) (?P<d>[ \d]\d) (?P<t>\d\d:\d\d:\d\d) (?P<y>\d{4})" % _DAY, re.IGNORECASE),
)


@lru_cache(maxsize=1024)
def _date(value: bytes) -> int | None:
    for form in _DATES:
        match = form.fullmatch(value)
        if match is not None and (month := match["m"].title()) in _MONTHS:
            year = int(match["y"])
            if year < 100:  # RFC 850: never more than 50 years ahead
                year += 2000 if year < 76 else 1900
            hour, minute, second = map(int, match["t"].split(b":"))
            day = int(match["d"])
            if 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60:
                return timegm((year, _MONTHS.index(month) + 1, day, hour, minute, second))
    return None


def date(value: bytes | None) -> int | None:
    """One of the three forms of RFC 9110 §5.6.7, in any case of letters (RFC 9111 §4.2), else None."""
    return None if value is None or len(value) > 40 else _date(value.strip())


def tags(fields: Pairs) -> frozenset[bytes]:
    """By which an answer may be purged: the words of `Surrogate-Key`."""
    return frozenset(word for value in headers.get_all(fields, b"surrogate-key") for word in value.split())
