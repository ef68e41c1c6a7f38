"""The table is RFC 9111, 9110, 5861, 9213 and 9211 as a client and an upstream see them: each row is played over HTTP
against a real upstream, at a time of its own. What the rules are by themselves: test_freshness.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.plugins.base import Plugin, Resources
from gateway.plugins.purges import Purge
from gateway.plugins.registry import ConfigProblems, Registry
from gateway.plugins.request_transformer import RequestTransformer
from gateway.plugins.response_cache import ResponseCache
from gateway.plugins.response_transformer import ResponseTransformer
from gateway.plugins.store import Store
from gateway.proxy.errors import UpstreamError
from gateway.proxy.exchange import Consumer, Exchange
from gateway.proxy.headers import get
from gateway.proxy.table import RoutingTable
from tests.plugins.caching import Cached, Clock, Origin, Step, play
from tests.proxy.gatewaying import NOTHING, NoConfig, request, route
from tests.running import free_port
from tests.upstream import Wire, serving, until

CHANGED = "last-modified: Mon, 21 Sep 2026 14:12:20 GMT"
FOREVER = "200 | cache-control: max-age=1000"
TAGGED = '200 | cache-control: max-age=10 | etag: "a"'
ETAG = 'etag: "a"'


async def played(steps: list[Step], config: dict[str, object]) -> None:
    clock = Clock()
    origin = Origin(clock)
    async with serving(origin.script) as up, Cached(up.port, clock, **config) as bench:
        await play(bench, origin, steps)


# --- what is kept: the second request is answered without the origin --------------------------------------------------

KEPT = [
    ("GET", FOREVER, "GET"),
    ("GET", "200 | cache-control: s-maxage=1000", "GET"),
    ("GET", "200 | cache-control: max-age=0, s-maxage=1000", "GET"),
    ("GET", "200 | expires: Mon, 21 Sep 2026 15:14:00 GMT", "GET"),
    ("GET", "200 | expires: Monday, 21-Sep-26 15:14:00 GMT", "GET"),
    ("GET", "200 | expires: Mon Sep 21 15:14:00 2026", "GET"),
    ("GET", "200 | expires: MON, 21 sep 2026 15:14:00 gmt", "GET"),
    ("GET", "200 | cache-control: public | expires: Mon, 21 Sep 2026 15:14:00 GMT", "GET"),
    ("GET", "200 | cache-control: MAX-AGE=1000", "GET"),
    ("GET", 'GET 200 | cache-control: max-age="1000"'.removeprefix("GET "), "GET"),
    ("GET", "200 | cache-control: foo=bar, max-age=1000", "GET"),
    ("GET", "200 | cache-control: public | cache-control: max-age=1000", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | expires: 0", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | date: none", "GET"),
    ("GET", "200 | cache-control: no-store | cdn-cache-control: max-age=1000", "GET"),
    ("GET", "200 | cache-control: max-age=0 | cdn-cache-control: max-age=1000", "GET"),
    ("GET", "200 | cache-control: private | cdn-cache-control: max-age=1000", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | cdn-cache-control: MAX-AGE=0", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | cdn-cache-control:", "GET"),
    ("GET", '200 | cache-control: max-age=1000 | cdn-cache-control: max-age="0"', "GET"),
    ("GET", "200 | cache-control: no-store, must-understand, max-age=1000", "GET"),
    ("GET", "203 | cache-control: max-age=1000", "GET"),
    ("GET", "204 | cache-control: max-age=1000", "GET"),
    ("GET", "301 | cache-control: max-age=1000 | location: /y", "GET"),
    ("GET", "302 | cache-control: max-age=1000 | location: /y", "GET"),
    ("GET", "303 | cache-control: max-age=1000 | location: /y", "GET"),
    ("GET", "307 | cache-control: max-age=1000 | location: /y", "GET"),
    ("GET", "308 | cache-control: max-age=1000 | location: /y", "GET"),
    ("GET", "404 | cache-control: max-age=1000", "GET"),
    ("GET", "410 | cache-control: max-age=1000", "GET"),
    ("GET", "414 | cache-control: max-age=1000", "GET"),
    ("GET", "501 | cache-control: max-age=1000", "GET"),
    ("GET /x?a=1", FOREVER, "GET /x?a=1"),
    ("GET", "200 | cache-control: max-age=1000 | transfer-encoding: chunked", "GET"),
    ("GET | authorization: Basic a", "200 | cache-control: max-age=1000, public", "GET | authorization: Basic b"),
    ("GET | authorization: Basic a", "200 | cache-control: s-maxage=1000", "GET"),
    ("GET | authorization: Basic a", "200 | cache-control: max-age=1000, must-revalidate", "GET"),
    ("GET", FOREVER, "GET | authorization: Basic a"),
    ("GET | cookie: a=1", FOREVER, "GET | cookie: a=2"),
    ("GET | accept: a", FOREVER + " | vary: accept", "GET | accept: a"),
    ("GET | accept: a,b", FOREVER + " | vary: Accept", "GET | accept: a , b"),
    ("GET | accept: a | accept: b", FOREVER + " | vary: Accept", "GET | accept: a, b"),
    ("GET", FOREVER + " | vary: Accept", "GET"),
    ("GET | accept-encoding: gzip, br", FOREVER + " | vary: Accept-Encoding", "GET | accept-encoding: BR, gzip;q=1.0"),
    ("GET | accept: a | x-b: 1", FOREVER + " | vary: accept, x-b", "GET | accept: a | x-b: 1"),
    ("GET | accept: a | x-b: 1", FOREVER + " | vary: accept", "GET | accept: a | x-b: 2"),
    ("GET", FOREVER, "GET | cache-control: max-age=5"),
    ("GET", FOREVER, "GET | cache-control: min-fresh=999"),
    ("GET", FOREVER, "GET | cache-control: only-if-cached"),
    ("GET", FOREVER, "GET | cache-control: unknown"),
    ("GET", FOREVER, "GET | cache-control: max-stale"),
    ("GET | pragma: x", FOREVER, "GET | pragma: x"),
    ("GET", FOREVER, "GET | cache-control: max-age=5 | pragma: no-cache"),
    ("GET", FOREVER, "GET | host: API.test"),
    ("GET", '200 | cache-control: max-age=1000, no-cache="x-a" | x-a: 1', "GET"),
    ("GET", '200 | cache-control: max-age=1000, private="x-a" | x-a: 1', "GET"),
    ("GET | if-none-match: \"b\"", FOREVER, "GET"),
    ("GET | range: bytes=0-0", FOREVER, "GET"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "said", "second"), KEPT)
async def test_kept(first: str, said: str, second: str) -> None:
    body = "''" if said.startswith("204") else "#1"
    await played(
        [(0, first, said, f"{said[:3]} {body} | -age"), (1, second, None, f"{said[:3]} {body} | age: 1 | -x-a")]
        if "x-a: 1" not in said
        else [(0, first, said, "200 #1 | x-a: 1"), (1, second, None, "200 #1 | -x-a")],
        {},
    )


# --- what is not: the origin is asked again ---------------------------------------------------------------------------

NOT_KEPT = [
    ("GET", "200", "GET"),
    ("GET", f"200 | {CHANGED}", "GET"),
    ("GET", "200 | cache-control: max-age=0", "GET"),
    ("GET", "200 | cache-control: max-age=1000, s-maxage=0", "GET"),
    ("GET", "200 | cache-control: max-age=-5", "GET"),
    ("GET", "200 | cache-control: max-age=5.5", "GET"),
    ("GET", "200 | cache-control: max-age=a", "GET"),
    ("GET", "200 | cache-control: max-age", "GET"),
    ("GET", "200 | cache-control: max-age=0, max-age=1000", "GET"),
    ("GET", "200 | expires: 0", "GET"),
    ("GET", "200 | expires: Mon, 21 Sep 2026 14:14:00 GMT", "GET"),
    ("GET", "200 | expires: Mon, 21 Sep 2026 15:14:00 GMT | date: Mon, 21 Sep 2026 15:14:00 GMT", "GET"),
    ("GET", "200 | cache-control: no-store", "GET"),
    ("GET", "200 | cache-control: max-age=1000, no-store", "GET"),
    ("GET", "200 | cache-control: max-age=1000, No-Store", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | cache-control: no-store", "GET"),
    ("GET", "200 | cache-control: max-age=1000, private", "GET"),
    ("GET", 'GET 200 | cache-control: max-age=1000, private, private="a"'.removeprefix("GET "), "GET"),
    ("GET", "200 | cache-control: max-age=1000, no-cache", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | cdn-cache-control: max-age=0", "GET"),
    ("GET", '200 | cache-control: no-store | cdn-cache-control: max-age="1000"', "GET"),
    ("GET", "200 | cache-control: max-age=1000 | cdn-cache-control: no-store", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | cdn-cache-control: private", "GET"),
    ("GET", "200 | expires: Mon, 21 Sep 2026 15:14:00 GMT | cdn-cache-control: public", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | vary: *", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | vary: Accept, *", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | vary: X-Forwarded-For", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | vary: X-Real-IP", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | set-cookie: a=1", "GET"),
    ("GET", "200 | cache-control: public, max-age=1000 | set-cookie: a=1", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | content-type: text/event-stream", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | age: 1000", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | date: Mon, 21 Sep 2026 13:14:00 GMT", "GET"),
    ("GET", "200 | cache-control: max-age=1000 | connection: close", "GET"),
    ("GET", "206 | cache-control: max-age=1000", "GET"),
    ("GET", "400 | cache-control: max-age=1000", "GET"),
    ("GET", "401 | cache-control: max-age=1000", "GET"),
    ("GET", "403 | cache-control: max-age=1000", "GET"),
    ("GET", "500 | cache-control: max-age=1000", "GET"),
    ("GET", "503 | cache-control: max-age=1000", "GET"),
    ("GET", "299 | cache-control: max-age=1000", "GET"),
    ("GET", "302 | location: /y", "GET"),
    ("GET", "303 | location: /y", "GET"),
    ("GET | cache-control: no-store", FOREVER, "GET"),
    ("GET", FOREVER, "GET | cache-control: no-store"),
    ("GET", FOREVER, "GET | cache-control: no-cache"),
    ("GET", FOREVER, "GET | pragma: no-cache"),
    ("GET", FOREVER, "GET | cache-control: max-age=0"),
    ("GET", FOREVER, "GET | cache-control: min-fresh=1000"),
    ("GET", FOREVER, 'GET | if-match: "a"'),
    ("GET", FOREVER, "GET | if-unmodified-since: Mon, 21 Sep 2026 14:12:20 GMT"),
    ("GET | authorization: Basic a", FOREVER, "GET | authorization: Basic a"),
    ("GET | authorization: Basic a", "200 | cache-control: max-age=1000, proxy-revalidate", "GET"),
    ("GET | accept: a", FOREVER + " | vary: accept", "GET | accept: b"),
    ("GET | accept: a", FOREVER + " | vary: accept", "GET"),
    ("GET", FOREVER + " | vary: accept", "GET | accept: a"),
    ("GET | accept: a, b", FOREVER + " | vary: accept", "GET | accept: b, a"),
    ("GET | cookie: a=1", FOREVER + " | vary: Cookie", "GET | cookie: a=2"),
    ("GET | accept-encoding: gzip", FOREVER + " | vary: accept-encoding", "GET | accept-encoding: gzip;q=0.5"),
    ("GET | accept-encoding: gzip", FOREVER + " | vary: accept-encoding", "GET"),
    ("GET", FOREVER, "GET /y"),
    ("GET", FOREVER, "GET /x?a"),
    ("GET /x?a=1&b=2", FOREVER, "GET /x?b=2&a=1"),
    ("GET", FOREVER, "GET /X"),
    ("GET", FOREVER, "GET /%78"),
    ("GET", FOREVER, "GET | host: other.test"),
    ("GET", FOREVER, "GET | host: api.test:8080"),
    ("HEAD", FOREVER, "GET"),
    ("POST", FOREVER, "GET"),
    ("OPTIONS", FOREVER, "GET"),
    ("GET", FOREVER, "OPTIONS"),
    ("QUERY", FOREVER, "GET"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "said", "second"), NOT_KEPT)
async def test_not_kept(first: str, said: str, second: str) -> None:
    first_body = "''" if first.startswith("HEAD") else "#1"
    await played([(0, first, said, f"{said[:3]} {first_body}"), (1, second, "200", "200 #2 | -age")], {})


# --- whole stories ----------------------------------------------------------------------------------------------------

STORIES: dict[str, list[Step]] = {
    "fresh until it is as old as its lifetime": [
        (0, "GET", "200 | cache-control: max-age=60",
         "200 #1 | cache-status: hydragate; fwd=uri-miss; fwd-status=200; stored"),
        (59, "GET", None, "200 #1 | age: 59 | cache-status: hydragate; hit; ttl=1"),
        (1, "GET", "200 | cache-control: max-age=60", "200 #2 | cache-status: ~fwd=stale"),
        (1, "GET", None, "200 #2 | age: 1"),
    ],
    "age that it came with counts": [
        (0, "GET", "200 | cache-control: max-age=60 | age: 50", "200 #1 | age: 50"),
        (9, "GET", None, "200 #1 | age: 59"),
        (1, "GET", "200", "200 #2"),
    ],
    "age by its date counts": [
        (20, "GET", "200 | cache-control: max-age=60 | date: Mon, 21 Sep 2026 14:14:00 GMT", "200 #1"),
        (39, "GET", None, "200 #1 | age: 59"),
        (1, "GET", "200", "200 #2"),
    ],
    "a lifetime from Expires": [
        (0, "GET", "200 | expires: Mon, 21 Sep 2026 14:15:00 GMT", "200 #1"),
        (59, "GET", None, "200 #1"),
        (1, "GET", "200", "200 #2"),
    ],
    "a date is added where there is none": [
        (0, "GET", FOREVER + " | date: none", "200 #1 | -date"),
        (1, "GET", None, "200 #1 | date: Mon, 21 Sep 2026 14:14:00 GMT"),
    ],
    "a stale one is confirmed by its etag": [
        (0, "GET", TAGGED, "200 #1"),
        (11, "GET", f"304 | cache-control: max-age=20 | {ETAG}", "200 #1 | cache-status: ~fwd=stale; fwd-status=304",
         'if-none-match: "a"'),
        (19, "GET", None, "200 #1 | age: 19 | cache-control: max-age=20"),
    ],
    "a stale one is confirmed by its date": [
        (0, "GET", f"200 | cache-control: max-age=10 | {CHANGED}", "200 #1"),
        (11, "GET", "304", "200 #1", "if-modified-since: mon, 21 sep 2026 14:12:20 gmt"),
        (9, "GET", None, "200 #1"),
    ],
    "a 304 brings fields up to date, but not those of the body": [
        (0, "GET", f"200 | cache-control: max-age=10 | {ETAG} | content-type: a/b | x-a: 1 | x-b: 1", "200 #1"),
        (11, "GET", f"304 | {ETAG} | x-a: 2 | content-type: c/d", "200 #1 | x-a: 2 | x-b: 1 | content-type: a/b"),
        (1, "GET", None, "200 #1 | x-a: 2 | x-b: 1"),
    ],
    "a stale one is replaced": [
        (0, "GET", TAGGED, "200 #1"),
        (11, "GET", '200 | cache-control: max-age=10 | etag: "b"', '200 #2 | etag: "b"'),
        (1, "GET", None, "200 #2"),
    ],
    "a 304 about another is not taken": [
        (0, "GET", TAGGED, "200 #1"),
        (11, "GET", '304 | etag: "other" || 200 | cache-control: max-age=10', "200 #3"),
        (1, "GET", None, "200 #3"),
    ],
    "a replacement that is not for all ends what was kept": [
        (0, "GET", TAGGED, "200 #1"),
        (11, "GET", "200 | cache-control: private, max-age=99", "200 #2"),
        (0, "GET", "200", "200 #3", "-if-none-match"),
    ],
    "a 304 that is not for all ends what was kept": [
        (0, "GET", TAGGED, "200 #1"),
        (11, "GET", f"304 | {ETAG} | cache-control: private, max-age=99", "200 #1"),
        (0, "GET", "200", "200 #3", "-if-none-match"),
    ],
    "a 304 by which it varies otherwise ends it, too": [
        (0, "GET", TAGGED, "200 #1"),
        (11, "GET", f"304 | {ETAG} | vary: accept", "200 #1"),
        (0, "GET", "200", "200 #3", "-if-none-match"),
    ],
    "what one caller was told leaves the others' answer alone": [
        (0, "GET", TAGGED, "200 #1"),
        (1, "GET | authorization: a | cache-control: no-cache", f"304 | {ETAG}", "200 #1"),
        (1, "GET", None, "200 #1 | age: 2"),
    ],
    "no-cache is asked about each time": [
        (0, "GET", f"200 | cache-control: no-cache | {ETAG}", "200 #1"),
        (0, "GET", f"304 | {ETAG}", "200 #1", 'if-none-match: "a"'),
        (0, "GET", f"304 | {ETAG}", "200 #1", 'if-none-match: "a"'),
    ],
    "max-age=0 with a validator": [
        (0, "GET", f"200 | cache-control: max-age=0 | {ETAG}", "200 #1"),
        (0, "GET", f"304 | {ETAG}", "200 #1"),
    ],
    "a client asks for a look": [
        (0, "GET", TAGGED, "200 #1"),
        (1, "GET | cache-control: no-cache", f"304 | {ETAG}", "200 #1 | cache-status: ~fwd=request",
         'if-none-match: "a"'),
        (9, "GET", None, "200 #1 | age: 9"),
    ],
    "a client has it already": [
        (0, "GET", TAGGED, "200 #1"),
        (1, 'GET | if-none-match: "a"', None, '304 \'\' | etag: "a" | age: 1 | -content-length'),
        (0, 'GET | if-none-match: W/"a"', None, "304 ''"),
        (0, 'GET | if-none-match: "b", "a"', None, "304 ''"),
        (0, "GET | if-none-match: *", None, "304 ''"),
        (0, 'GET | if-none-match: "b"', None, "200 #1"),
        (0, 'HEAD | if-none-match: "a"', None, "304 ''"),
    ],
    "a client has it since then": [
        (0, "GET", f"{FOREVER} | {CHANGED}", "200 #1"),
        (1, "GET | if-modified-since: Mon, 21 Sep 2026 14:12:20 GMT", None, "304 ''"),
        (0, "GET | if-modified-since: Mon, 21 Sep 2026 14:12:19 GMT", None, "200 #1"),
        (0, "GET | if-modified-since: nonsense", None, "200 #1"),
        (0, 'GET | if-none-match: "x" | if-modified-since: Mon, 21 Sep 2026 14:12:20 GMT', None, "200 #1"),
    ],
    "a condition about a 404 is none": [
        (0, "GET", f"404 | cache-control: max-age=10 | {ETAG}", "404 #1"),
        (1, 'GET | if-none-match: "a"', None, "404 #1"),
    ],
    "a client has it, and the kept one is stale": [
        (0, "GET", TAGGED, "200 #1"),
        (11, 'GET | if-none-match: "a"', f"304 | {ETAG}", "304 ''"),
        (1, "GET", None, "200 #1"),
    ],
    "a client has another, and the kept one is stale": [
        (0, "GET", TAGGED, "200 #1"),
        (11, 'GET | if-none-match: "b"', f"304 | {ETAG}", "200 #1", 'if-none-match: "a"'),
    ],
    "a client has what replaces the stale one": [
        (0, "GET", TAGGED, "200 #1"),
        (11, 'GET | if-none-match: "b"', '200 | cache-control: max-age=10 | etag: "b"', "304 ''",
         '-if-none-match: "b"'),
        (1, "GET", None, "200 #2"),
    ],
    "a condition about what is not kept goes upstream": [
        (0, 'GET | if-none-match: "a"', f"304 | {ETAG} | cache-control: max-age=10", "304 ''", 'if-none-match: "a"'),
        (0, "GET", "200", "200 #2"),
    ],
    "parts of a whole": [
        (0, "GET", f"{FOREVER} | {ETAG} | text: 0123456789", "200 0123456789"),
        (1, "GET | range: bytes=2-4", None, "206 234 | content-range: bytes 2-4/10 | content-length: 3 | age: 1"),
        (0, "GET | range: bytes=7-", None, "206 789 | content-range: bytes 7-9/10"),
        (0, "GET | range: bytes=-2", None, "206 89 | content-range: bytes 8-9/10"),
        (0, "GET | range: bytes=8-99", None, "206 89 | content-range: bytes 8-9/10"),
        (0, "GET | range: bytes=10-", None, "416 '' | content-range: bytes */10"),
        (0, "GET | range: bytes=0-1,4-5", None, "200 0123456789"),
        (0, "GET | range: bytes=4-2", None, "200 0123456789"),
        (0, "GET | range: lines=1-2", None, "200 0123456789"),
        (0, 'GET | range: bytes=0-1 | if-range: "a"', None, "206 01"),
        (0, 'GET | range: bytes=0-1 | if-range: "b"', None, "200 0123456789"),
        (0, 'GET | range: bytes=0-1 | if-range: W/"a"', None, "200 0123456789"),
        (0, "HEAD | range: bytes=0-1", None, "200 '' | content-length: 10"),
        (0, 'GET | range: bytes=0-1 | if-none-match: "a"', None, "304 ''"),
    ],
    "a part that is not kept is not taken for the whole": [
        (0, "GET | range: bytes=0-1", "206 | cache-control: max-age=99 | content-range: bytes 0-1/9", "206 #1",
         "range: bytes=0-1"),
        (0, "GET", "200", "200 #2"),
    ],
    "a part of a stale one": [
        (0, "GET", f"{TAGGED} | text: 0123456789", "200"),
        (11, "GET | range: bytes=2-4", f"304 | {ETAG}", "206 234", "-range: bytes"),
    ],
    "HEAD from a kept GET": [
        (0, "GET", f"{FOREVER} | content-type: a/b", "200 #1"),
        (1, "HEAD", None, "200 '' | content-length: 2 | content-type: a/b | age: 1"),
    ],
    "HEAD that tells of another ends it": [
        (0, "GET", TAGGED, "200 #1"),
        (1, "HEAD | cache-control: no-cache", '200 | etag: "b"', "200 ''"),
        (0, "GET", "200", "200 #3", "-if-none-match"),
    ],
    "HEAD with the same validator renews it": [
        (0, "GET", f"{TAGGED} | x-a: 1 | x-b: 1", "200 #1"),
        (11, "HEAD | cache-control: no-cache", f"200 | {ETAG} | cache-control: max-age=20 | x-a: 2 | content-length: 2",
         "200 '' | x-a: 2"),
        (19, "GET", None, "200 #1 | age: 19 | cache-control: max-age=20 | x-a: 2 | x-b: 1"),
        (1, "GET", "200", "200 #3"),
    ],
    "HEAD without a validator neither renews nor ends it": [
        (0, "GET", "200 | cache-control: max-age=10", "200 #1"),
        (1, "HEAD | cache-control: no-cache", "200 | cache-control: max-age=99 | content-length: 2", "200 ''"),
        (8, "GET", None, "200 #1 | age: 9"),
        (1, "GET", "200", "200 #3"),
    ],
    "HEAD that is not for all ends it": [
        (0, "GET", TAGGED, "200 #1"),
        (1, "HEAD | cache-control: no-cache", f"200 | {ETAG} | cache-control: private | content-length: 2", "200 ''"),
        (0, "GET", "200", "200 #3", "-if-none-match"),
    ],
    "hit again within a second, and after it": [
        (0, "GET", "200 | cache-control: max-age=10", "200 #1"),
        (0.25, "GET", None, "200 #1 | age: 0 | cache-status: hydragate; hit; ttl=9 | content-length: 2"),
        (0.5, "GET", None, "200 #1 | age: 0 | cache-status: hydragate; hit; ttl=9 | content-length: 2"),
        (0.5, "GET", None, "200 #1 | age: 1 | cache-status: hydragate; hit; ttl=8"),
        (0, "HEAD", None, "200 '' | age: 1 | content-length: 2"),
        (0.25, "GET | if-modified-since: Mon, 21 Sep 2026 15:14:00 GMT", None, "304 ''"),
        (8.25, "GET", None, "200 #1 | age: 9 | cache-status: hydragate; hit; ttl=0"),
        (0.25, "GET", "200", "200 #2"),
    ],
    "hit again by a clock that was set back": [
        (0, "GET", "200 | cache-control: max-age=10", "200 #1"),
        (5, "GET", None, "200 #1 | age: 5"),
        (-4, "GET", None, "200 #1 | age: 1"),
        (-4, "GET", None, "200 #1 | age: 0"),
    ],
    "a client takes it stale": [
        (0, "GET", TAGGED, "200 #1"),
        (15, "GET | cache-control: max-stale=5", None, "200 #1 | age: 15 | cache-status: hydragate; hit; ttl=-5"),
        (0, "GET | cache-control: max-stale", None, "200 #1"),
        (1, "GET | cache-control: max-stale=5", f"304 | {ETAG}", "200 #1"),
    ],
    "max-stale against must-revalidate": [
        (0, "GET", f"200 | cache-control: max-age=10, must-revalidate | {ETAG}", "200 #1"),
        (11, "GET | cache-control: max-stale", f"304 | {ETAG}", "200 #1"),
    ],
    "max-stale against proxy-revalidate": [
        (0, "GET", f"200 | cache-control: max-age=10, proxy-revalidate | {ETAG}", "200 #1"),
        (11, "GET | cache-control: max-stale", f"304 | {ETAG}", "200 #1"),
    ],
    "max-stale against s-maxage": [
        (0, "GET", f"200 | cache-control: s-maxage=10 | {ETAG}", "200 #1"),
        (11, "GET | cache-control: max-stale", f"304 | {ETAG}", "200 #1"),
    ],
    "only what is kept": [
        (0, "GET | cache-control: only-if-cached", None, "504 | cache-status: ~detail=only-if-cached"),
        (0, "GET", TAGGED, "200 #1"),
        (9, "GET | cache-control: only-if-cached", None, "200 #1"),
        (2, "GET | cache-control: only-if-cached", None, "504"),
        (0, "GET | cache-control: only-if-cached, max-stale", None, "200 #1"),
    ],
    "an error is covered by a stale one": [
        (0, "GET", "200 | cache-control: max-age=10, stale-if-error=60", "200 #1"),
        (20, "GET", "503 | cache-control: max-age=99",
         "200 #1 | age: 20 | cache-status: ~fwd-status=503; detail=stale-if-error"),
        (20, "GET", "500", "200 #1"),
        (29, "GET", "502", "200 #1"),
        (1, "GET", "504", "504 #5"),
    ],
    "not every status is an error": [
        (0, "GET", "200 | cache-control: max-age=10, stale-if-error=60", "200 #1"),
        (20, "GET", "404", "404 #2"),
        (0, "GET", "503", "503 #3"),
    ],
    "an error is not covered against must-revalidate": [
        (0, "GET", f"200 | cache-control: max-age=10, stale-if-error=60, must-revalidate | {ETAG}", "200 #1"),
        (20, "GET", "503", "503 #2"),
    ],
    "the client asks for a stale one rather than an error": [
        (0, "GET", TAGGED, "200 #1"),
        (20, "GET | cache-control: stale-if-error=15", "503", "200 #1"),
        (0, "GET", "503", "503 #3"),
    ],
    "the newest answer says by what they vary": [
        (0, "GET | accept: a", f"{FOREVER} | vary: accept", "200 #1"),
        (0, "GET | accept: b", f"{FOREVER} | vary: accept", "200 #2 | cache-status: ~fwd=vary-miss"),
        (0, "GET | accept: a", None, "200 #1"),
        (0, "GET | accept: b", None, "200 #2"),
        (0, "GET | accept: c | x-b: 1", f"{FOREVER} | vary: accept, x-b", "200 #3"),
        (0, "GET | accept: c | x-b: 1", None, "200 #3"),
        (0, "GET | accept: c | x-b: 2", "200", "200 #4"),
    ],
    "variants are confirmed apart": [
        (0, "GET | accept: a", f"{TAGGED} | vary: accept", "200 #1"),
        (0, "GET | accept: b", '200 | cache-control: max-age=10 | etag: "b" | vary: accept', "200 #2"),
        (11, "GET | accept: b", '304 | etag: "b"', "200 #2", 'if-none-match: "b"'),
        (0, "GET | accept: a", f"304 | {ETAG}", "200 #1", 'if-none-match: "a"'),
    ],
    "compressed ones apart": [
        (0, "GET | accept-encoding: gzip", f"{FOREVER} | vary: accept-encoding | content-encoding: gzip | text: gz",
         "200 gz"),
        (0, "GET", f"{FOREVER} | vary: accept-encoding", "200 #2 | -content-encoding"),
        (0, "GET | accept-encoding: gzip", None, "200 gz | content-encoding: gzip"),
        (0, "GET", None, "200 #2"),
    ],
    "an unsafe request ends what is kept": [
        (0, "GET", FOREVER, "200 #1"),
        (1, "POST", "200", "200 #2 | cache-status: hydragate; fwd=method"),
        (0, "GET", "200", "200 #3"),
    ],
    "an unknown method does": [(0, "GET", FOREVER, "200 #1"), (1, "BREW", "200", "200"), (0, "GET", "200", "200")],
    "so does a redirect": [(0, "GET", FOREVER, "200 #1"), (1, "PUT", "303", "303"), (0, "GET", "200", "200 #3")],
    "a refused one does not": [(0, "GET", FOREVER, "200 #1"), (1, "DELETE", "403", "403"), (0, "GET", None, "200 #1")],
    "a failed one does not": [(0, "GET", FOREVER, "200 #1"), (1, "PATCH", "500", "500"), (0, "GET", None, "200 #1")],
    "a safe one does not": [(0, "GET", FOREVER, "200 #1"), (1, "OPTIONS", "200", "200"), (0, "GET", None, "200 #1")],
    "at its own target alone": [
        (0, "GET", FOREVER, "200 #1"), (0, "GET /x?a", FOREVER, "200 #2"), (0, "GET | host: b.test", FOREVER, "200 #3"),
        (1, "POST", "200", "200"),
        (0, "GET /x?a", None, "200 #2"), (0, "GET | host: b.test", None, "200 #3"), (0, "GET", "200", "200 #5"),
    ],
    "and where its answer says": [
        (0, "GET /a", FOREVER, "200 #1"), (0, "GET /b", FOREVER, "200 #2"), (0, "GET /c", FOREVER, "200 #3"),
        (1, "POST /list", "201 | location: /a | content-location: http://api.test/b", "201"),
        (0, "GET /c", None, "200 #3"), (0, "GET /a", "200", "200 #5"), (0, "GET /b", "200", "200 #6"),
    ],
    "not at another host": [
        (0, "GET /a", FOREVER, "200 #1"),
        (1, "POST /list", "201 | location: http://other.test/a", "201"),
        (0, "GET /a", None, "200 #1"),
    ],
    "all variants": [
        (0, "GET | accept: a", f"{FOREVER} | vary: accept", "200 #1"),
        (0, "GET | accept: b", f"{FOREVER} | vary: accept", "200 #2"),
        (1, "POST", "200", "200"),
        (0, "GET | accept: a", "200", "200"),
        (0, "GET | accept: b", "200", "200"),
    ],
    "hop-by-hop fields and what is told anew are not kept": [
        (0, "GET", f"{FOREVER} | connection: x-hop | x-hop: 1 | keep-alive: timeout=5 | cache-status: far; hit",
         "200 #1 | -x-hop | cache-status: ~far; hit, hydragate; fwd=uri-miss"),
        (1, "GET", None, "200 #1 | -x-hop | -keep-alive | cache-status: hydragate; hit; ttl=999"),
    ],
    "why it was not kept": [
        (0, "GET", "200 | cache-control: private",
         '200 | cache-status: hydragate; fwd=uri-miss; fwd-status=200; detail="private"'),
    ],
    "surrogate keys are not for clients": [
        (0, "GET", f"{FOREVER} | surrogate-key: a b", "200 #1 | -surrogate-key"),
        (0, "GET", None, "200 #1 | -surrogate-key"),
        (0, "GET /y", "200 | surrogate-key: a b", "200 | -surrogate-key"),
    ],
    "two Set-Cookie that a list hides": [
        (0, "GET", '200 | cache-control: max-age=9, no-cache="set-cookie" | set-cookie: a=1 | set-cookie: b=2',
         "200 #1 | set-cookie: a=1, b=2"),
        (0, "GET", None, "200 #1 | -set-cookie"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
async def test_stories(story: str) -> None:
    await played(STORIES[story], {})


def test_there_are_enough() -> None:
    assert len(KEPT) + len(NOT_KEPT) + len(STORIES) >= 150


# --- what a route's settings change -----------------------------------------------------------------------------------

SETTINGS: list[tuple[dict[str, object], list[Step]]] = [
    ({"cache_ttl": 30}, [(0, "GET", "200", "200 #1"), (29, "GET", None, "200 #1"), (1, "GET", "200", "200 #2")]),
    ({"cache_ttl": 30}, [(0, "GET", "200 | cache-control: private", "200"), (0, "GET", "200", "200 #2")]),
    ({"cache_ttl": 30}, [(0, "GET", "200 | cache-control: max-age=5", "200"), (6, "GET", "200", "200 #2")]),
    ({"heuristics": True}, [
        (0, "GET", f"200 | {CHANGED}", "200 #1"), (9, "GET", None, "200"), (1, "GET", "304", "200 #1"),
    ]),
    ({"response_code": [404]}, [(0, "GET", FOREVER, "200"), (0, "GET", "200", "200 #2")]),
    ({"response_code": [500]}, [(0, "GET", "500 | cache-control: max-age=9", "500"), (0, "GET", None, "500 #1")]),
    ({"request_method": ["GET"]}, [
        (0, "GET", FOREVER, "200"), (0, "HEAD", "200", "200 '' | cache-status: ~fwd=method"),
    ]),
    ({"content_type": ["text/*"]}, [
        (0, "GET", f"{FOREVER} | content-type: Text/HTML; charset=x", "200"), (0, "GET", None, "200 #1"),
        (0, "GET /y", f"{FOREVER} | content-type: image/png", "200"), (0, "GET /y", "200", "200 #3"),
    ]),
    ({"max_body_bytes": 4}, [
        (0, "GET", f"{FOREVER} | text: 1234", "200"), (0, "GET", None, "200 1234"),
        (0, "GET /y", f"{FOREVER} | text: 12345", "200 12345"), (0, "GET /y", "200", "200 #3"),
        (0, "GET /z", f"{FOREVER} | text: 12345 | transfer-encoding: chunked", "200 12345"), (0, "GET /z", "200",
         "200 #5"),
    ]),
    ({"vary_headers": ["X-Tenant"]}, [
        (0, "GET | x-tenant: a", FOREVER, "200 #1"), (0, "GET | x-tenant: b", FOREVER, "200 #2"),
        (0, "GET | x-tenant: a", None, "200 #1"), (0, "GET", "200", "200 #3"),
    ]),
    ({"vary_query_params": ["a"]}, [
        (0, "GET /x?a=1&b=2", FOREVER, "200 #1"), (0, "GET /x?b=3&a=1", None, "200 #1"), (0, "GET /x?a=2", "200",
         "200 #2"),
        (0, "GET /x?%61=1", "200", "200 #3"),
    ]),
    ({"request_directives": False}, [
        (0, "GET | cache-control: no-store", FOREVER, "200 #1"), (0, "GET | cache-control: no-cache", None, "200 #1"),
        (0, "GET | pragma: no-cache", None, "200 #1"), (0, "GET /y | cache-control: only-if-cached", "200", "200 #2"),
    ]),
    ({"status_header": False}, [
        (0, "GET", FOREVER, "200 | -cache-status"), (3, "GET", None, "200 #1 | -cache-status | age: 3"),
    ]),
    ({"surrogate_keys": True}, [
        (0, "GET", f"{FOREVER} | surrogate-key: b a", "200 | surrogate-key: b a"), (0, "GET", None,
         "200 | surrogate-key: a b"),
    ]),
    ({"stale_if_error": 60}, [(0, "GET", TAGGED, "200"), (69, "GET", "503", "200 #1"), (1, "GET", "503", "503")]),
    ({"stale_if_error": 60}, [
        (0, "GET", f"200 | cache-control: s-maxage=10 | {ETAG}", "200"), (20, "GET", "503", "503"),
    ]),
    ({"by_consumer": True}, [
        (0, "GET | authorization: a", FOREVER, "200 #1"), (0, "GET | authorization: a", None, "200 #1"),
        (0, "GET | authorization: b", FOREVER, "200 #2"), (0, "GET", "200", "200 #3"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("config", "steps"), SETTINGS)
async def test_settings(config: dict[str, object], steps: list[Step]) -> None:
    await played(steps, config)


# --- many at once -----------------------------------------------------------------------------------------------------


def answer(head: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%b\r\ncontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body)


class Gate:
    """An upstream that answers when it is let to."""

    def __init__(self, said: bytes) -> None:
        self.said, self.opened, self.asked = said, asyncio.Event(), 0

    async def script(self, wire: Wire) -> None:
        while await wire.head():
            self.asked += 1
            await self.opened.wait()
            await wire.send(self.said)


async def at_once(bench: Cached, gate: Gate, asked: list[str], arrived: int) -> list[tuple[Exchange, bytes]]:
    """All ask before the upstream answers anybody. `arrived`: how many it must have heard of by then."""
    tasks = [asyncio.create_task(bench.ask(line)) for line in asked]
    await until(lambda: gate.asked >= arrived and bench.pipeline.in_flight == len(asked))
    await asyncio.sleep(0)
    gate.opened.set()
    return await asyncio.gather(*tasks)


async def test_200_clients_on_one_key_are_one_request_upstream() -> None:
    gate = Gate(answer("cache-control: max-age=60", b"one for all"))
    async with serving(gate.script) as up, Cached(up.port) as bench:
        got = await at_once(bench, gate, ["GET"] * 200, 1)
        assert gate.asked == 1
        assert {body for _, body in got} == {b"one for all"}
        said = [get(exchange.response_headers or [], b"cache-status") or b"" for exchange, _ in got]
        assert sum(b"collapsed" in one for one in said) == 199
        assert bench.store.flights == {}


async def test_200_clients_on_a_stale_one_confirm_it_once() -> None:
    gate = Gate(b'HTTP/1.1 304 X\r\netag: "a"\r\n\r\n')
    clock = Clock()
    async with serving(gate.script) as up, Cached(up.port, clock) as bench:
        gate.said, confirming = answer('cache-control: max-age=10\r\netag: "a"', b"body"), gate.said
        await at_once(bench, gate, ["GET"], 1)
        gate.said, gate.asked = confirming, 0
        gate.opened.clear()
        clock.now_s += 11
        got = await at_once(bench, gate, ["GET"] * 200, 1)
    assert gate.asked == 1
    assert {(exchange.status, body) for exchange, body in got} == {(200, b"body")}


@pytest.mark.parametrize("said", ["cache-control: private, max-age=60", "cache-control: no-store", "x-a: 1"])
async def test_what_is_not_for_all_is_never_shared(said: str) -> None:
    asked = 0

    async def script(wire: Wire) -> None:
        nonlocal asked
        while await wire.head():
            asked += 1
            await wire.send(answer(said, b"%d" % asked))

    async with serving(script) as up, Cached(up.port) as bench:
        got = await asyncio.gather(*(bench.ask("GET") for _ in range(20)))
        assert len({body for _, body in got}) == 20
        assert bench.store.apart  # nobody waits for the next one


async def test_who_varies_goes_alone() -> None:
    gate = Gate(answer("cache-control: max-age=60\r\nvary: accept", b"x"))
    async with serving(gate.script) as up, Cached(up.port) as bench:
        await at_once(bench, gate, [f"GET | accept: {n % 4}" for n in range(40)], 1)
    assert gate.asked == 4


@pytest.mark.parametrize(
    "line", ["GET | cache-control: no-cache", "GET | range: bytes=0-1", 'GET | if-none-match: "a"']
)
async def test_who_wants_another_answer_does_not_wait(line: str) -> None:
    gate = Gate(answer("cache-control: max-age=60", b"x"))
    async with serving(gate.script) as up, Cached(up.port) as bench:
        await at_once(bench, gate, ["GET", f"GET | {line}"], 2)
    assert gate.asked == 2


async def test_without_coalescing_each_goes_alone() -> None:
    gate = Gate(answer("cache-control: max-age=60", b"x"))
    async with serving(gate.script) as up, Cached(up.port, coalesce=False) as bench:
        await at_once(bench, gate, ["GET"] * 10, 10)
    assert gate.asked == 10


async def test_nobody_waits_for_ever() -> None:
    gate = Gate(answer("cache-control: max-age=60", b"x"))
    async with serving(gate.script) as up, Cached(up.port, coalesce_timeout_ms=10) as bench:
        await at_once(bench, gate, ["GET"] * 3, 3)
    assert gate.asked == 3


async def test_when_the_first_leaves_the_next_goes() -> None:
    gate = Gate(answer("cache-control: max-age=60", b"x"))
    async with serving(gate.script) as up, Cached(up.port) as bench:

        async def leaving() -> None:
            exchange = request("/x")
            try:
                await bench.pipeline.handle(exchange)
            finally:
                await bench.pipeline.finish(exchange, "client_closed")

        first = asyncio.create_task(leaving())
        await until(lambda: gate.asked == 1)
        others = [asyncio.create_task(bench.ask("GET")) for _ in range(5)]
        await until(lambda: bench.pipeline.in_flight == 6)
        first.cancel()
        await until(lambda: gate.asked == 2)
        gate.opened.set()
        got = await asyncio.gather(*others)
    assert gate.asked == 2
    assert {body for _, body in got} == {b"x"}


async def test_an_upstream_that_fails_fails_for_all_at_once() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        wire.reset()

    async with serving(script) as up, Cached(up.port) as bench:
        got = await asyncio.gather(*(bench.ask("GET") for _ in range(20)))
        assert {exchange.status for exchange, _ in got} == {502}
        assert bench.store.flights == {}


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [b"content-length: 8", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("ending", ["reset", "close"])
async def test_a_cut_body_is_never_kept(framing: bytes, ending: str) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        start = b"4\r\nabcd\r\n" if b"chunked" in framing else b"abcd"
        await wire.send(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n%b\r\n\r\n%b" % (framing, start))
        if ending == "reset":
            wire.reset()

    async with serving(script) as up, Cached(up.port) as bench:
        for number in (1, 2):
            with pytest.raises(UpstreamError):
                await bench.ask("GET")
            assert len(up.heads) == number
        assert bench.store.find(b"", []) is None
        assert bench.store._level.size == 0


async def test_a_body_is_passed_on_as_it_comes_and_then_kept() -> None:
    through = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 8\r\n\r\nabcd")
        await through.wait()
        await wire.send(b"efgh")

    async with serving(script) as up, Cached(up.port) as bench:
        exchange = request("/x")
        await bench.pipeline.handle(exchange)
        assert not isinstance(exchange.answer_body, bytes)
        received = b""
        async for chunk in exchange.answer_body:
            received += chunk
            if received == b"abcd":
                through.set()
        await bench.pipeline.finish(exchange, "ok")
        assert received == b"abcdefgh"
        assert (await bench.ask("GET"))[1] == b"abcdefgh"
        assert len(up.heads) == 1


async def test_a_client_that_reads_nothing_holds_up_nobody() -> None:
    body = b"x" * 200_000

    async def script(wire: Wire) -> None:
        while await wire.head():
            await wire.send(answer("cache-control: max-age=60", body))

    async with serving(script) as up, Cached(up.port) as bench:
        slow = request("/x")
        await bench.pipeline.handle(slow)
        exchange, got = await bench.ask("GET")  # waits for the first one's answer, not for its client
        assert (exchange.status, got, len(up.heads)) == (200, body, 1)
        await bench.pipeline.finish(slow, "client_closed")


async def test_a_client_that_leaves_leaves_the_answer_to_others() -> None:
    half = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 8\r\n\r\nabcd")
        await half.wait()
        await wire.send(b"efgh")
        await wire.left()

    async with serving(script) as up, Cached(up.port) as bench:
        exchange = request("/x")
        await bench.pipeline.handle(exchange)
        await bench.pipeline.finish(exchange, "client_closed")
        half.set()
        assert (await bench.ask("GET"))[1] == b"abcdefgh"
        assert len(up.heads) == 1


async def test_a_body_too_large_to_keep_passes_at_its_clients_pace() -> None:
    body = bytes(range(256)) * 8000

    async def script(wire: Wire) -> None:
        while await wire.head():
            await wire.send(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 64_000):
                piece = body[start : start + 64_000]
                await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await wire.send(b"0\r\n\r\n")

    async with serving(script) as up, Cached(up.port, max_body_bytes=100_000) as bench:
        for number in (1, 2):
            assert (await bench.ask("GET"))[1] == body
            assert len(up.heads) == number
        await until(lambda: bench.forwarder.balancer is not None and not bench.store._tasks)


# --- stale while a newer one is fetched -------------------------------------------------------------------------------


async def test_stale_while_revalidate() -> None:
    clock = Clock()
    gate = Gate(answer('cache-control: max-age=10, stale-while-revalidate=60\r\netag: "a"', b"old"))
    gate.opened.set()
    async with serving(gate.script) as up, Cached(up.port, clock) as bench:
        await bench.ask("GET")
        clock.now_s += 20
        gate.opened.clear()
        gate.said = answer("cache-control: max-age=10", b"new")
        got = [await bench.ask("GET | range: bytes=0-0") for _ in range(5)]  # none of them waits
        assert [(exchange.status, body) for exchange, body in got] == [(206, b"o")] * 5
        await until(lambda: gate.asked == 2)
        assert 'if-none-match: "a"' in up.heads[1].decode()
        assert "range" not in up.heads[1].decode()
        gate.opened.set()
        await until(lambda: not bench.store._tasks)
        assert (await bench.ask("GET"))[1] == b"new"
    assert gate.asked == 2


async def test_a_fetch_behind_that_fails_leaves_what_there_is() -> None:
    clock = Clock()
    said = [answer("cache-control: max-age=10, stale-while-revalidate=60", b"old")]

    async def script(wire: Wire) -> None:
        while await wire.head():
            if not said:
                wire.reset()
                return
            await wire.send(said.pop())

    async with serving(script) as up, Cached(up.port, clock) as bench:
        await bench.ask("GET")
        clock.now_s += 20
        for _ in range(2):
            assert (await bench.ask("GET"))[1] == b"old"
            await until(lambda: not bench.store._tasks)
        assert bench.store.flights == {}
        assert up.connections >= 2


async def test_an_upstream_that_is_gone_is_covered() -> None:
    clock, origin = Clock(), None
    origin = Origin(clock)
    async with Cached(free_port(), clock) as bench:
        assert (await bench.ask("GET"))[0].status == 502
    async with serving(origin.script) as up, Cached(up.port, clock, stale_if_error=60) as bench:
        await play(bench, origin, [(0, "GET", TAGGED, "200 #1")])
        up.script = reset
        clock.now_s += 20
        await bench.forwarder.transports.aclose()
        exchange, body = await bench.ask("GET")
        assert (exchange.status, body, exchange.cache_status) == (200, b"#1", "hit-stale")


async def reset(wire: Wire) -> None:
    await wire.head()
    wire.reset()


# --- beside other plugins ---------------------------------------------------------------------------------------------


async def test_transformers_change_what_is_kept_anew_for_each() -> None:
    upwards = RequestTransformer.Config.model_validate({"set": {"headers": ["x-up:yes"]}})
    down = ResponseTransformer.Config.model_validate({"add": {"headers": ["x-down:yes"]}})
    clock = Clock()
    origin = Origin(clock)
    plugins = [(RequestTransformer, upwards), (ResponseTransformer, down)]
    async with serving(origin.script) as up, Cached(up.port, clock, plugins=plugins) as bench:
        await play(bench, origin, [
            (0, "GET", FOREVER, "200 #1 | x-down: yes", "x-up: yes"),
            (0, "GET", None, "200 #1 | x-down: yes"),
            (0, "GET /y", FOREVER + " | vary: x-up", "200 #2"),  # set by us, for whatever reason
            (0, "GET /y", "200", "200 #3"),
        ])  # fmt: skip


class Identify(Plugin):
    """Whoever says so is that consumer."""

    name, identifies = "identify", True
    Config = NoConfig

    def access(self, exchange: Exchange) -> None:
        if who := get(exchange.headers, b"x-who"):
            exchange.consumer = Consumer(int(who), f"c{int(who)}")


@pytest.mark.parametrize(("said", "shared"), [("max-age=60", False), ("max-age=60, public", True)])
async def test_consumers_have_answers_of_their_own(said: str, shared: bool) -> None:
    clock = Clock()
    origin = Origin(clock)
    kept = f"200 | cache-control: {said}"
    async with serving(origin.script) as up, Cached(up.port, clock, plugins=[(Identify, NoConfig())]) as bench:
        await play(bench, origin, [
            (0, "GET | x-who: 1", kept, "200 #1"),
            (0, "GET | x-who: 1", None if shared else kept, "200"),
            (0, "GET | x-who: 2", None if shared else kept, "200"),
        ])  # fmt: skip


async def test_what_is_kept_for_nobody_in_particular_is_not_for_somebody() -> None:
    """Unless it is said to be for all; an `Authorization` of which we know nothing is the upstream's business."""
    clock = Clock()
    origin = Origin(clock)
    async with serving(origin.script) as up, Cached(up.port, clock, plugins=[(Identify, NoConfig())]) as bench:
        await play(bench, origin, [
            (0, "GET", FOREVER, "200 #1"),
            (0, "GET | x-who: 1", FOREVER, "200 #2"),
            (0, "GET | authorization: a", None, "200 #1"),
            (0, "GET", None, "200 #1"),
            (0, "GET /y", "200 | cache-control: max-age=60, public", "200 #3"),
            (0, "GET /y | x-who: 1", None, "200 #3"),
        ])  # fmt: skip


async def test_a_purge_meanwhile_parts_those_who_wait_from_those_who_come() -> None:
    gate = Gate(answer("cache-control: max-age=60", b"x"))
    async with serving(gate.script) as up, Cached(up.port) as bench:
        before = [asyncio.create_task(bench.ask("GET")) for _ in range(3)]
        await until(lambda: gate.asked == 1 and bench.pipeline.in_flight == 3)
        bench.clock.now_s += 1
        bench.store.purge([Purge("all")])
        bench.clock.now_s += 1
        after = [asyncio.create_task(bench.ask("GET")) for _ in range(3)]
        await until(lambda: gate.asked == 2 and bench.pipeline.in_flight == 6)
        gate.opened.set()
        await asyncio.gather(*before, *after)
        assert bench.store.flights == {}
        found = await bench.ask("GET")
    assert gate.asked == 2  # those who waited for what is void then waited for the other
    assert found[0].cache_status == "hit"


async def test_by_consumer_each_has_one() -> None:
    clock = Clock()
    origin = Origin(clock)
    plugins = [(Identify, NoConfig())]
    async with serving(origin.script) as up, Cached(up.port, clock, plugins=plugins, by_consumer=True) as bench:
        await play(bench, origin, [
            (0, "GET | x-who: 1", FOREVER, "200 #1"),
            (0, "GET | x-who: 2", FOREVER, "200 #2"),
            (0, "GET", FOREVER, "200 #3"),
            (0, "GET | x-who: 1", None, "200 #1"),
            (0, "GET | x-who: 2", None, "200 #2"),
            (0, "GET", None, "200 #3"),
            (0, "GET | x-who: 1 | authorization: x", FOREVER, "200 #4"),
            (0, "GET /p | x-who: 1", "200 | cache-control: private, max-age=60", "200 #5"),
            (0, "GET /p | x-who: 1", "200", "200 #6"),
        ])  # fmt: skip


@pytest.mark.parametrize("by_consumer", [True, False])
async def test_whoever_is_known_without_a_name_shares_nothing(by_consumer: bool) -> None:
    class Notice(Identify):
        name = "notice"

        def access(self, exchange: Exchange) -> None:
            match get(exchange.headers, b"x-who"):
                case b"1":
                    exchange.notes["identified"] = True  # forward-auth told the upstream about somebody
                case b"2":
                    exchange.claims = {"role": "a"}
                case b"3":
                    exchange.consumer = Consumer(0, "", groups=frozenset({"a"}))

    clock = Clock()
    origin = Origin(clock)
    plugins = [(Notice, NoConfig())]
    async with serving(origin.script) as up, Cached(up.port, clock, plugins=plugins, by_consumer=by_consumer) as bench:
        for who in (1, 2, 3):
            await play(bench, origin, [(0, f"GET | x-who: {who}", FOREVER, "200")] * 2)


async def test_what_was_made_under_other_settings_is_made_anew() -> None:
    """A setting that was changed keeps its number, and what is kept."""
    clock = Clock()
    origin, store = Origin(clock), Store(wall=clock)
    async with (
        serving(origin.script) as up,
        Cached(up.port, clock, store) as before,
        Cached(up.port, clock, store, status_header=False, surrogate_keys=True) as after,
    ):
        await play(before, origin, [
            (0, "GET", f"{FOREVER} | surrogate-key: a b", "200 #1"), (0, "GET", None, "200 #1 | -surrogate-key"),
        ])  # fmt: skip
        await play(after, origin, [(0, "GET", None, "200 #1 | surrogate-key: a b | -cache-status")])
        await play(before, origin, [(0, "GET", None, "200 #1 | -surrogate-key | cache-status: ~hit")])


async def test_a_plugin_that_changes_a_kept_answer_changes_that_one_alone() -> None:
    down = ResponseTransformer.Config.model_validate({"append": {"headers": ["x-down:yes"]}})
    clock = Clock()
    origin, plugins = Origin(clock), [(ResponseTransformer, down)]
    async with serving(origin.script) as up, Cached(up.port, clock, plugins=plugins) as bench:
        await play(bench, origin, [(0, "GET", FOREVER, "200"), *[(0, "GET", None, "200 #1 | x-down: yes")] * 3])


async def test_two_settings_share_a_store_and_no_answer() -> None:
    """As two routes do."""
    clock = Clock()
    origin, store = Origin(clock), Store(wall=clock)
    async with serving(origin.script) as up, Cached(up.port, clock, store) as one, Cached(up.port, clock, store) as two:
        two.pipeline.table = renumbered(two)
        await play(one, origin, [(0, "GET", FOREVER, "200 #1")])
        await play(two, origin, [(0, "GET", FOREVER, "200 #2")])
        await play(one, origin, [(0, "GET", None, "200 #1")])


def renumbered(bench: Cached) -> RoutingTable:
    table = bench.pipeline.table
    assert table is not None
    snapshot = replace(table.snapshot, routes=(route("other", id=2),))
    resources = Resources(NOTHING, NOTHING, NOTHING, bench.clock, bench.clock, store=bench.store)
    return RoutingTable(snapshot, Registry([ResponseCache]), resources)


async def test_the_workers_memory_is_bounded() -> None:
    clock = Clock()
    origin, store = Origin(clock), Store(wall=clock, max_bytes=100_000)
    async with serving(origin.script) as up, Cached(up.port, clock, store) as bench:
        text = "x" * 5000
        for number in range(50):
            await play(bench, origin, [(0, f"GET /{number}", f"{FOREVER} | text: {text}", "200")])
            assert store._level.size <= 100_000
        await play(bench, origin, [(0, "GET /49", None, "200"), (0, "GET /0", FOREVER, "200")])
        await play(
            bench, origin, [(0, "GET /big", f"{FOREVER} | text: {'x' * 20_000}", "200"), (0, "GET /49", None, "200")]
        )


@pytest.mark.parametrize("config", [
    {"response_code": []}, {"response_code": [100]}, {"request_method": ["POST"]}, {"content_type": ["html"]},
    {"cache_ttl": -1}, {"strategy": "disk"}, {"max_body_bytes": 0}, {"vary_headers": ["a b"]}, {"unknown": 1},
])  # fmt: skip
def test_what_cannot_work_is_refused(registry: Registry, config: dict[str, object]) -> None:
    with pytest.raises(ConfigProblems):
        registry.validate("response-cache", config)
