"""Filters, search, ordering, pages; and how many queries they cost."""

from __future__ import annotations

import pytest

NAMES = [f"r{i:02}" for i in range(25)]


@pytest.fixture
def routes(call):
    operations = [{"op": "create", "resource": "upstreams", "value": {"name": "users"}}] + [
        {
            "op": "create",
            "resource": "routes",
            "value": {
                "name": name,
                "paths": [f"/{name}/*"],
                "enabled": i % 2 == 0,
                "priority": i % 3,
                "tags": ["even" if i % 2 == 0 else "odd"],
                "upstreams": [{"name": "users"}],
            },
        }
        for i, name in enumerate(NAMES)
    ]
    assert call("POST", "/bulk", {"operations": operations}).status_code == 200


def names(answer):
    assert answer.status_code == 200, answer.content
    return [item["name"] for item in answer.json()["items"]]


@pytest.mark.parametrize("ordering", ["name", "-name", "priority", "-priority", "created_at"])
def test_pages_hold_every_row_once(call, routes, ordering):
    found, url, pages = [], f"/routes?limit=7&ordering={ordering}", 0
    while url:
        answer = call("GET", url)
        found, pages = found + names(answer), pages + 1
        url = answer.json()["next"]
        assert answer.get("Link") == (f'<{url}>; rel="next"' if url else None)
        url = url and url.removeprefix("http://testserver")
    assert (sorted(found), pages) == (NAMES, 4)
    assert ordering not in ("name", "-name") or found == sorted(NAMES, reverse=ordering == "-name")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("enabled=true", 13), ("tag=odd", 12), ("name=r03", 1), ("q=R1", 10), ("q=/r07/", 1), ("upstream=users", 25),
        ("path=/r01/*", 1), ("enabled=false&tag=even", 0), ("plugin=cors", 0),
    ],
)  # fmt: skip
def test_filters_hold_together(call, routes, query, count):
    assert len(names(call("GET", f"/routes?{query}"))) == count


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "ordering=colour",
        "enabled=yes",
        "colour=red",
        "cursor=xx",
        "cursor=W10",
        "q=%00",
    ],
)
def test_a_parameter_that_cannot_be_read_is_400(call, db, query):
    answer = call("GET", f"/routes?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (400, query.split("=")[0])


def test_a_cursor_of_another_ordering_is_refused(call, routes):
    cursor = call("GET", "/routes?limit=5").json()["next"].rpartition("cursor=")[2]
    assert call("GET", f"/routes?limit=5&ordering=-name&cursor={cursor}").status_code == 400


@pytest.mark.parametrize("path", ["/routes", "/upstreams", "/plugin-settings", "/versions"])
def test_a_list_costs_the_same_however_long(call, routes, path, django_assert_max_num_queries):
    with django_assert_max_num_queries(
        6
    ):  # the token, its use, the user's permissions; the rows and what hangs on them
        assert call("GET", path).status_code == 200


@pytest.mark.parametrize(
    "moment", ["0187-07-25T05:13:04+17:41", "2030-01-31T12:00:00-23:59", "0001-01-01T00:00:00+20:00"]
)
def test_a_zone_far_from_utc_is_none_to_postgresql(call, moment):
    call("POST", "/consumers", {"username": "far"})
    answer = call("GET", f"/consumers/far/keys?expires_before={moment.replace('+', '%2B')}")
    assert answer.status_code in (200, 400)
    assert call("POST", "/consumers/far/keys", {"expires_at": moment}).status_code in (201, 422)


def test_a_whole_number_may_have_a_point_as_json_schema_has_it(call):
    made = call("POST", "/upstreams", '{"name": "point", "retries": 2.0, "connect_timeout_ms": 1e3}')
    assert (made.json()["retries"], made.json()["connect_timeout_ms"]) == (2, 1000)
    assert call("POST", "/upstreams", '{"name": "half", "retries": 2.5}').status_code == 422
