"""The rules alone, one table for each: pure functions, so no gateway and no clock."""

from __future__ import annotations

import pytest

from gateway.plugins import conditions, directives, freshness
from gateway.plugins.freshness import NotKept, Rules, Terms

T0 = 1_790_000_040  # Mon, 21 Sep 2026 14:54:00 GMT
DATE = (b"date", b"Mon, 21 Sep 2026 14:14:00 GMT")
D0 = directives.date(DATE[1]) or 0


def pairs(text: str) -> list[tuple[bytes, bytes]]:
    """`name: value | name: value`."""
    found = (line.partition(":") for line in text.split(" | ") if line)
    return [(name.strip().encode(), value.strip().encode()) for name, _, value in found]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"", {}),
        (b"max-age=5", {b"max-age": b"5"}),
        (b"Max-Age=5 , PUBLIC", {b"max-age": b"5", b"public": None}),
        (b'max-age="5"', {b"max-age": b"5"}),
        (b"max-age=5, max-age=9", {b"max-age": b"5"}),
        (b",,no-store,,", {b"no-store": None}),
        (b'no-cache="set-cookie, x-a", public', {b"no-cache": b"set-cookie, x-a", b"public": None}),
        (b'no-cache="a", no-cache', {b"no-cache": None}),
        (b'private, private="a"', {b"private": None}),
        (b'private="a", private="b"', {b"private": b"a,b"}),
        (b"@, max-age=5", {b"max-age": b"5"}),
        (b"no store, max-age=5", {b"max-age": b"5"}),
        (b'no-cache="a, max-age=5', {b"max-age": b"5"}),
        (b'foo="a, no-store", max-age=3', {b"foo": b"a, no-store", b"max-age": b"3"}),
        (b"max-age=", {b"max-age": None}),
        (b"x" * 300 + b", max-age=1", {b"x" * 300: None, b"max-age": b"1"}),
    ],
)
def test_directives(value: bytes, read: dict[bytes, bytes | None]) -> None:
    assert directives.directives([value]) == read


def test_lines_are_one_list() -> None:
    assert directives.directives([b"public", b"max-age=3"]) == {b"public": None, b"max-age": b"3"}
    assert directives.directives([]) == {}


@pytest.mark.parametrize(
    ("value", "counts"),
    [(b"5", 5), (b"0", 0), (b"-1", 0), (b"1.5", 0), (b"", 0), (b"x", 0), (b"9" * 30, directives.MAX_S)],
)
def test_seconds(value: bytes, counts: int) -> None:
    assert directives.seconds({b"max-age": value}, b"max-age") == counts
    assert directives.seconds({}, b"max-age") is None


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"max-age=60", {b"max-age": b"60"}),
        (b"max-age=60, no-store", {b"max-age": b"60", b"no-store": None}),
        (b"max-age=60;x=1, private=?1", {b"max-age": b"60", b"private": None}),
        (b'no-cache="a, b"', {b"no-cache": b"a, b"}),
        (b"max-age=1, max-age=2", {b"max-age": b"2"}),
        (b"private=?0, max-age=1", {b"max-age": b"1"}),
        (b"max-age=ten, public", {b"public": None}),
        (b'max-age="60", public', {b"public": None}),
        (b'max-age="60"', None),
        (b"x=(1 2 a;q=1), max-age=4", {b"max-age": b"4"}),
        (b"", None),
        (b"Max-Age=60", None),
        (b"max-age=60,", None),
        (b"max-age==60", None),
        (b"max-age=60 no-store", None),
        (b'max-age="60', None),
    ],
)
def test_targeted_fields_are_structured(value: bytes, read: dict[bytes, bytes | None] | None) -> None:
    assert directives.targeted([value] if value else []) == read


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Mon, 21 Sep 2026 14:14:00 GMT", T0),
        (b"MON, 21 SEP 2026 14:14:00 gmt", T0),
        (b"sunday, 06-nov-94 08:49:37 Gmt", 784111777),
        (b"SUN NOV  6 08:49:37 1994", 784111777),
        (b"0", None),
        (b"-1", None),
        (b"", None),
        (b"Sun, 06 Nov 1994 08:49:37 CET", None),
        (b"Sun, 06 Nov 1994 25:49:37 GMT", None),
        (b"Sun, 06 Foo 1994 08:49:37 GMT", None),
        (b"06 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
        (b"x" * 100, None),
        (None, None),
    ],
)
def test_dates(value: bytes | None, at: int | None) -> None:
    assert directives.date(value) == at


LATER = "expires: Mon, 21 Sep 2026 14:15:40 GMT"  # 100 s after DATE
CHANGED = "last-modified: Mon, 21 Sep 2026 14:12:20 GMT"  # 100 s before DATE


@pytest.mark.parametrize(
    ("answer", "lifetime_s"),
    [
        ("cache-control: max-age=60", 60),
        ("cache-control: s-maxage=90, max-age=60", 90),
        ("cache-control: max-age=60, s-maxage=0 | etag: 'a'", 0),
        (LATER, 100),
        (f"{LATER} | cache-control: max-age=7", 7),
        (f"{LATER} | cache-control: public", 100),
        ("expires: 0 | etag: 'a'", 0),
        (f"{LATER} | expires: Mon, 21 Sep 2026 14:14:40 GMT | etag: 'a'", 0),
        ("expires: Mon, 21 Sep 2026 14:13:00 GMT | etag: 'a'", 0),
        ("cache-control: max-age=x | etag: 'a'", 0),
        ("cache-control: max-age=60 | cdn-cache-control: max-age=600", 600),
        ("cache-control: no-store | cdn-cache-control: max-age=600", 600),
        (f"{LATER} | cache-control: private | cdn-cache-control: s-maxage=5", 5),
        ("cache-control: max-age=60 | cdn-cache-control: max-age=600,", 60),
        ("cache-control: no-cache | etag: 'a'", 0),
        ("cache-control: no-store, must-understand, max-age=60", 60),
        ("cache-control: max-age=9999999999999", directives.MAX_S),
        ("cache-control: private=\"x-a\", max-age=8", 8),
    ],
)  # fmt: skip
def test_lifetimes(answer: str, lifetime_s: int) -> None:
    assert freshness.terms(200, [DATE, *pairs(answer)], Rules(), T0).lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (200, "", "no lifetime"),
        (200, CHANGED, "no lifetime"),
        (200, "cache-control: public", "no lifetime"),
        (200, "cache-control: no-store, max-age=5", "no-store"),
        (200, "cache-control: private, max-age=5", "private"),
        (200, "cache-control: max-age=5 | cdn-cache-control: no-store", "no-store"),
        (200, "cache-control: max-age=5 | cdn-cache-control: private", "private"),
        (200, f"{LATER} | cdn-cache-control: public", "no lifetime"),
        (200, "cache-control: max-age=0", "of no use"),
        (200, "cache-control: no-cache", "of no use"),
        (200, "cache-control: max-age=5 | vary: *", "vary"),
        (200, "cache-control: max-age=5 | vary: Accept, *", "vary"),
        (200, "cache-control: max-age=5 | set-cookie: a=1", "set-cookie"),
        (200, "cache-control: public, max-age=5 | set-cookie: a=1", "set-cookie"),
        (206, "cache-control: max-age=5", "status"),
        (304, "cache-control: max-age=5", "status"),
        (500, "cache-control: max-age=5", "status"),
        (103, "cache-control: max-age=5", "status"),
        (302, "", "no lifetime"),
    ],
)
def test_what_is_not_kept(status: int, answer: str, reason: str) -> None:
    with pytest.raises(NotKept, match=f"^{reason}$"):
        freshness.terms(status, [DATE, *pairs(answer)], Rules(), T0)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("max-age=5", False),
        ("max-age=5, public", True),
        ("s-maxage=5", True),
        ("max-age=5, must-revalidate", True),
        ("max-age=5, proxy-revalidate", False),
        ("max-age=5, no-cache", False),
    ],
)
def test_who_says_who_asks_gets_an_answer_alone(said: str, kept: bool) -> None:
    answer = [DATE, (b"etag", b'"a"'), (b"cache-control", said.encode())]
    if kept:
        assert freshness.terms(200, answer, Rules(), T0, authorised=True).lifetime_s == 5
    else:
        with pytest.raises(NotKept, match="authorization"):
            freshness.terms(200, answer, Rules(), T0, authorised=True)


@pytest.mark.parametrize(
    ("rules", "status", "answer", "lifetime_s"),
    [
        (Rules(heuristics=True), 200, CHANGED, 10),
        (Rules(heuristics=True, heuristic_max_s=3), 200, CHANGED, 3),
        (Rules(heuristics=True), 404, CHANGED, 10),
        (Rules(heuristics=True), 302, CHANGED, None),
        (Rules(heuristics=True), 302, f"{CHANGED} | cache-control: public", 10),
        (Rules(heuristics=True), 200, f"{CHANGED} | cache-control: max-age=2", 2),
        (Rules(heuristics=True), 200, "", None),
        (Rules(ttl_s=30), 200, "", 30),
        (Rules(ttl_s=30), 200, "cache-control: max-age=2", 2),
        (Rules(ttl_s=30), 200, "cache-control: private", None),
        (Rules(ttl_s=30), 302, "", None),
        (Rules(ttl_s=30, statuses=frozenset({404})), 200, "cache-control: max-age=5", None),
    ],
)
def test_what_a_route_adds(rules: Rules, status: int, answer: str, lifetime_s: int | None) -> None:
    fields = [DATE, *pairs(answer)]
    if lifetime_s is None:
        with pytest.raises(NotKept):
            freshness.terms(status, fields, rules, T0)
    else:
        assert freshness.terms(status, fields, rules, T0).lifetime_s == lifetime_s


def test_fields_that_lists_name_are_hidden() -> None:
    said = [(b"cache-control", b'max-age=5, no-cache="Set-Cookie, X-A", private="x-b"'), (b"set-cookie", b"a=1")]
    assert freshness.terms(200, said, Rules(), T0).hidden == {b"set-cookie", b"x-a", b"x-b"}


@pytest.mark.parametrize(
    ("answer", "requested_s", "received_s", "age_s"),
    [
        ([DATE], T0, T0, 0),
        ([DATE], T0, T0 + 0.9, 0.9),
        ([DATE], T0 + 30, T0 + 30, 30),
        ([DATE, (b"age", b"40")], T0, T0 + 2, 42),
        ([DATE, (b"age", b"4")], T0 + 30, T0 + 30, 30),
        ([(b"age", b"4, 9")], T0, T0, 4),
        ([(b"age", b"-4")], T0, T0, 0),
        ([(b"date", b"soon")], T0, T0 + 1, 1),
        ([(b"date", b"Mon, 21 Sep 2026 15:14:00 GMT")], T0, T0, 0),
    ],
)
def test_age_on_arrival(answer, requested_s: float, received_s: float, age_s: float) -> None:
    assert freshness.initial_age(answer, requested_s, received_s) == pytest.approx(age_s, abs=1e-3)


MINUTE = Terms(60)
STRICT, SHARED = Terms(60, strict=True, behind_s=9), Terms(60, shared=True)
BEHIND = Terms(60, behind_s=30, on_error_s=100)


@pytest.mark.parametrize(
    ("kept", "age_s", "request_", "wanted"),
    [
        (MINUTE, 59, "", "fresh"),
        (MINUTE, 60, "", "validate"),
        (Terms(60, validate=True), 0, "", "validate"),
        (MINUTE, 1, "no-cache", "validate"),
        (MINUTE, 1, "max-age=0", "validate"),
        (MINUTE, 5, "max-age=5", "fresh"),
        (MINUTE, 6, "max-age=5", "validate"),
        (MINUTE, 50, "min-fresh=10", "fresh"),
        (MINUTE, 51, "min-fresh=10", "validate"),
        (MINUTE, 65, "max-stale", "stale"),
        (MINUTE, 65, "max-stale=5", "stale"),
        (MINUTE, 66, "max-stale=5", "validate"),
        (MINUTE, 65, "max-stale=x", "validate"),
        (MINUTE, 65, "max-age=10, max-stale=99", "validate"),
        (MINUTE, 65, "max-age=70, max-stale=99", "stale"),
        (STRICT, 65, "max-stale", "validate"),
        (SHARED, 65, "max-stale", "validate"),
        (STRICT, 65, "", "validate"),
        (BEHIND, 65, "", "behind"),
        (BEHIND, 89, "", "behind"),
        (BEHIND, 90, "", "validate"),
        (BEHIND, 65, "max-age=100", "validate"),
        (BEHIND, 65, "no-cache", "validate"),
        (MINUTE, 5, "no-transform", "fresh"),
    ],
)
def test_whether_it_will_do(kept: Terms, age_s: float, request_: str, wanted: str) -> None:
    assert freshness.use(kept, age_s, directives.directives([request_.encode()])) == wanted


@pytest.mark.parametrize(
    ("kept", "age_s", "request_", "covers"),
    [
        (BEHIND, 100, "", True),
        (BEHIND, 161, "", False),
        (MINUTE, 61, "", False),
        (MINUTE, 61, "stale-if-error=5", True),
        (MINUTE, 70, "stale-if-error=5", False),
        (SHARED, 61, "stale-if-error=5", False),
        (Terms(60, strict=True, on_error_s=99), 61, "", False),
        (Terms(60, validate=True, on_error_s=99), 1, "", False),
        (BEHIND, 100, "no-cache", False),
        (Terms(60, shared=True, on_error_s=99), 61, "", True),
    ],
)
def test_whether_it_stands_in_for_an_error(kept: Terms, age_s: float, request_: str, covers: bool) -> None:
    assert freshness.may_cover(kept, age_s, directives.directives([request_.encode()])) is covers


def test_stale_windows_come_from_the_answer_or_the_route() -> None:
    rules = Rules(behind_s=7, on_error_s=8)
    for said, windows in [
        (b"max-age=5", (7, 8)),
        (b"max-age=5, stale-while-revalidate=1, stale-if-error=2", (1, 2)),
        (b"s-maxage=5", (0, 0)),
        (b"s-maxage=5, stale-while-revalidate=1", (1, 0)),
    ]:
        made = freshness.terms(200, [(b"cache-control", said)], rules, T0)
        assert (made.behind_s, made.on_error_s) == windows


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ("pragma: no-cache", {b"no-cache": None}),
        ("pragma: no-cache | cache-control: max-age=5", {b"max-age": b"5"}),
        ("pragma: x", {}),
        ("cache-control: max-age=5 | cache-control: min-fresh=1", {b"max-age": b"5", b"min-fresh": b"1"}),
    ],
)
def test_what_requests_ask(fields: str, wanted: dict[bytes, bytes | None]) -> None:
    assert freshness.asked(pairs(fields)) == wanted


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("accept: a,b", "accept: a,  b", True),
        ("accept: a | accept: b", "accept: a, b", True),
        ("accept: TEXT/html;q=0.5", "accept: text/html; q=0.5", True),
        ("accept: a, b", "accept: b, a", False),
        ("accept: a", "", False),
        ("accept:", "", False),
        ("accept-encoding: gzip, br", "accept-encoding: br,GZIP;q=1.0", True),
        ("accept-encoding: gzip, br;q=0", "accept-encoding: gzip", True),
        ("accept-encoding: gzip;q=0.5", "accept-encoding: gzip", False),
        ("accept-encoding: identity;q=0", "accept-encoding:", False),
        ("cookie: a=B", "cookie: a=b", False),
        ("x-a: 1", "x-a: 1 | x-b: 2", True),
    ],
)
def test_which_requests_are_alike(one: str, other: str, alike: bool) -> None:
    varied = freshness.names([(b"vary", b"X-A, accept-encoding"), (b"vary", b"Accept,cookie")])
    assert varied == (b"accept", b"accept-encoding", b"cookie", b"x-a")
    assert (freshness.selecting(varied, pairs(one)) == freshness.selecting(varied, pairs(other))) is alike


@pytest.mark.parametrize(
    ("request_", "answer", "has_it"),
    [
        ('if-none-match: "a"', 'etag: "a"', True),
        ('if-none-match: W/"a"', 'etag: "a"', True),
        ('if-none-match: "a"', 'etag: W/"a"', True),
        ('if-none-match: "x", "a"', 'etag: "a"', True),
        ('if-none-match: "x" | if-none-match: "a"', 'etag: "a"', True),
        ('if-none-match: "x,a"', 'etag: "a"', False),
        ("if-none-match: *", 'etag: "a"', True),
        ("if-none-match: *", "", True),
        ('if-none-match: "a"', "", False),
        ("if-none-match: a", 'etag: "a"', False),
        (f'if-none-match: "x" | if-modified-since: {DATE[1].decode()}', f'etag: "a" | {CHANGED}', False),
        (f"if-modified-since: {DATE[1].decode()}", CHANGED, True),
        ("if-modified-since: Mon, 21 Sep 2026 14:12:20 GMT", CHANGED, True),
        ("if-modified-since: Mon, 21 Sep 2026 14:12:19 GMT", CHANGED, False),
        ("if-modified-since: yesterday", CHANGED, False),
        (f"if-modified-since: {DATE[1].decode()}", f"date: {DATE[1].decode()}", True),
        ("if-modified-since: Mon, 21 Sep 2026 14:12:19 GMT", "", False),
        ("", 'etag: "a"', False),
    ],
)
def test_who_has_it_already(request_: str, answer: str, has_it: bool) -> None:
    assert conditions.unchanged(pairs(request_), pairs(answer), T0) is has_it


@pytest.mark.parametrize(
    ("kept", "told", "confirmed"),
    [
        ('etag: "a"', 'etag: "a"', True),
        ('etag: "a"', 'etag: W/"a"', True),
        ('etag: W/"a"', 'etag: "a"', False),
        ('etag: "a"', 'etag: "b"', False),
        ("", 'etag: "b"', False),
        ('etag: "a"', "", True),
        (CHANGED, CHANGED, True),
        (CHANGED, "last-modified: x", False),
    ],
)
def test_which_304_is_about_it(kept: str, told: str, confirmed: bool) -> None:
    assert conditions.confirms(pairs(kept), pairs(told)) is confirmed


def test_a_304_updates_all_but_the_body() -> None:
    kept = pairs("etag: 'a' | cache-control: max-age=1 | content-type: a/b | content-length: 3 | age: 9 | x-a: 1")
    told = pairs("cache-control: max-age=9 | content-type: c/d | content-length: 0 | x-b: 2")
    assert conditions.updated(kept, told) == pairs(
        "etag: 'a' | content-type: a/b | content-length: 3 | x-a: 1 | cache-control: max-age=9 | x-b: 2"
    )


@pytest.mark.parametrize(
    ("told", "is_same"),
    [
        ('etag: "a" | content-length: 5', True),
        ("", True),
        ('etag: "b"', False),
        ("content-length: 6", False),
        ("content-encoding: gzip", False),
    ],
)
def test_which_head_is_about_it(told: str, is_same: bool) -> None:
    assert conditions.same(pairs('etag: "a"'), 5, pairs(told)) is is_same


NONE_THERE = (-1, -1)


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        ("", None),
        ("range: bytes=0-3", (0, 4)),
        ("range: bytes=2-", (2, 10)),
        ("range: bytes=-3", (7, 10)),
        ("range: bytes=-30", (0, 10)),
        ("range: bytes=8-99", (8, 10)),
        ("range: bytes=9-9", (9, 10)),
        ("range: Bytes=0-0", (0, 1)),
        ("range: bytes=10-", NONE_THERE),
        ("range: bytes=-0", NONE_THERE),
        ("range: bytes=5-3", None),
        ("range: bytes=-", None),
        ("range: bytes=0-1,4-5", None),
        ("range: lines=0-1", None),
        ("range: bytes=a-b", None),
        ('range: bytes=0-3 | if-range: "a"', (0, 4)),
        ('range: bytes=0-3 | if-range: W/"a"', None),
        ('range: bytes=0-3 | if-range: "b"', None),
        ("range: bytes=0-3 | if-range: Mon, 21 Sep 2026 14:12:20 GMT", (0, 4)),
        ("range: bytes=0-3 | if-range: Mon, 21 Sep 2026 14:12:21 GMT", None),
        ("range: bytes=0-3 | if-range: soon", None),
    ],
)
def test_parts(request_: str, part: tuple[int, int] | None) -> None:
    assert conditions.span(pairs(request_), pairs(f'etag: "a" | {CHANGED}'), 10) == part


def test_a_part_of_nothing() -> None:
    assert conditions.span([(b"range", b"bytes=-3")], [], 0) == NONE_THERE


def test_what_a_304_repeats() -> None:
    fields = pairs(
        "date: x | etag: y | last-modified: z | vary: a | content-type: t | x-a: 1 | cache-control: max-age=1"
    )
    assert conditions.not_modified(fields) == pairs("date: x | etag: y | vary: a | cache-control: max-age=1")
    assert conditions.not_modified(pairs("last-modified: z")) == pairs("last-modified: z")


@pytest.mark.parametrize(
    ("method", "status", "ends"),
    [("POST", 200, True), ("PUT", 201, True), ("DELETE", 303, True), ("PATCH", 404, False), ("POST", 500, False),
     ("GET", 200, False), ("HEAD", 200, False), ("OPTIONS", 200, False), ("BREW", 200, True)],
)  # fmt: skip
def test_what_unsafe_requests_end(method: str, status: int, ends: bool) -> None:
    assert freshness.invalidates(method, status) is ends


@pytest.mark.parametrize(
    ("fields", "targets"),
    [
        ("location: /b?c#d", [b"/b?c"]),
        ("location: http://a.test/b", [b"/b"]),
        ("location: https://A.test/b", [b"/b"]),
        ("location: http://other.test/b", []),
        ("location: //a.test", [b"/"]),
        ("location: c", [b"/x/c"]),
        ("location: ../c", [b"/c"]),
        ("location: ./", [b"/x/"]),
        ("location: ?c", [b"/x/y?c"]),
        ("location: mailto:a@b", []),
        ("location: /b | content-location: /c", [b"/b", b"/c"]),
        ("", []),
    ],
)
def test_what_else_they_end(fields: str, targets: list[bytes]) -> None:
    assert list(freshness.also_ended(pairs(fields), b"a.test", b"/x/y?z")) == targets


def test_tags() -> None:
    assert directives.tags(pairs("surrogate-key: a  b | surrogate-key: c")) == {b"a", b"b", b"c"}


@pytest.mark.parametrize(("status", "kept"), [(200, True), (404, True), (503, True), (299, False), (599, False)])
def test_must_understand_is_said_of_what_is_understood(status: int, kept: bool) -> None:
    """Whatever a setting has kept: RFC 9111 §5.2.2.3."""
    rules, fields = Rules(statuses=frozenset({status})), pairs("cache-control: max-age=60, no-store, must-understand")
    if kept:
        assert freshness.terms(status, fields, rules, T0).lifetime_s == 60
        return
    with pytest.raises(NotKept, match="must-understand"):
        freshness.terms(status, fields, rules, T0)
