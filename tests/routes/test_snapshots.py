from __future__ import annotations

import pytest

from routes import services, snapshots
from routes.models import Route, Upstream
from routes.problems import CompileError

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("configured")]


def edited() -> None:
    with services.change(author="test", source="api"):
        Upstream.objects.filter(name="users").update(retries=4)


def test_the_live_snapshot_is_compiled_once_for_each_version(django_assert_num_queries):
    first = snapshots.live()
    with django_assert_num_queries(1):
        assert snapshots.live() is first
    edited()
    with django_assert_num_queries(2):
        second = snapshots.live()
    assert (first.version, second.version) == (1, 2)
    assert second.upstreams["users"].retries == 4


def test_a_disabled_route_can_be_looked_at_as_if_it_were_enabled():
    route = Route.objects.get(name="users")
    with services.change(author="test", source="api"):
        Route.objects.update(enabled=False)
    assert snapshots.live().routes == ()
    assert [spec.name for spec in snapshots.with_route(route).routes] == ["users"]


def test_what_keeps_it_from_being_enabled_is_said():
    route = Route.objects.get(name="users")
    with services.change(author="test", source="api"):
        Route.objects.update(enabled=False)
        twin = Route.objects.create(
            name="twin", hosts=route.hosts, paths=route.paths, methods=route.methods,
            header_conditions=route.header_conditions,
        )  # fmt: skip
        twin.branches.create(upstream=Upstream.objects.get(name="users"))
    with pytest.raises(CompileError, match="Matches the same requests"):
        snapshots.with_route(route)
