"""A route with everything it needs in one body, and many changes in one version."""

from __future__ import annotations

from time import perf_counter

from routes.api import examples
from tests.running import ALONE

FILE = """\
# routes.yaml
routes:
  - name: "example-api"
    path: "/api/v1/*"
    methods: ["GET", "POST"]
    targets:
      - url: "http://localhost:3000"
        weight: 100
      - url: "http://localhost:3001"
        weight: 50
    auth:
      type: "key"
      key_names: ["x-token"]
    rate_limit:
      requests: 1000
      window: "1m"
"""


def post_yaml(call, text, **more):
    return call("POST", "/routes", text, content_type="application/yaml", **more)


def faults(answer):
    return [(fault["pointer"], fault["detail"]) for fault in answer.json()["errors"]]


def test_a_file_of_routes_is_one_version(call):
    answer = post_yaml(call, FILE)
    assert answer.status_code == 201, answer.content
    assert answer["X-Config-Version"] == "1"
    (route,) = answer.json()["routes"]
    assert (route["paths"], route["upstreams"]) == (["/api/v1/*"], [{"name": "example-api", "weight": 100}])
    targets = call("GET", "/upstreams/example-api").json()["targets"]
    assert [(target["address"], target["weight"]) for target in targets] == [
        ("localhost:3000", 100), ("localhost:3001", 50),
    ]  # fmt: skip
    settings = call("GET", "/plugin-settings?route=example-api").json()["items"]
    assert {setting["name"]: setting["config"] for setting in settings} == {
        "key-auth": {"key_names": ["x-token"]},
        "rate-limiting": {"limits": [{"limit": 1000, "window": "1m"}]},
    }


def test_an_authentication_that_is_not_there_is_named_with_those_that_are(call):
    answer = post_yaml(call, FILE.replace('type: "key"', 'type: "voice"'))
    assert answer.status_code == 422
    pointer, detail = faults(answer)[0]
    assert pointer == "/routes/0/auth/type"
    assert detail.startswith("There is no authentication 'voice' here. There are: ")
    assert "jwt, key" in detail


def test_a_token_may_open_it(call):
    file = FILE.replace('"key"', '"jwt"').replace('key_names: ["x-token"]', 'secret: "your-jwt-secret"')
    answer = post_yaml(call, file.replace("your-jwt-secret", "short"))
    assert [pointer for pointer, _ in faults(answer)] == ["/routes/0/auth/secret"]
    assert post_yaml(call, file).status_code == 201
    config = call("GET", "/plugin-settings?route=example-api").json()["items"][0]["config"]
    assert config.keys() == {"secret"}
    assert "your-jwt-secret" not in config["secret"]


def test_every_fault_of_a_file_is_told_where_it_was_written(call):
    broken = FILE.replace("1m", "soon").replace("http://localhost:3000", "localhost").replace("x-token", "x token")
    answer = post_yaml(call, broken)
    assert answer.status_code == 422
    assert {pointer for pointer, _ in faults(answer)} == {
        "/routes/0/targets/0/url", "/routes/0/auth/key_names/0", "/routes/0/rate_limit/window",
    }  # fmt: skip
    assert call("GET", "/upstreams").json()["items"] == []


def test_one_route_may_come_alone_and_as_json(call):
    answer = call("POST", "/routes", examples.ROUTE_WHOLE)
    assert answer.status_code == 201, answer.content
    assert call("GET", answer["Location"]).json() == answer.json()
    again = call("POST", "/routes", examples.ROUTE_WHOLE)
    assert again.status_code == 409
    assert [pointer for pointer, _ in faults(again)] == ["/targets", "/name"]


def test_yaml_that_is_none_is_400(call):
    for text in ("a: [", "a: 1\na: 2", "a: &x [1]\nb: *x", "a: !!python/object:os.system {}", "[" * 5000):
        answer = post_yaml(call, text)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), text
    assert call("POST", "/upstreams", "a: 1", content_type="application/yaml").status_code == 415


def test_two_hundred_routes_in_bulk_are_one_version(call, django_assert_max_num_queries):
    upstream = {"op": "create", "resource": "upstreams", "value": examples.UPSTREAM}
    routes = [
        {
            "op": "create",
            "resource": "routes",
            "value": {"name": f"r{i}", "paths": [f"/r{i}/*"], "upstreams": [{"name": "users"}]},
        }
        for i in range(200)
    ]
    began = perf_counter()
    with django_assert_max_num_queries(450):
        answer = call("POST", "/bulk", {"operations": [upstream, *routes], "comment": "All of them."})
    took_s = perf_counter() - began
    assert answer.status_code == 200, answer.content
    assert answer["X-Config-Version"] == "1"
    assert len(answer.json()["results"]) == 201
    live = call("GET", "/versions/live").json()
    assert (len(live["document"]["routes"]), live["comment"]) == (200, "All of them.")
    assert took_s < (1 if ALONE else 3)


def test_a_bulk_change_happens_whole_or_not_at_all(call):
    assert call("POST", "/bulk", examples.BULK).status_code == 200
    operations = [
        {"op": "update", "resource": "routes", "ref": "users", "value": {"priority": 3}},
        {"op": "delete", "resource": "upstreams", "ref": "users"},
        {"op": "update", "resource": "routes", "ref": "gone", "value": {}},
        {"op": "create", "resource": "routes", "value": {"name": "a b"}},
    ]
    answer = call("POST", "/bulk", {"operations": operations})
    assert answer.status_code == 422
    assert [pointer for pointer, _ in faults(answer)] == [
        "/operations/3/value/name", "/operations/1", "/operations/2/ref",
    ]  # fmt: skip
    assert call("GET", "/routes/users").json()["priority"] == 0
    operations = [
        {"op": "delete", "resource": "routes", "ref": "users"},
        {"op": "delete", "resource": "upstreams", "ref": "users"},
    ]
    answer = call("POST", "/bulk", {"operations": operations})
    assert (answer.status_code, answer["X-Config-Version"]) == (200, "2")


def test_a_bulk_change_of_what_changed_meanwhile_is_412(call):
    call("POST", "/bulk", examples.BULK)
    operation = {"op": "update", "resource": "routes", "ref": "users", "value": {"priority": 3}}
    seen = call("GET", "/routes/users")["ETag"]
    assert call("POST", "/bulk", {"operations": [operation | {"if_match": seen}]}).status_code == 200
    assert call("POST", "/bulk", {"operations": [operation | {"if_match": seen}]}).status_code == 412


def test_a_bulk_change_needs_the_permission_of_each_operation(clerk, call_as):
    limited = call_as(clerk("routes.add_upstream", "routes.add_route"), "write")
    answer = limited("POST", "/bulk", examples.BULK)
    assert answer.status_code == 403
    assert answer.json()["detail"] == "You lack the permission routes.add_pluginsetting."
    assert limited("POST", "/routes", examples.ROUTE_WHOLE).status_code == 403


def test_settings_of_a_whole_route_may_be_for_some_requests_only(call):
    when = {"methods": ["post"], "groups": ["gold"]}
    limit = {"name": "request-size-limiting", "config": {"allowed_payload_size": 1}, "when": when, "dry_run": True}
    whole = examples.ROUTE_WHOLE | {"plugins": [limit]}
    assert call("POST", "/routes", whole).status_code == 201
    [row] = call("GET", "/plugin-settings?name=request-size-limiting").json()["items"]
    assert row["when"] == {"methods": ["POST"], "groups": ["gold"]}
    assert row["dry_run"] is True
    [branch] = call("POST", "/explain", {"path": "/api/v1/x"}).json()["branches"]
    assert {plugin["name"]: plugin["dry_run"] for plugin in branch["plugins"]}["request-size-limiting"] is True
    wrong = whole | {"name": "other", "path": "/other", "plugins": [limit | {"when": {"methods": ["G T"]}}]}
    answer = call("POST", "/routes", wrong)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/plugins/0/when"
