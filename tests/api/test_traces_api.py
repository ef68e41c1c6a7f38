"""Traces over the admin API and on their page: what all workers keep of the next requests is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from gateway.plugins.base import Plugin
from gateway.proxy.exchange import Answer, Exchange
from routes.models import Route
from tests.api.caller import Caller
from tests.dashboard.answering import Answering, reported, worker
from tests.dashboard.configuring import configured
from tests.proxy.gatewaying import NoConfig, route, setting, table, target, upstream

pytestmark = pytest.mark.django_db
PAGE = "/dashboard/traces/"


class Mock(Plugin):
    name = "mock"
    Config = NoConfig

    def access(self, exchange: Exchange) -> Answer:
        return Answer(204)


@pytest.fixture
def workers(db: None) -> Iterator[tuple[Answering, Answering]]:
    configured()
    users, orders = (Route.objects.get(name=name).pk for name in ("users", "orders"))
    routes = [route("users", "/users", id=users), route("orders", "/orders", id=orders)]
    made = table(routes, [upstream("up", target(9))], [Mock], [setting(Mock, number=7)])
    with (
        override_settings(SECRET_KEY="of these two: other tests have workers, too"),
        worker("n1", 1) as first, worker("n2", 1) as second,
    ):  # fmt: skip
        first.bench.pipeline.table = second.bench.pipeline.table = made
        yield first, second


def test_the_next_requests_are_traced_on_all_workers(call: Caller, workers: Any) -> None:
    begun = call("POST", "/traces", {"route": "users", "requests": 2})
    assert begun.status_code == 201
    said = begun.json()
    assert (said["workers"], said["silent"]) == (2, [])
    assert begun["Location"].endswith(f"/admin/v1/traces/{said['id']}")
    for one in workers:
        one.get("/orders")
        one.get("/users?secret=1")
    trace = call("GET", f"/traces/{said['id']}").json()
    assert trace["running"] is True
    assert {(item["node"], item["route"], item["path"]) for item in trace["items"]} == {
        ("n1", "users", "/users"), ("n2", "users", "/users"),
    }  # fmt: skip
    [step] = trace["items"][0]["steps"]
    assert (step["plugin"], step["setting"], step["phase"], step["result"]) == ("mock", 7, "access", "answered 204")
    assert step["us"] > 0
    for one in workers:
        one.get("/users")
    trace = call("GET", f"/traces/{said['id']}").json()
    assert (trace["running"], len(trace["items"])) == (False, 4)


def test_a_trace_is_known_until_another_begins(call: Caller, workers: Any) -> None:
    first = call("POST", "/traces", {}).json()["id"]
    second = call("POST", "/traces", {"consumer": "nobody"}).json()["id"]
    workers[0].get("/users")
    assert call("GET", f"/traces/{first}").status_code == 404
    assert call("GET", f"/traces/{second}").json()["items"] == []
    assert call("GET", "/traces/x").status_code == 404


def test_who_does_not_answer_is_named(call: Caller, workers: Any) -> None:
    reported("n3", 1)
    begun = call("POST", "/traces", {}).json()
    assert begun["silent"] == ["n3/1"]
    assert call("GET", f"/traces/{begun['id']}").json()["silent"] == ["n3/1"]


def test_bounds_are_said(call: Caller, workers: Any) -> None:
    for wrong in ({"requests": 51}, {"seconds": 0}, {"client_ip": "home"}, {"path": "/"}):
        assert call("POST", "/traces", wrong).status_code == 422


def test_without_redis_it_says_so(call: Caller) -> None:
    with override_settings(REDIS_URL="redis://127.0.0.1:1/0"):
        assert call("POST", "/traces", {}).json()["code"] == "redis_unavailable"


def test_the_page_begins_one_and_shows_it(client: Any, workers: Any) -> None:
    client.force_login(User.objects.create_superuser("operator"))
    assert "Which plugin takes how long?" in client.get(PAGE).content.decode()
    answer = client.post(PAGE, {"route": "users", "requests": "1", "seconds": "30"})
    page = client.get(answer["Location"]).content.decode()
    assert "The trace runs" in page
    assert 'value="users"' in page
    for one in workers:
        one.get("/users")
    page = client.get(answer["Location"]).content.decode()
    assert "The trace runs" not in page
    assert page.count("answered 204") == 2
    assert "µs" in page
    client.post(PAGE, {})
    assert "This trace is gone" in client.get(answer["Location"]).content.decode()


def test_the_page_says_that_nobody_can_be_asked(client: Any, db: None) -> None:
    client.force_login(User.objects.create_superuser("operator"))
    with override_settings(REDIS_URL="redis://127.0.0.1:1/0"):
        assert "No trace was begun" in client.post(PAGE, {}, follow=True).content.decode()
        assert "Nobody could be asked" in client.get(f"{PAGE}?id={'0' * 32}").content.decode()
