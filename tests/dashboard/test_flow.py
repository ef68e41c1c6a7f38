from __future__ import annotations

import pytest

from dashboard.flow import example, flow
from gateway.plugins.jwt import JwtConfig
from gateway.plugins.key_auth import KeyAuthConfig
from gateway.plugins.rate_limiting import RateLimiting
from gateway.proxy.snapshot import (
    FieldCondition,
    PluginSpec,
    RouteSpec,
    Snapshot,
    TargetSpec,
    UpstreamSpec,
    WeightedUpstream,
)

ORDER = ("key-auth", "rate-limiting")
URL = "http://localhost:8080"


def upstream(name: str, *weights: int) -> UpstreamSpec:
    return UpstreamSpec(
        id=1, name=name, protocol="http", balancing="round-robin", connect_timeout_s=1, first_byte_timeout_s=1,
        idle_timeout_s=1, total_timeout_s=0, retries=1, max_connections=10,
        targets=tuple(TargetSpec(n, f"t{n}", 80, weight) for n, weight in enumerate(weights)),
    )  # fmt: skip


def route(**attributes) -> RouteSpec:
    given = {"hosts": (), "paths": ("/a/*",), "methods": frozenset(), "headers": (), "query": (), "upstreams": ()}
    return RouteSpec(id=1, name="r", **{**given, **attributes})


def limit(id_: int, scope: str, consumer_id: int = 0, **config) -> PluginSpec:
    config = RateLimiting.Config(**(config or {"minute": id_}))
    return PluginSpec(
        id_, "rate-limiting", scope, "r" if scope.startswith("route") else "",
        "u" if scope.startswith("upstream") else "", consumer_id, config,
    )  # fmt: skip


KEYS = PluginSpec(9, "key-auth", "global", "", "", 0, KeyAuthConfig())
ONE = (WeightedUpstream("u", 100),)


def drawn(*settings: PluginSpec, links=ONE, **upstreams):
    snapshot = Snapshot(1, "", {"u": upstream("u", 1), **upstreams}, (), settings)
    return flow(snapshot, route(upstreams=links), ORDER)


def test_plugins_stand_in_order_and_say_what_they_beat():
    found = drawn(limit(1, "global"), limit(2, "upstream"), limit(3, "route"), limit(4, "consumer", 7), KEYS)
    assert [step.setting.id for step in found.steps] == [9, 3]
    assert [setting.id for setting in found.steps[1].beats] == [2, 1]
    assert [setting.id for setting in found.steps[1].others] == [4]
    assert found.consumer_ids == {7}


def test_a_plugin_only_consumers_have_stands_there_too():
    found = drawn(limit(4, "route_consumer", 7), KEYS)
    assert [step.for_consumers_only for step in found.steps] == [False, True]


def test_options_given_and_defaults_are_told_apart():
    (step,) = drawn(limit(1, "global", minute=5)).steps
    assert {option.name: option.value for option in step.given} == {"minute": 5}
    assert "on_error" in {option.name for option in step.defaults}


def test_upstreams_behind_the_same_plugins_share_a_lane():
    links = (WeightedUpstream("u", 90), WeightedUpstream("v", 10))
    (lane,) = drawn(KEYS, links=links, v=upstream("v", 3, 1, 0)).lanes
    assert [(branch.upstream.name, branch.share) for branch in lane.branches] == [("u", 0.9), ("v", 0.1)]
    assert [aim.share for aim in lane.branches[1].aims] == [0.75, 0.25, 0]


def test_a_setting_of_one_upstream_makes_a_lane_of_its_own():
    links = (WeightedUpstream("u", 1), WeightedUpstream("v", 1))
    found = drawn(KEYS, limit(2, "upstream"), links=links, v=upstream("v"))
    assert [[branch.upstream.name for branch in lane.branches] for lane in found.lanes] == [["u"], ["v"]]
    assert [step.setting.name for step in found.steps] == ["key-auth"]
    assert [len(lane.steps) for lane in found.lanes] == [1, 0]


def test_a_route_without_upstreams_has_no_lanes():
    assert drawn(KEYS, links=()).lanes == ()


def test_drained_everywhere_is_no_share_and_no_error():
    (lane,) = drawn(links=(WeightedUpstream("u", 0),), u=upstream("u", 0)).lanes
    assert (lane.branches[0].share, lane.branches[0].aims[0].share) == (0, 0)


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        ({}, "curl -i http://localhost:8080/a/"),
        ({"paths": ("/users/{id}",), "methods": frozenset({"GET"})}, "curl -i http://localhost:8080/users/1"),
        ({"paths": ("~^/v[0-9]+/",)}, "curl -i http://localhost:8080/"),
        ({"methods": frozenset({"POST", "PUT"})}, "curl -i -X POST http://localhost:8080/a/"),
        ({"hosts": ("*.example.com",)}, "curl -i -H 'Host: www.example.com' http://localhost:8080/a/"),
        ({"headers": (FieldCondition("x-v", ("2",)),)}, "curl -i -H 'x-v: 2' http://localhost:8080/a/"),
        ({"query": (FieldCondition("q", ("a b",)),)}, "curl -i 'http://localhost:8080/a/?q=a+b'"),
    ],
)
def test_a_line_that_matches_the_route(attributes, line):
    assert example(flow(Snapshot(1, ""), route(**attributes), ORDER), URL) == line


def test_a_line_has_a_place_for_the_token():
    tokens = PluginSpec(9, "jwt", "route", "r", "", 0, JwtConfig(secret="a-secret-of-ours"))
    line = "curl -i -H 'Authorization: Bearer YOUR_TOKEN' http://localhost:8080/a/"
    assert example(drawn(tokens), URL) == line


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({}, "curl -i -H 'apikey: YOUR_KEY' http://localhost:8080/a/"),
        ({"key_in_header": False}, "curl -i -H 'Authorization: Bearer YOUR_KEY' http://localhost:8080/a/"),
        (
            {"key_in_header": False, "key_in_authorization": False, "key_names": ("k",)},
            "curl -i 'http://localhost:8080/a/?k=YOUR_KEY'",
        ),
    ],
)
def test_a_line_shows_where_the_key_goes(config, line):
    keys = PluginSpec(9, "key-auth", "route", "r", "", 0, KeyAuthConfig(**config))
    assert example(drawn(keys), URL) == line
