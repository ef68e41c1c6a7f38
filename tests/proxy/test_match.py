from __future__ import annotations

import contextlib
from time import process_time

import pytest

from gateway.proxy.errors import AmbiguousPath, BadPath
from gateway.proxy.match import MAX_FOUND, MAX_FOUND_LENGTH, Index, Match
from gateway.proxy.paths import is_plain, normalise, other_readings
from gateway.proxy.patterns import Pattern, check_rewrite, rewrite_path
from gateway.proxy.snapshot import FieldCondition, RouteSpec


def route(name: str, *paths: str, number: int = 0, **changes: object) -> RouteSpec:
    fields: dict[str, object] = {
        "id": number or abs(hash(name)) % 10_000, "name": name, "hosts": (), "paths": paths, "methods": frozenset(),
        "headers": (), "query": (), "upstreams": (),
    }  # fmt: skip
    return RouteSpec(**(fields | changes))  # type: ignore[arg-type]


def find(
    routes: list[RouteSpec], raw: str, *, host: str = "h", method: str = "GET", headers=(), query=b""
) -> Match[str] | None:
    index = Index((r, r.name) for r in routes)
    return index.match(host, normalise(raw.encode()), raw.encode(), method, list(headers), query)


def name(routes: list[RouteSpec], raw: str, **request: object) -> str | None:
    found = find(routes, raw, **request)  # type: ignore[arg-type]
    return found.value if found else None


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"/", "/"),
        (b"/users/7", "/users/7"),
        (b"/a//b", "/a/b"),
        (b"/a/./b/../c", "/a/c"),
        (b"/../..", "/"),
        (b"/a/..", "/"),
        (b"/a/b/", "/a/b/"),
        (b"/a/.", "/a/"),
        (b"/%61%2d", "/a-"),
        (b"/a%2fb", "/a%2Fb"),
        (b"/%2e%2e/x", "/x"),
        ("/é".encode(), "/%C3%A9"),
        (b"/%c3%a9", "/%C3%A9"),
        (b"/A", "/A"),
        (b"/x;v=1", "/x;v=1"),
    ],
)
def test_a_path_has_one_normal_form(raw: bytes, normal: str) -> None:
    assert normalise(raw) == normal
    assert normalise(normal.encode()) == normal


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        b"*",
        b"/a b",
        b"/\x00",
        b"/\x7f",
        b"/\r",
        b"/%",
        b"/%g1",
        b"/%2",
        b"/%00",
        b"/%0a",
        b"/%7F",
        b"/%1f",
        b"/%41" * 2000,
    ],
)
def test_a_path_no_server_should_see_is_refused(raw: bytes) -> None:
    with pytest.raises(BadPath):
        normalise(raw)


@pytest.mark.parametrize(
    "text",
    ["users", "", "/a b", "/a?b", "/a*", "/*/a", "/a//b", "/a/../b", "/{a}/{a}", "/{1}", "/x{a}", "~(", "~(?=a)"],
)
def test_a_bad_pattern_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r".{20,}\."):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "raw", "params", "tail"),
    [
        ("/users", "/users", {}, ""),
        ("/users/*", "/users", {}, ""),
        ("/users/*", "/users/", {}, "/"),
        ("/users/*", "/users/7/x", {}, "/7/x"),
        ("/*", "/", {}, "/"),
        ("/*", "/a/b", {}, "/a/b"),
        ("/users/{id}", "/users/7", {"id": "7"}, ""),
        ("/users/{id}/*", "/users/a%20b/c", {"id": "a b"}, "/c"),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}, ""),
        ("~/v(?P<major>[0-9]+)", "/v12/x", {"major": "12"}, "/x"),
        ("/é", "/%c3%a9", {}, ""),
    ],
)
def test_a_pattern_takes_parameters_and_a_tail(pattern: str, raw: str, params: dict[str, str], tail: str) -> None:
    match = find([route("r", pattern)], raw)
    assert match is not None
    assert (match.params, match.tail) == (params, tail)


@pytest.mark.parametrize(
    ("pattern", "raw"),
    [("/users", "/users/"), ("/users/*", "/usersx"), ("/users/{id}", "/users/"), ("/users/{id}", "/users/7/x"),
     ("/users", "/Users"), ("~/v[0-9]$", "/v12"), ("~b", "/ab")],
)  # fmt: skip
def test_a_pattern_does_not_match_more_than_it_says(pattern: str, raw: str) -> None:
    assert find([route("r", pattern)], raw) is None


@pytest.mark.parametrize(
    ("winner", "loser", "raw"),
    [
        (route("w", "/*", priority=1), route("l", "/a"), "/a"),
        (route("w", "/*", hosts=("h",)), route("l", "/a"), "/a"),
        (route("w", "/a"), route("l", "~/a"), "/a"),
        (route("w", "~/a"), route("l", "/a/*"), "/a/b"),
        (route("w", "/a/{x}"), route("l", "/a/*"), "/a/b"),
        (route("w", "/a/b/*"), route("l", "/a/{x}/*"), "/a/b/c"),
        (route("w", "/{x}/b"), route("l", "/{x}/*"), "/a/b"),
        (route("w", "/a/*"), route("l"), "/a"),
        (route("w", "/a", methods=frozenset({"GET"})), route("l", "/a"), "/a"),
        (route("w", "/a", query=(FieldCondition("v", ("2",)),)), route("l", "/a"), "/a"),
        (route("w", "/a", number=1), route("l", "/a", number=2), "/a"),
    ],
)
def test_precedence(winner: RouteSpec, loser: RouteSpec, raw: str) -> None:
    assert name([loser, winner], raw, query=b"v=2") == "w"
    assert name([winner, loser], raw, query=b"v=2") == "w"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("api.example.com", "exact"), ("x.example.com", "near"), ("a.b.example.com", "far"), ("example.com", None),
     ("v.x.example.com", "far"), ("d.b.example.com", "far"), ("other", None)],
)  # fmt: skip
def test_hosts(host: str, expected: str | None) -> None:
    routes = [
        route("exact", hosts=("api.example.com",)),
        route("near", hosts=("x.example.com", "y.example.com")),
        route("far", hosts=("*.example.com",)),
    ]
    assert name(routes, "/", host=host) == expected


def test_the_longer_wildcard_wins() -> None:
    routes = [route("short", hosts=("*.example.com",)), route("long", hosts=("*.eu.example.com",))]
    assert name(routes, "/", host="a.eu.example.com") == "long"


def test_a_request_falls_through_to_the_next_route_whose_conditions_hold() -> None:
    routes = [
        route("post", "/a", methods=frozenset({"POST"})),
        route("v2", "/a", headers=(FieldCondition("x-version", ("2", "3")),)),
        route("debug", "/a", query=(FieldCondition("debug", ()),)),
        route("rest", "/*"),
    ]
    assert name(routes, "/a", method="POST") == "post"
    assert name(routes, "/a", headers=[(b"x-version", b"3")]) == "v2"
    assert name(routes, "/a", query=b"debug") == "debug"
    assert name(routes, "/a", headers=[(b"x-version", b"4")]) == "rest"


def test_what_was_found_is_remembered_for_some_places_and_conditions_are_asked_each_time() -> None:
    routes = [
        route("post", "/users/{id}", methods=frozenset({"POST"})),
        route("eu", "/users/{id}", hosts=("eu.test",)),
        route("user", "/users/{id}"),
    ]
    index = Index((r, r.name) for r in routes)

    def found(path: str, host: str = "h", method: str = "GET") -> tuple[str, dict[str, str]] | None:
        match = index.match(host, path, b"", method, [], b"")
        return (match.value, match.params) if match else None

    for number in [*range(MAX_FOUND + 10), *range(MAX_FOUND, MAX_FOUND + 10)]:
        assert found(f"/users/{number}") == ("user", {"id": str(number)})
        assert found(f"/users/{number}", method="POST") == ("post", {"id": str(number)})
        assert found(f"/users/{number}", host="eu.test") == ("eu", {"id": str(number)})
        assert found(f"/nobody/{number}") is None
        assert len(index._found) <= MAX_FOUND
    before = len(index._found)
    assert found("/users/" + "x" * MAX_FOUND_LENGTH) == ("user", {"id": "x" * MAX_FOUND_LENGTH})
    assert len(index._found) == before


PROTECTED = [route("protected", "/admin/*"), route("open", "/*")]


@pytest.mark.parametrize(
    "raw",
    ["/%2fadmin", "/x/..%2fadmin", "/x%2f..%2fadmin", "/admin%2fx/../../y", "//admin", "/x/../admin", "/./admin",
     "/x/%2e%2e/admin", "/\\admin", "/x\\..\\admin", "/%5cadmin", "/admin;x", "/x;y/../admin", "/%25%32%66admin",
     "/%252e%252e/admin",
     "/..;/admin", "/x/..;/admin", "/a%64min%2f..%2f", "/%2561dmin", "/admin%3fx", "/admin%23", "/admin%2f;x%2f..",
     "/x//../admin", "/x/%c0%ae%c0%ae/admin", "/%252561dmin"],
)  # fmt: skip
def test_no_spelling_slips_past_a_protected_route(raw: str) -> None:
    with contextlib.suppress(AmbiguousPath):  # refused is as good
        assert name(PROTECTED, raw) == "protected"


@pytest.mark.parametrize(
    "raw", ["/files/a%2Fb", "/files/a;v=1", "/files//x", "/files/./x", "/files/a%20b", "/files/100%25"]
)
def test_odd_spellings_inside_one_routes_space_just_work(raw: str) -> None:
    assert name([route("files", "/files/*"), route("other", "/other/*")], raw) == "files"


@pytest.mark.parametrize(
    "raw", [b"/%25252525252541", b"/%" + b"25" * 2000 + b"41", b"/x%2F../;a%25" * 300, b"/a;%5c..//%2e/%3f%25;" * 4]
)
def test_what_can_be_read_in_too_many_ways_is_refused_soon(raw: bytes) -> None:
    begun_s = process_time()
    with pytest.raises(AmbiguousPath, match="too many ways"):
        other_readings(raw)
    assert process_time() - begun_s < 0.1


def test_a_plain_path_is_not_looked_at_twice() -> None:
    assert is_plain(b"/a/b-c_d.e~f/@:!$&'()*+,=")
    assert not is_plain(b"/a%20b")


@pytest.mark.parametrize(
    ("rewrite", "params", "tail", "path"),
    [
        ("/v2/users/*", {}, "/7", "/v2/users/7"),
        ("/v2/*", {}, "", "/v2"),
        ("/*", {}, "", "/"),
        ("/u/{id}", {"id": "a b/ü"}, "", "/u/a%20b%2F%C3%BC"),
        ("/u/{id}/*", {"id": "1"}, "/x%2Fy", "/u/1/x%2Fy"),
    ],
)
def test_a_rewrite_fills_its_template(rewrite: str, params: dict[str, str], tail: str, path: str) -> None:
    assert rewrite_path(rewrite, params, tail) == path


def test_a_rewrite_may_only_use_what_every_path_gives() -> None:
    check_rewrite("/u/{id}", [Pattern.parse("/users/{id}"), Pattern.parse("~/x/(?P<id>[0-9]+)")])
    with pytest.raises(ValueError, match="does not have"):
        check_rewrite("/u/{id}", [Pattern.parse("/users/{id}"), Pattern.parse("/users/*")])
    with pytest.raises(ValueError, match="no path"):
        check_rewrite("/u/{id}", [])


def test_ten_thousand_routes_are_looked_up_by_segments_not_by_scanning() -> None:
    routes = [route(f"r{n}", f"/svc{n}/*", number=n + 1) for n in range(10_000)]
    index = Index((r, r.name) for r in routes)
    match = index.match("h", "/svc9876/x", b"/svc9876/x", "GET", [], b"")
    assert match is not None
    assert match.value == "r9876"


def test_thousands_of_regular_expressions_still_make_an_index() -> None:
    """RE2's default memory for a set ends at some hundreds; a table that cannot be built serves nobody."""
    expressions = [f"~/api/v{n}/users/(?P<id>[0-9a-f-]{{8,36}})/orders/[^/]+" for n in range(3000)]
    found = find(
        [route(f"r{n}", text, number=n + 1) for n, text in enumerate(expressions)],
        "/api/v2999/users/0123456789/orders/x",
    )
    assert found is not None
    assert (found.value, found.params) == ("r2999", {"id": "0123456789"})
