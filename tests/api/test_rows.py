"""Upstreams, targets, routes and plugin settings: create, read, change, delete, each one version."""

from __future__ import annotations

import pytest

from gateway.proxy.discovery import Discovered
from gateway.proxy.sightings import Sighting
from routes import health

UPSTREAM = {"name": "users", "targets": [{"host": "10.0.0.1", "port": 80}, {"host": "10.0.0.2", "port": 80}]}
ROUTE = {"name": "users", "paths": ["/users/*"], "upstreams": [{"name": "users"}]}


def made(call, path, body):
    answer = call("POST", path, body)
    assert answer.status_code == 201, answer.content
    return answer


@pytest.fixture
def users(call):
    made(call, "/upstreams", UPSTREAM)
    return made(call, "/routes", ROUTE).json()


def faults(answer):
    return [(fault["pointer"], fault["detail"]) for fault in answer.json()["errors"]]


def test_a_created_upstream_is_live_as_one_version(call):
    answer = made(call, "/upstreams", UPSTREAM)
    shown = answer.json()
    assert answer["X-Config-Version"] == "1"
    assert answer["Location"] == f"/admin/v1/upstreams/{shown['id']}"
    assert [target["address"] for target in shown["targets"]] == ["10.0.0.1:80", "10.0.0.2:80"]
    live = call("GET", "/versions/live").json()
    assert (live["author"], live["source"], live["comment"]) == ("admin", "api", "Added upstream users.")
    again = call("GET", "/upstreams/users")
    assert (again.json(), again["ETag"]) == (shown, answer["ETag"])
    assert call("GET", f"/upstreams/{shown['id']}").json() == shown


def test_every_fault_is_named_at_once(call):
    answer = call(
        "POST",
        "/upstreams",
        {"name": "a b", "retries": "3", "colour": "red", "targets": [{"host": "x/y", "port": 80}, {"port": 1}]},
    )
    assert answer.status_code == 422
    assert [pointer for pointer, _ in faults(answer)] == [
        "/name", "/retries", "/targets/0/host", "/targets/1/host", "/colour",
    ]  # fmt: skip
    assert call("GET", "/versions").json()["items"] == []


def test_a_name_that_is_taken_is_a_conflict(call, users):
    answer = call("POST", "/upstreams", UPSTREAM)
    assert (answer.status_code, faults(answer)) == (409, [("/name", "The name 'users' is taken.")])


def test_what_the_configuration_as_a_whole_refuses_is_told_at_its_place(call, users):
    answer = call("POST", "/routes", {"name": "twin", "paths": ["/users/*"], "upstreams": [{"name": "users"}]})
    assert answer.status_code == 409
    assert faults(answer) == [
        ("", "routes[\"users\"]: Matches the same requests as route 'twin'. Give one of them another priority.")
    ]
    answer = call("POST", "/routes", {"name": "lost", "upstreams": [{"name": "users"}, {"name": "gone"}]})
    assert (answer.status_code, faults(answer)) == (
        409,
        [("/upstreams/1/name", "There is no upstream 'gone'.")],
    )
    answer = call("POST", "/routes", {"name": "nowhere", "paths": ["/nowhere"]})
    assert faults(answer) == [("/upstreams", "The route leads nowhere: give it an upstream.")]


def test_patch_changes_only_what_it_names(call, users):
    answer = call("PATCH", "/routes/users", {"methods": ["get"], "priority": 5})
    assert answer.status_code == 200
    assert answer.json() == users | {
        "methods": ["GET"], "priority": 5, "updated_at": answer.json()["updated_at"],
    }  # fmt: skip
    assert answer["X-Config-Version"] == "3"


def test_put_replaces_and_what_was_read_can_be_sent_back(call, users):
    answer = call("PUT", "/routes/users", users)
    assert answer.status_code == 200
    assert answer["X-Config-Version"] == "2"  # nothing differs, so nothing was published
    answer = call("PUT", "/routes/users", {"name": "people", "upstreams": [{"name": "users"}]})
    assert (answer.json()["id"], answer.json()["paths"]) == (users["id"], [])


def test_targets_keep_their_ids_when_the_upstream_is_written(call, users):
    before = call("GET", "/upstreams/users").json()["targets"]
    answer = call("PATCH", "/upstreams/users", {"targets": [{"host": "10.0.0.2", "port": 80, "weight": 0}]})
    assert [(t["id"], t["weight"]) for t in answer.json()["targets"]] == [(before[1]["id"], 0)]


def test_a_target_is_drained_and_deleted_by_address(call, users):
    path = "/upstreams/users/targets/10.0.0.1:80"
    assert call("PATCH", path, {"weight": 0}).json()["weight"] == 0
    assert call("DELETE", path).status_code == 204
    assert call("GET", path).status_code == 404
    answer = made(call, "/upstreams/users/targets", {"host": "10.0.0.3", "port": 81})
    assert call("GET", answer["Location"]).json() == answer.json()
    answer = call("POST", "/upstreams/users/targets", {"host": "10.0.0.3", "port": 81})
    assert (answer.status_code, faults(answer)) == (409, [("", "The upstream has this target already.")])
    assert [t["address"] for t in call("GET", "/upstreams/users/targets").json()["items"]] == [
        "10.0.0.2:80", "10.0.0.3:81",
    ]  # fmt: skip


def test_an_upstream_that_routes_lead_to_stays(call, users):
    answer = call("DELETE", "/upstreams/users")
    assert (answer.status_code, faults(answer)) == (409, [("", "Routes lead to it: users.")])
    assert call("DELETE", "/routes/users").status_code == 204
    answer = call("DELETE", "/upstreams/users")
    assert (answer.status_code, answer.content, answer["X-Config-Version"]) == (204, b"", "4")


def test_a_setting_is_checked_by_its_plugin(call, users):
    body = {"name": "rate-limiting", "route": "users", "config": {"minute": 0, "by": "moon"}}
    answer = call("POST", "/plugin-settings", body)
    assert answer.status_code == 422
    assert [pointer for pointer, _ in faults(answer)] == ["/config/minute", "/config/by"]
    answer = call("POST", "/plugin-settings", {"name": "nonsense"})
    assert faults(answer)[0][0] == "/name"
    answer = made(call, "/plugin-settings", {**body, "config": {"minute": 5}})
    assert answer.json()["config"] == {"minute": 5}
    again = call("POST", "/plugin-settings", {**body, "config": {"minute": 5}})
    assert faults(again) == [("", "This plugin has a setting of this scope already.")]
    path = f"/plugin-settings/{answer.json()['id']}"
    assert call("PATCH", path, {"config": {"hour": 9}}).json()["config"] == {"hour": 9}
    assert call("PATCH", path, {"route": "gone"}).status_code == 409
    assert call("PATCH", path, {"upstream": "users"}).status_code == 422
    assert call("DELETE", path).status_code == 204


def test_a_draft_gathers_until_it_is_published(call, users, settings):
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"autopublish": False})
    answer = call("PATCH", "/routes/users", {"priority": 1})
    assert answer["X-Config-Draft"] == "waiting"
    assert "X-Config-Version" not in answer
    diff = call("GET", "/versions/draft/diff").json()
    assert diff["lines"] == ['~ routes["users"]: priority']
    answer = call("POST", "/versions/publish", {"comment": "Now."})
    assert (answer.json()["number"], answer.json()["comment"]) == (3, "Now.")


def test_the_trail_says_who_changed_what_from_what(call, users, admin):
    from django.contrib.admin.models import LogEntry

    call("PATCH", "/routes/users", {"priority": 7})
    entry = LogEntry.objects.order_by("-pk")[0]
    assert (entry.user, entry.object_repr, entry.get_change_message()) == (admin, "users", "Changed priority.")
    assert '"before": {"priority": 0}, "after": {"priority": 7}' in entry.change_message
    call("DELETE", "/routes/users")
    entry = LogEntry.objects.order_by("-pk")[0]
    assert entry.get_change_message() == "Deleted route “users”."
    assert '"paths": ["/users/*"]' in entry.change_message


def test_a_target_where_no_upstream_may_be_is_refused_at_its_field(call, users):
    forbidden = {"host": "169.254.169.254", "port": 80}
    answer = call("POST", "/upstreams", {"name": "metadata", "targets": [{"host": "10.0.0.1", "port": 80}, forbidden]})
    assert (answer.status_code, faults(answer)[0][0]) == (422, "/targets/1/host")
    answer = call("POST", "/upstreams/users/targets", forbidden)
    assert (answer.status_code, faults(answer)[0][0]) == (422, "/host")
    assert "cloud's metadata service" in faults(answer)[0][1]


def test_what_discovery_found_is_shown(call, users):
    nothing = {
        "type": "none",
        "source": "",
        "state": "none",
        "error": "",
        "refreshed_at": None,
        "nodes": 0,
        "targets": [],
    }
    assert call("GET", "/upstreams/users/discovery").json() == nothing
    answer = call("PATCH", "/upstreams/users", {"discovery": "dns", "discovery_name": "Users.test"})
    assert faults(answer) == [("/discovery_port", "discovery is dns: give the port, too.")]
    made = call("PATCH", "/upstreams/users", {"discovery": "dns", "discovery_name": "Users.test", "discovery_port": 80})
    assert (made.status_code, made.json()["discovery_name"]) == (200, "users.test")
    assert call("GET", "/upstreams/users/discovery").json()["state"] == "unknown"
    found = (("10.0.0.9", 80, 100, "users.test", 0),)
    said = Discovered("users", "dns", "users.test:80", "stale", "No answer within 10 s.", 60.0, found)
    health.report("n1", [Sighting("users", "10.0.0.9:80", "down", 60.0, 0, 0, 0, None, None)], [said])
    assert call("GET", "/upstreams/users/discovery").json() == {
        "type": "dns", "source": "users.test:80", "state": "stale", "error": "No answer within 10 s.",
        "refreshed_at": "1970-01-01T00:01:00Z", "nodes": 1,
        "targets": [{"address": "10.0.0.9:80", "weight": 100, "priority": 0, "state": "down"}],
    }  # fmt: skip
    assert call("GET", "/upstreams/nobody/discovery").status_code == 404


def test_a_source_where_nothing_may_be_asked_is_refused_at_its_field(call, users):
    for field, value in (("discovery_url", "http://169.254.169.254/x"), ("discovery_resolver", "[fe80::1]:53")):
        answer = call("PATCH", "/upstreams/users", {field: value})
        assert (answer.status_code, faults(answer)[0][0]) == (422, f"/{field}")


def test_an_upstream_that_a_setting_leads_to_stays(call, users):
    made(call, "/upstreams", {"name": "green", "targets": []})
    config = {"blue": "users", "green": "green"}
    made(call, "/plugin-settings", {"name": "traffic-split", "route": "users", "config": config})
    answer = call("DELETE", "/upstreams/green")
    assert (answer.status_code, faults(answer)) == (
        409, [("", "Plugin settings lead to it: traffic-split route=users.")],
    )  # fmt: skip
    answer = call("PATCH", "/upstreams/green", {"name": "lawn"})
    assert answer.status_code == 409
    assert "There is no upstream 'green'." in faults(answer)[0][1]
