"""Versions, the whole configuration as a document, plugins, explain."""

from __future__ import annotations

import pytest
import yaml

from routes import selectors
from routes.api import examples


@pytest.fixture
def two_versions(call):
    assert call("POST", "/bulk", examples.BULK)["X-Config-Version"] == "1"
    assert call("PATCH", "/routes/users", {"priority": 3})["X-Config-Version"] == "2"


def test_versions_are_listed_shown_and_compared(call, two_versions):
    items = call("GET", "/versions").json()["items"]
    assert [(item["number"], item["live"], item["parent"]) for item in items] == [(2, True, 1), (1, False, None)]
    assert call("GET", "/versions/1").json()["document"] == selectors.document_of(1)
    diff = call("GET", "/versions/2/diff").json()
    assert (diff["number"], diff["against"], diff["lines"]) == (2, 1, ['~ routes["users"]: priority'])
    assert diff["changes"][0]["fields"] == {"priority": {"before": 0, "after": 3}}
    assert len(call("GET", "/versions/1/diff").json()["lines"]) == 3
    assert call("GET", "/versions/1/diff?against=live").json()["changes"][0]["fields"] == {
        "priority": {"before": 3, "after": 0}
    }
    assert call("GET", "/versions/9").status_code == 404


def test_an_old_version_is_published_again(call, two_versions):
    answer = call("POST", "/versions/1/rollback", {"comment": "Too early."})
    assert answer.status_code == 200, answer.content
    assert (answer["X-Config-Version"], answer.json()["comment"]) == ("3", "Too early.")
    assert call("GET", "/routes/users").json()["priority"] == 0


def test_a_rollback_without_a_body_says_itself_why(call, two_versions):
    assert call("POST", "/versions/1/rollback").json()["comment"] == "Back to version 1."


def test_waiting_tells_how_many_workers_serve_it(call, db):
    answer = call("POST", "/upstreams?wait=1", {"name": "users"})
    assert answer["X-Config-Applied"] == "0/0"
    selectors.report_applied(node="n", worker=0, pid=1, role="all", number=2, apply_ms=1.0)
    answer = call("PATCH", "/upstreams/users?wait=1", {"retries": 2})
    assert (answer["X-Config-Version"], answer["X-Config-Applied"]) == ("2", "1/1")
    assert call("PATCH", "/upstreams/users?wait=soon", {}).status_code == 400


@pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
def test_what_was_exported_can_be_imported(call, two_versions, kind):
    exported = call("GET", "/config", headers={"Accept": kind})
    assert exported["Content-Type"] == kind
    text = exported.content.decode()
    dry = call("POST", "/config?dry_run=1", text.replace("minute: 100", "minute: 7"), content_type=kind)
    assert dry.json() == {
        "version": None,
        "differences": [] if kind.endswith("json") else ['~ plugins["rate-limiting route=users"]: config'],
    }
    call("DELETE", "/routes/users")
    answer = call("POST", "/config?comment=Back", text, content_type=kind)
    assert answer.status_code == 200, answer.content
    assert answer.json() == {
        "version": 4, "differences": ['+ routes["users"]', '+ plugins["rate-limiting route=users"]'],
    }  # fmt: skip
    assert yaml.safe_load(call("GET", "/config", headers={"Accept": kind}).content) == yaml.safe_load(text)


def test_a_document_that_is_not_sound_is_told_with_pointers(call, two_versions):
    body = {"format": 1, "routes": [{"name": "x", "paths": ["/a", "b"], "upstreams": [{"name": "gone"}]}]}
    answer = call("POST", "/config", body)
    assert answer.status_code == 422
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {
        "/routes/0/paths/1",
        "/routes/0/upstreams/0/name",
    }


def test_the_catalogue_has_every_plugin_with_its_schema(call):
    items = call("GET", "/plugins").json()["items"]
    assert [item["position"] for item in items] == list(range(len(items)))
    key_auth = next(item for item in items if item["name"] == "key-auth")
    assert key_auth["description"] == "lets in who shows a valid API key, and says who it is."
    assert (key_auth["phases"], key_auth["identifies"]) == (["access"], True)
    assert "key_names" in key_auth["schema"]["properties"]
    assert call("GET", "/plugins/key-auth").json() == key_auth
    assert call("GET", "/plugins/nonsense").status_code == 404


def test_explain_names_the_route_its_plugins_and_targets(call):
    call("POST", "/routes", examples.ROUTE_WHOLE)
    said = call("POST", "/explain", {"path": "/api/v1/%75sers?x=1", "method": "get"}).json()
    assert (said["route"], said["normalised_path"], said["error"]) == ("example-api", "/api/v1/users", "")
    (branch,) = said["branches"]
    assert [plugin["name"] for plugin in branch["plugins"]] == ["key-auth", "rate-limiting"]
    assert [target["address"] for target in branch["targets"]] == ["localhost:3000"]
    assert branch["upstream_path"] == "/api/v1/%75sers"


def test_explain_says_why_not_and_what_would(call):
    call("POST", "/routes", examples.ROUTE_WHOLE | {"hosts": ["a.example.com"]})
    said = call("POST", "/explain", {"path": "/api/v1/x", "method": "DELETE", "host": "a.example.com"}).json()
    assert (said["route"], said["error"]) == (None, "no_route")
    assert said["near_misses"] == [{"route": "example-api", "reason": "It differs in the method: it takes GET, POST."}]
    said = call("POST", "/explain", {"path": "/api/v1/x", "host": "b.example.com:80"}).json()
    assert said["near_misses"] == [
        {"route": "example-api", "reason": "It differs in the host: it takes a.example.com."}
    ]
    assert call("POST", "/explain", {"path": "/a%00"}).json()["error"] == "bad_path"


def test_explain_as_a_consumer_shows_the_consumers_own_settings(call):
    from keys.models import Consumer

    Consumer.objects.create(username="alice")
    call("POST", "/routes", examples.ROUTE_WHOLE)
    body = {"name": "rate-limiting", "consumer": "alice", "route": "example-api", "config": {"hour": 5}}
    assert call("POST", "/plugin-settings", body).status_code == 201
    for consumer, scope in (("alice", "route_consumer"), ("", "route")):
        said = call("POST", "/explain", {"path": "/api/v1/x", "consumer": consumer}).json()
        assert said["branches"][0]["plugins"][1]["scope"] == scope
    assert call("POST", "/explain", {"consumer": "nobody"}).status_code == 409


def test_explain_says_whether_a_setting_is_for_the_request(call):
    from keys.models import Consumer

    Consumer.objects.create(username="alice", groups=["gold"])
    call("POST", "/routes", examples.ROUTE_WHOLE)
    when = {"methods": ["GET"], "groups": ["gold"], "headers": {"x-beta": "^1$"}, "networks": ["10.0.0.0/8"]}
    setting = {"name": "request-size-limiting", "config": {"allowed_payload_size": 1}, "when": when}
    assert call("POST", "/plugin-settings", setting | {"when": when | {"groups": []}}).status_code == 201

    def applies(**more):
        asked = {"path": "/api/v1/x", "headers": {"X-Beta": "1"}, "client_ip": "10.0.0.7", **more}
        plugins = call("POST", "/explain", asked).json()["branches"][0]["plugins"]
        found = {plugin["name"]: plugin for plugin in plugins}
        assert found["key-auth"]["applies"] is True
        assert found["key-auth"]["when"] == {}
        assert found["request-size-limiting"]["when"]["networks"] == ["10.0.0.0/8"]
        return found["request-size-limiting"]["applies"]

    assert applies() is True
    assert applies(client_ip="") is None
    assert applies(client_ip="192.0.2.1") is False
    assert applies(headers={}, client_ip="") is False
    assert applies(method="POST") is False
    place = f"/plugin-settings/{call('GET', '/plugin-settings?name=request-size-limiting').json()['items'][0]['id']}"
    assert call("PATCH", place, {"when": when}).status_code == 200
    assert (applies(), applies(consumer="alice")) == (False, True)
