from __future__ import annotations

from typing import Any

import pytest

from gateway.proxy.snapshot import (
    BreakerPolicy,
    CarePolicy,
    EjectPolicy,
    FieldCondition,
    HashPolicy,
    ProbePolicy,
    StickyPolicy,
    TargetSpec,
    WeightedUpstream,
    When,
)
from routes.compile import CompileError, upstreams_of
from routes.compile import compile as compile_document
from routes.document import PluginEntry


def upstream(name: str = "users", **more: Any) -> dict[str, Any]:
    return {"name": name, "targets": [{"host": "10.0.0.1", "port": 80}], **more}


def route(name: str = "users", **more: Any) -> dict[str, Any]:
    return {"name": name, "upstreams": [{"name": "users"}], **more}


def document(routes: list[Any] = (), plugins: list[Any] = (), upstreams: list[Any] | None = None) -> dict[str, Any]:
    upstreams = [upstream()] if upstreams is None else upstreams
    return {"format": 1, "upstreams": upstreams, "routes": list(routes), "plugins": list(plugins)}


def problems(wanted: object, registry: Any) -> list[str]:
    with pytest.raises(CompileError) as caught:
        compile_document(wanted, registry)
    return [str(problem) for problem in caught.value.problems]


def test_every_field_reaches_the_snapshot(registry):
    wanted = document(
        [
            route(
                id=7,
                hosts=["API.example.com", "*.example.org"],
                paths=["/users/{id}/*"],
                methods=["get"],
                header_conditions={"X-Version": ["2"]},
                query_conditions={"debug": []},
                path_rewrite="/v2/{id}/*",
                priority=5,
                max_body_bytes=10,
                preserve_host=True,
                tags=["a"],
            )
        ],
        [{"name": "quota", "route": "users", "config": {"windows": [{"seconds": 1, "limit": 2}]}, "id": 9}],
        [upstream(id=3, connect_timeout_ms=1500, targets=[{"id": 4, "host": "::1", "port": 80, "weight": 0}])],
    )
    snapshot = compile_document(wanted, registry, version=12)
    assert snapshot.version == 12
    assert len(snapshot.digest) == 64
    assert snapshot.upstreams["users"].connect_timeout_s == 1.5
    assert snapshot.upstreams["users"].targets == (TargetSpec(4, "::1", 80, 0),)
    (spec,) = snapshot.routes
    assert (spec.id, spec.hosts, spec.paths) == (7, ("api.example.com", "*.example.org"), ("/users/{id}/*",))
    assert (spec.methods, spec.priority, spec.max_body_bytes) == (frozenset({"GET"}), 5, 10)
    assert spec.headers == (FieldCondition("x-version", ("2",)),)
    assert spec.query == (FieldCondition("debug", ()),)
    assert spec.upstreams == (WeightedUpstream("users", 100),)
    assert (spec.path_rewrite, spec.strip_path, spec.preserve_host, spec.tags) == ("/v2/{id}/*", False, True, ("a",))
    (setting,) = snapshot.plugins
    assert (setting.id, setting.scope, setting.route, setting.config.windows[0].limit) == (9, "route", "users", 2)


def test_an_empty_document_is_an_empty_snapshot(registry):
    assert compile_document({"format": 1}, registry).routes == ()


def test_every_problem_is_named_at_once(registry):
    wanted = document(
        [
            route("a", paths=["users", "/x/*/y"], hosts=["http://x"], methods=["G T"], priority="1"),
            route("b", paths=["/b"], upstreams=[{"name": "nowhere"}]),
            route("c", paths=["/c"], upstreams=[]),
            route("d", paths=["/d/{id}"], path_rewrite="/{name}"),
        ],
        [
            {"name": "quota", "config": {"windows": [{"seconds": 0}], "burst": 1}},
            {"name": "gone"},
            {"name": "stamp", "route": "missing"},
        ],
        [upstream(retries=99, targets=[{"host": "10.0.0.1", "port": 80}, {"host": "x y"}]), "text"],
    )
    found = problems(wanted, registry)
    wheres = [problem.split(": ")[0] for problem in found]
    assert wheres == [
        'upstreams["users"].retries',
        'upstreams["users"].targets["x y:0"].host',
        'upstreams["1"]',
        'routes["a"].hosts[0]',
        'routes["a"].paths[0]',
        'routes["a"].paths[1]',
        'routes["a"].methods[0]',
        'routes["a"].priority',
        'routes["d"].path_rewrite',
        'routes["b"].upstreams["nowhere"].name',
        'routes["c"].upstreams',
        'plugins["stamp route=missing"].route',
        'plugins["quota"].config.windows[0].seconds',
        'plugins["quota"].config.windows[0].limit',
        'plugins["quota"].config.burst',
        'plugins["gone"].name',
    ]


def test_a_pointer_leads_to_the_very_value(registry):
    wanted = document([route(paths=["/fine", "bad"])], upstreams=[upstream(targets=[{"host": "a", "port": 0}])])
    with pytest.raises(CompileError) as caught:
        compile_document(wanted, registry)
    assert [problem.pointer for problem in caught.value.problems] == [
        "/upstreams/0/targets/0/port",
        "/routes/0/paths/1",
    ]


PROBE = {
    "probe": "http", "probe_path": "/up?deep=1", "probe_host": "Users.test:8080", "probe_interval_ms": 1500,
    "probe_statuses": "401, 200-299", "probe_body": "well",
}  # fmt: skip


def test_health_reaches_the_snapshot(registry):
    wanted = document(upstreams=[upstream(**PROBE, eject_after=3, eject_max_percent=25)])
    spec = compile_document(wanted, registry).upstreams["users"]
    assert spec.eject == EjectPolicy(3, 10.0, 300.0, 0.25)
    assert spec.probe == ProbePolicy(
        "http", "/up?deep=1", "users.test:8080", 1.5, 2.0, 2, 3, ((200, 299), (401, 401)), b"well"
    )
    assert upstreams_of({**wanted, "plugins": [{"name": "gone from here"}]}) == {"users": spec}
    assert compile_document(document(upstreams=[upstream()]), registry).upstreams["users"].probe is None


def test_balancing_reaches_the_snapshot(registry):
    def spec_of(**fields):
        return compile_document(document(upstreams=[upstream(**fields)]), registry).upstreams["users"]

    assert (spec_of().hashing, spec_of().sticky, spec_of().slow_start_s) == (HashPolicy(), None, 0.0)
    hashed = spec_of(balancing="consistent-hashing", hash_on="header", hash_on_header="X-User", slow_start_ms=1500)
    assert (hashed.balancing, hashed.hashing) == ("consistent-hashing", HashPolicy("header", b"x-user"))
    assert hashed.slow_start_s == 1.5
    assert spec_of(balancing="consistent-hashing", hash_on="cookie", hash_on_cookie="Sid").hashing.name == b"Sid"
    cookie = {"sticky_max_age_s": 60, "sticky_path": "/a", "sticky_secure": True, "sticky_http_only": False}
    sticky = spec_of(sticky_cookie="node", sticky_same_site="none", **cookie).sticky
    assert sticky == StickyPolicy(b"node", 60, "/a", True, False, "none")
    ejecting = spec_of(eject_on=["timeout", "connect"], eject_statuses="429,500-501", probe="tcp")
    assert (ejecting.eject.on, ejecting.eject.statuses) == ({"connect", "timeout"}, {429, 500, 501})
    assert spec_of(probe="tcp", probe_down_interval_ms=500).probe.down_interval_s == 0.5


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"balancing": "fastest"}, "balancing", "round-robin"),
        ({"balancing": "consistent-hashing", "hash_on": "header"}, "hash_on_header", "name the header"),
        ({"balancing": "consistent-hashing", "hash_on": "cookie"}, "hash_on_cookie", "name the cookie"),
        ({"hash_on_header": "a b"}, "hash_on_header", "not the name of a header"),
        ({"sticky_cookie": "a;b"}, "sticky_cookie", "not the name of a cookie"),
        ({"sticky_cookie": "a", "sticky_path": "/a; Secure"}, "sticky_path", "begins with /"),
        ({"sticky_cookie": "a", "sticky_same_site": "none"}, "sticky_same_site", "set sticky_secure"),
        ({"eject_statuses": "200-599"}, "eject_statuses", "below 400"),
        ({"eject_on": ["weather"]}, "eject_on", "broken"),
        ({"slow_start_ms": -1}, "slow_start_ms", "0"),
    ],
)
def test_balancing_that_cannot_be_is_refused(registry, fields, field, said):
    (problem,) = problems(document(upstreams=[upstream(**fields)]), registry)
    assert problem.startswith(f'upstreams["users"].{field}')
    assert said in problem


def test_care_reaches_the_snapshot_and_is_none_where_nothing_is_asked_for(registry):
    def care_of(**fields):
        return compile_document(document(upstreams=[upstream(**fields)]), registry).upstreams["users"].care

    assert care_of() is None
    assert care_of(breaker_min_requests=5, queue_timeout_ms=1, retry_backoff_ms=1) is None
    assert care_of(retry_statuses=[503, 502, 503]) == CarePolicy(retry_statuses=frozenset({502, 503}))
    assert care_of(max_concurrency=5, max_queue=2) == CarePolicy(max_concurrency=5, max_queue=2)
    assert care_of(breaker_error_percent=50) == CarePolicy(breaker=BreakerPolicy(0.5, 0.0, 0.5, 20, 10.0, 10.0))
    assert care_of(hedge_after_ms=30, retry_budget_percent=5) == CarePolicy(hedge_s=0.03, budget_share=0.05)
    assert care_of(
        retry_on_timeout=True, retry_all_methods=True, retry_body_bytes=10, retry_backoff_ms=0
    ) == CarePolicy(retry_on_timeout=True, retry_all=True, body_bytes=10, backoff_s=0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("breaker_error_percent", 101), ("breaker_slow_percent", 0), ("max_queue", 5), ("retry_statuses", "x"),
        ("retry_body_bytes", 1 << 30), ("probe", "ping"), ("probe_path", "up"), ("probe_path", "/a b"), ("probe_host", "http://x"),
        ("probe_host", "*.x"), ("probe_host", "x:0"), ("probe_host", "x:70000"), ("probe_statuses", ""),
        ("probe_statuses", "299-200"), ("probe_statuses", "2xx"), ("probe_interval_ms", 99), ("probe_timeout_ms", 0),
        ("probe_healthy_after", 0), ("probe_body", "x" * 201), ("eject_after", -1), ("eject_base_ms", 1),
        ("eject_max_ms", 9_999), ("eject_max_percent", 101),
    ],
)  # fmt: skip
def test_what_is_wrong_about_health_is_named_at_its_field(field, value, registry):
    (problem,) = problems(document(upstreams=[upstream(**{field: value})]), registry)
    assert problem.startswith(f'upstreams["users"].{field}: ')


def test_a_first_ejection_longer_than_the_longest_is_refused(registry):
    (problem,) = problems(document(upstreams=[upstream(eject_base_ms=600_000)]), registry)
    assert problem.startswith('upstreams["users"].eject_max_ms: At most is less than at first')


@pytest.mark.parametrize("wanted", [None, [], "text", {}, {"format": 2}, {"format": True}, {"format": 1, "routes": {}}])
def test_what_is_no_document_is_refused(wanted, registry):
    assert problems(wanted, registry)


def test_unknown_sections_and_fields_are_refused(registry):
    assert problems({"format": 1, "services": []}, registry) == [
        "services: Unknown; a configuration has upstreams, routes, plugins."
    ]
    assert problems(document([route(path="/x")]), registry) == ['routes["users"].path: Extra inputs are not permitted']


@pytest.mark.parametrize("host", ["http://a", "a:80", "*", "a.*", "-a", "", "ä.de", "[::1", "a/b", "*.*.a"])
def test_bad_route_hosts(host, registry):
    assert problems(document([route(hosts=[host])]), registry)[0].startswith('routes["users"].hosts[0]: ')


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ({"host": "API.internal", "port": 80}, "api.internal:80"),
        ({"host": "[2001:DB8::1]", "port": 80}, "[2001:db8::1]:80"),
        ({"host": "unix:/run/app.sock"}, "unix:/run/app.sock"),
    ],
)
def test_targets_in_normal_form(target, address, registry):
    snapshot = compile_document(document(upstreams=[upstream(targets=[target])]), registry)
    assert snapshot.upstreams["users"].targets[0].address == address


@pytest.mark.parametrize(
    "target",
    [
        {"host": "a"},
        {"host": "unix:/run/x", "port": 1},
        {"host": "unix:run/x"},
        {"host": "unix:/" + "x" * 107},
        {"host": "a:80", "port": 80},
        {"host": "a", "port": 65536},
        {"host": "a", "port": "80"},
    ],
)
def test_bad_targets(target, registry):
    assert len(problems(document(upstreams=[upstream(targets=[target])]), registry)) == 1


def test_names_and_addresses_are_unique(registry):
    twice = [{"host": "::1", "port": 80}, {"host": "0:0::1", "port": 80}]
    wanted = document(upstreams=[upstream(targets=twice), upstream()])
    assert problems(wanted, registry) == [
        'upstreams["users"].name: The name is there twice.',
        'upstreams["users"].targets["[::1]:80"]: The same address is there twice.',
    ]


def test_a_reference_to_an_unsound_upstream_is_no_further_problem(registry):
    found = problems(document([route()], upstreams=[upstream(retries=-1)]), registry)
    assert [problem.split(":")[0] for problem in found] == ['upstreams["users"].retries']


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"paths": ["/a/{id}"]}, {"paths": ["/a/{name}"]}),
        ({"hosts": ["a.de", "b.de"], "paths": ["/x"]}, {"hosts": ["b.de"], "paths": ["/y", "/x"]}),
        ({"methods": ["GET", "POST"]}, {"methods": ["post", "get"]}),
        ({"header_conditions": {"X-A": ["1", "2"]}}, {"header_conditions": {"x-a": ["2", "1"]}}),
    ],
)
def test_two_routes_with_the_same_match_are_refused(one, other, registry):
    assert problems(document([route("one", **one), route("other", **other)]), registry) == [
        "routes[\"other\"]: Matches the same requests as route 'one'. Give one of them another priority."
    ]


@pytest.mark.parametrize(
    "difference",
    [
        {"priority": 1},
        {"enabled": False},
        {"paths": ["/x"]},
        {"hosts": ["a.de"]},
        {"methods": ["GET"]},
        {"header_conditions": {"a": []}},
        {"query_conditions": {"a": []}},
    ],
)
def test_routes_that_differ_in_any_condition_live_together(difference, registry):
    wanted = document([route("one"), route("other", **difference)])
    assert len(compile_document(wanted, registry).routes) == (1 if "enabled" in difference else 2)


def test_disabled_things_are_left_out_and_checked_less(registry):
    wanted = document(
        [route("off", enabled=False, upstreams=[])],
        [
            {"name": "gone", "enabled": False, "config": {"x": 1}},
            {"name": "stamp", "route": "off"},
            {"name": "stamp", "upstream": "users"},
        ],
        [upstream(targets=[{"host": "a", "port": 1, "enabled": False}])],
    )
    snapshot = compile_document(wanted, registry)
    assert snapshot.routes == ()
    assert [setting.scope for setting in snapshot.plugins] == ["upstream"]
    assert snapshot.upstreams["users"].targets == ()


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ({}, "global"),
        ({"route": "users"}, "route"),
        ({"upstream": "users"}, "upstream"),
        ({"consumer": "alice", "consumer_id": 5}, "consumer"),
        ({"route": "users", "consumer": "alice", "consumer_id": 5}, "route_consumer"),
        ({"upstream": "users", "consumer": "alice", "consumer_id": 5}, "upstream_consumer"),
    ],
)
def test_scopes(scope, name, registry):
    setting = {"name": "quota", "config": {"windows": [{"seconds": 1, "limit": 1}]}, **scope}
    (spec,) = compile_document(document([route()], [setting]), registry).plugins
    assert (spec.scope, spec.consumer_id) == (name, scope.get("consumer_id", 0))


KEY = "stamp route=users upstream=users"


def test_a_setting_is_not_for_a_route_and_an_upstream(registry):
    found = problems(document([route()], [{"name": "stamp", "route": "users", "upstream": "users"}]), registry)
    assert found == [f'plugins["{KEY}"].upstream: A setting is for a route or for an upstream, not for both.']


@pytest.mark.parametrize("name", ["stamp", "badge"])
def test_plugins_that_run_before_the_consumer_is_known_cannot_differ_by_consumer(name, registry):
    found = problems(document(plugins=[{"name": name, "consumer": "alice", "consumer_id": 5}]), registry)
    message = f"{name} runs before the consumer is known, so it cannot differ by consumer."
    assert found == [f'plugins["{name} consumer=alice"].consumer: {message}']


def test_one_setting_for_each_scope(registry):
    found = problems(document(plugins=[{"name": "stamp"}, {"name": "stamp"}]), registry)
    assert found == ['plugins["stamp"]: A setting of this plugin with this scope is there twice.']


@pytest.mark.parametrize("value", [float("nan"), "a\x00b", "\ud800"])
def test_a_config_that_cannot_be_stored_is_refused(value, registry):
    assert len(problems(document(plugins=[{"name": "gone", "enabled": False, "config": {"x": value}}]), registry)) == 1


def test_strip_and_rewrite_exclude_each_other(registry):
    found = problems(document([route(paths=["/a/*"], strip_path=True, path_rewrite="/b")]), registry)
    assert found == ['routes["users"].path_rewrite: Strip the path or rewrite it, not both.']


def test_a_transport_reaches_the_snapshot(registry):
    wanted = document(upstreams=[upstream(transport="httpx", http2=True)])
    spec = compile_document(wanted, registry).upstreams["users"]
    assert (spec.transport, spec.http2) == ("httpx", True)
    spec = compile_document(document(), registry).upstreams["users"]
    assert (spec.transport, spec.http2) == ("native", False)


@pytest.mark.parametrize("transport", [{}, {"transport": "native"}])
def test_http2_needs_a_transport_that_speaks_it(registry, transport):
    (problem,) = problems(document(upstreams=[upstream(http2=True, **transport)]), registry)
    assert problem.startswith('upstreams["users"].http2: The native transport speaks HTTP/1.1 only.')


def test_when_is_put_into_normal_form_and_reaches_the_plugin(registry):
    when = {"methods": ["post"], "headers": {"X-Beta": "^yes$"}, "networks": ["10.0.0.0/8"], "paths": ["/a/*"]}
    setting = {"name": "quota", "config": {"windows": [{"seconds": 1, "limit": 1}]}, "when": {**when, "groups": []}}
    (spec,) = compile_document(document(plugins=[setting]), registry).plugins
    assert spec.when == When(frozenset({"POST"}), (("x-beta", "^yes$"),), frozenset(), ("10.0.0.0/8",), ("/a/*",))
    assert PluginEntry(name="quota", when=when).when["methods"] == ["POST"]


@pytest.mark.parametrize("when", [{}, {"methods": []}, {"headers": {}, "groups": []}])
def test_a_when_that_says_nothing_is_none(when, registry):
    setting = {"name": "quota", "config": {"windows": [{"seconds": 1, "limit": 1}]}, "when": when}
    assert compile_document(document(plugins=[setting]), registry).plugins[0].when is None


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"methods": ["G T"]}, "methods.0: 'G T' is not a request method."),
        ({"headers": {"x a": ""}}, "headers: 'x a' is not a header name."),
        ({"headers": {"X-A": "", "x-a": ""}}, "headers: 'x-a' is there twice"),
        ({"headers": {"x-a": "("}}, "headers: '(' is not a regular expression RE2 accepts"),
        ({"networks": ["10.0.0.1/8"]}, "networks.0: '10.0.0.1/8' is no network such as 10.0.0.0/8"),
        ({"groups": ["a b"]}, "groups.0: 'a b' is not the name of a group"),
        ({"paths": ["users"]}, "paths.0: 'users' must start with '/'"),
        ({"path": ["/users"]}, "path: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_in_when_is_said_with_its_place(when, message, registry):
    setting = {"name": "quota", "config": {"windows": [{"seconds": 1, "limit": 1}]}, "when": when}
    [found] = problems(document(plugins=[setting]), registry)
    assert found.startswith(f'plugins["quota"].when: {message}')


def test_a_dry_run_reaches_the_plugin_if_it_can_refuse_anything(registry):
    setting = {"name": "quota", "config": {"windows": [{"seconds": 1, "limit": 1}]}, "dry_run": True}
    assert compile_document(document(plugins=[setting]), registry).plugins[0].dry_run
    assert not compile_document(document(plugins=[setting | {"dry_run": False}]), registry).plugins[0].dry_run
    found = problems(document(plugins=[{"name": "stamp", "dry_run": True}]), registry)
    assert found == ['plugins["stamp"].dry_run: stamp refuses nobody, so there is no dry run of it.']
    compile_document(document(plugins=[{"name": "stamp", "dry_run": True, "enabled": False}]), registry)


@pytest.mark.parametrize("name", ["stamp", "badge"])
def test_plugins_that_run_before_the_consumer_is_known_cannot_differ_by_groups(name, registry):
    found = problems(document(plugins=[{"name": name, "when": {"groups": ["gold"]}}]), registry)
    message = f"{name} runs before the consumer is known, so it cannot differ by groups."
    assert found == [f'plugins["{name}"].when: {message}']
