"""The table is RFC 9111, 9110, 5861, 9213 and 9211 as a client and an upstream see them: each row is played over HTTP
against a real upstream, at a time of its own. What the rules are by themselves: test_freshness.py.
"""

from __future__ import annotations

import pytest

from tests.plugins.caching import Cached, Clock, Origin, Step, play
from tests.upstream import serving

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
    ("GET", "200 | cache-control: no-store, must-understand, max-age=1000", "GET"),
    ("GET", "203 | cache-control: max-age=1000", "GET"),
    ("GET", "204 | cache-control: max-age=1000", "GET"),
    ("GET", "301 | cache-control: max-age=1000 | location: /y", "GET"),
    ("GET", "302 | cache-control: max-age=1000 | location: /y", "GET"),
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
        if "x-a" not in said
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
        (0, "GET", "200 | cache-control: max-age=60", "200 #1 | cache-status: hydragate; fwd=uri-miss; fwd-status=200; stored"),
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
        (1, "GET | cache-control: no-cache", f"304 | {ETAG}", "200 #1 | cache-status: ~fwd=request", 'if-none-match: "a"'),
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
        (11, 'GET | if-none-match: "b"', '200 | cache-control: max-age=10 | etag: "b"', "304 ''", '-if-none-match: "b"'),
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
        (0, "GET | range: bytes=0-1", "206 | cache-control: max-age=99 | content-range: bytes 0-1/9", "206 #1", "range: bytes=0-1"),
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
        (20, "GET", "503 | cache-control: max-age=99", "200 #1 | age: 20 | cache-status: ~fwd-status=503; detail=stale-if-error"),
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
        (0, "GET | accept-encoding: gzip", f"{FOREVER} | vary: accept-encoding | content-encoding: gzip | text: gz", "200 gz"),
        (0, "GET", f"{FOREVER} | vary: accept-encoding", "200 #2 | -content-encoding"),
        (0, "GET | accept-encoding: gzip", None, "200 gz | content-encoding: gzip"),
        (0, "GET", None, "200 #2"),
    ],
    "an unsafe request ends what is kept": [
        (0, "GET", FOREVER, "200 #1"),
        (1, "POST", "200", "200 #2 | cache-status: hydragate; fwd=method"),
        (0, "GET", "200", "200 #3"),
    ],
    "an unknown method does, too": [(0, "GET", FOREVER, "200 #1"), (1, "BREW", "200", "200"), (0, "GET", "200", "200 #3")],
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
        (0, "GET", "200 | cache-control: private", '200 | cache-status: hydragate; fwd=uri-miss; fwd-status=200; detail="private"'),
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
    ({"heuristics": True}, [(0, "GET", f"200 | {CHANGED}", "200 #1"), (9, "GET", None, "200"), (1, "GET", "304", "200 #1")]),
    ({"response_code": [404]}, [(0, "GET", FOREVER, "200"), (0, "GET", "200", "200 #2")]),
    ({"response_code": [500]}, [(0, "GET", "500 | cache-control: max-age=9", "500"), (0, "GET", None, "500 #1")]),
    ({"request_method": ["GET"]}, [(0, "GET", FOREVER, "200"), (0, "HEAD", "200", "200 '' | cache-status: ~fwd=method")]),
    ({"content_type": ["text/*"]}, [
        (0, "GET", f"{FOREVER} | content-type: Text/HTML; charset=x", "200"), (0, "GET", None, "200 #1"),
        (0, "GET /y", f"{FOREVER} | content-type: image/png", "200"), (0, "GET /y", "200", "200 #3"),
    ]),
    ({"max_body_bytes": 4}, [
        (0, "GET", f"{FOREVER} | text: 1234", "200"), (0, "GET", None, "200 1234"),
        (0, "GET /y", f"{FOREVER} | text: 12345", "200 12345"), (0, "GET /y", "200", "200 #3"),
        (0, "GET /z", f"{FOREVER} | text: 12345 | transfer-encoding: chunked", "200 12345"), (0, "GET /z", "200", "200 #5"),
    ]),
    ({"vary_headers": ["X-Tenant"]}, [
        (0, "GET | x-tenant: a", FOREVER, "200 #1"), (0, "GET | x-tenant: b", FOREVER, "200 #2"),
        (0, "GET | x-tenant: a", None, "200 #1"), (0, "GET", "200", "200 #3"),
    ]),
    ({"vary_query_params": ["a"]}, [
        (0, "GET /x?a=1&b=2", FOREVER, "200 #1"), (0, "GET /x?b=3&a=1", None, "200 #1"), (0, "GET /x?a=2", "200", "200 #2"),
        (0, "GET /x?%61=1", "200", "200 #3"),
    ]),
    ({"request_directives": False}, [
        (0, "GET | cache-control: no-store", FOREVER, "200 #1"), (0, "GET | cache-control: no-cache", None, "200 #1"),
        (0, "GET | pragma: no-cache", None, "200 #1"), (0, "GET /y | cache-control: only-if-cached", "200", "200 #2"),
    ]),
    ({"status_header": False}, [(0, "GET", FOREVER, "200 | -cache-status"), (3, "GET", None, "200 #1 | -cache-status | age: 3")]),
    ({"surrogate_keys": True}, [
        (0, "GET", f"{FOREVER} | surrogate-key: b a", "200 | surrogate-key: b a"), (0, "GET", None, "200 | surrogate-key: a b"),
    ]),
    ({"stale_if_error": 60}, [(0, "GET", TAGGED, "200"), (69, "GET", "503", "200 #1"), (1, "GET", "503", "503")]),
    ({"stale_if_error": 60}, [(0, "GET", f"200 | cache-control: s-maxage=10 | {ETAG}", "200"), (20, "GET", "503", "503")]),
    ({"by_consumer": True}, [
        (0, "GET | authorization: a", FOREVER, "200 #1"), (0, "GET | authorization: a", None, "200 #1"),
        (0, "GET | authorization: b", FOREVER, "200 #2"), (0, "GET", "200", "200 #3"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("config", "steps"), SETTINGS)
async def test_settings(config: dict[str, object], steps: list[Step]) -> None:
    await played(steps, config)
