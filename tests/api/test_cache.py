"""`POST /cache/purge`: who may, what it says to Redis, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings
from django.contrib.admin.models import LogEntry

from gateway.plugins.purges import Purge, log, place
from keys.templatetags.trail import steps
from routes import purging
from tests.running import free_port

UPSTREAM = {"name": "users", "targets": [{"host": "10.0.0.1", "port": 80}]}
ROUTE = {"name": "users", "paths": ["/users/*"], "upstreams": [{"name": "users"}]}


@pytest.fixture
def client() -> Iterator[Any]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(log(place(settings.SECRET_KEY)))
        yield client
        client.delete(log(place(settings.SECRET_KEY)))


def told(client: Any) -> set[Purge]:
    return {Purge.read(text) for text in client.zrange(log(place(settings.SECRET_KEY)), 0, -1)}


@pytest.mark.parametrize(
    ("body", "purges"),
    [
        ({"urls": ["/x?a=1"]}, {Purge("url", "/x?a=1")}),
        ({"urls": ["https://A.test:8443/x"]}, {Purge("url", "/x", "a.test:8443")}),
        ({"prefixes": ["http://a.test/x"]}, {Purge("prefix", "/x", "a.test")}),
        ({"tags": ["a", "b"]}, {Purge("tag", "a"), Purge("tag", "b")}),
        ({"everything": True}, {Purge("all")}),
    ],
)
def test_what_workers_are_told(call: Any, client: Any, body: Any, purges: set[Purge]) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(place(settings.SECRET_KEY))
        channel.get_message(timeout=1)
        answer = call("POST", "/cache/purge", body)
        assert (answer.status_code, answer.json()) == (200, {"purged": len(purges)})
        heard = [channel.get_message(timeout=2) for _ in purges]
    assert {Purge.read(message["data"].partition(b" ")[2]) for message in heard} == purges
    assert told(client) == purges


def test_of_one_route(call: Any, client: Any) -> None:
    assert call("POST", "/upstreams", UPSTREAM).status_code == 201
    number = call("POST", "/routes", ROUTE).json()["id"]
    assert call("POST", "/cache/purge", {"everything": True, "route": "users"}).status_code == 200
    assert told(client) == {Purge("all", route=number)}


def test_the_trail_says_who_purged_what(call: Any, client: Any, admin: Any) -> None:
    urls = [f"/x/{number}" for number in range(60)]
    assert call("POST", "/cache/purge", {"urls": urls, "tags": ["a"]}).status_code == 200
    (entry,) = LogEntry.objects.all()
    (step,) = steps(entry)
    assert (entry.user, entry.object_repr, entry.content_type) == (admin, "kept answers", None)
    assert step.words == "Purged kept answers."
    told = {name: after for name, _, after in step.fields}
    assert told == {"urls": "\n".join([*urls[:50], "… and 10 more"]), "tags": "a"}


def test_of_one_route_it_stands_in_that_ones_history(call: Any, client: Any, admin: Any) -> None:
    call("POST", "/upstreams", UPSTREAM)
    number = call("POST", "/routes", ROUTE).json()["id"]
    LogEntry.objects.all().delete()
    assert call("POST", "/cache/purge", {"everything": True, "route": "users"}).status_code == 200
    (entry,) = LogEntry.objects.all()
    assert (entry.user, entry.object_id, entry.object_repr) == (admin, str(number), "users")
    assert [step.fields for step in steps(entry)] == [[("everything", "", "true")]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"urls": ["x"]}, 422),
        ({"urls": ["ftp://a/x"]}, 422),
        ({"urls": ["/x#y"]}, 422),
        ({"tags": ["a b"]}, 422),
        ({"tags": [""]}, 422),
        ({"tag": "a"}, 422),
        ({"everything": True, "route": "nobody"}, 409),
    ],
)
def test_what_cannot_be(call: Any, client: Any, body: Any, status: int) -> None:
    assert call("POST", "/cache/purge", body).status_code == status
    assert told(client) == set()
    assert not LogEntry.objects.exists()


def test_who_may(call_as: Any, clerk: Any, client: Any) -> None:
    user = clerk("routes.change_route")
    assert call_as(user, "write")("POST", "/cache/purge", {"everything": True}).status_code == 200
    assert call_as(user, "read")("POST", "/cache/purge", {"everything": True}).status_code == 403
    assert call_as(clerk("routes.view_route"), "write")("POST", "/cache/purge", {"everything": True}).status_code == 403


def test_without_redis_it_fails(call: Any, settings: Any) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    answer = call("POST", "/cache/purge", {"everything": True})
    assert (answer.status_code, json.loads(answer.content)["code"]) == (503, "store_unavailable")
    assert not LogEntry.objects.exists()
    purging._client.cache_clear()
