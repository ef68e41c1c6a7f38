from __future__ import annotations

import pytest

from routes import selectors, services
from routes.models import Route, RouteUpstream, Target, Upstream

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("configured")]


def more_rows() -> None:
    for index in range(5):
        upstream = Upstream.objects.create(name=f"more-{index}")
        Target.objects.create(upstream=upstream, host="a", port=1)
        route = Route.objects.create(name=f"more-{index}", paths=[f"/{index}"])
        RouteUpstream.objects.create(route=route, upstream=upstream)


def test_the_working_document_takes_five_queries_however_large(django_assert_num_queries):
    more_rows()
    with django_assert_num_queries(5):
        document = selectors.working_document()
    assert [upstream["name"] for upstream in document["upstreams"]][-2:] == ["users", "users-next"]


@pytest.mark.parametrize("read", [selectors.live_version, selectors.live_document, lambda: selectors.document_of(1)])
def test_reading_what_is_live_is_one_query(read, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert read()


def test_a_report_is_one_query(django_assert_num_queries):
    with django_assert_num_queries(1):
        selectors.report_applied(node="n", worker=0, pid=1, role="all", number=1, apply_ms=1)


def test_publishing_takes_a_fixed_number_of_queries(django_assert_max_num_queries):
    more_rows()
    with django_assert_max_num_queries(12):
        services.publish(author="test", source="api")


def test_versions_remember_the_weight_of_a_drained_target(django_assert_num_queries):
    target = Target.objects.get(host="10.0.0.2")
    never = Target.objects.get(host="unix:/run/users.sock")
    for weight in (30, 0):
        with services.change(author="test", source="api"):
            Target.objects.filter(pk=target.pk).update(weight=weight)
    with services.change(author="test", source="api"):
        Upstream.objects.filter(name="users").update(retries=3)
    with django_assert_num_queries(1):
        assert selectors.former_weights([target.pk, never.pk]) == {target.pk: 30}


def test_no_target_asks_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert selectors.former_weights([]) == {}
