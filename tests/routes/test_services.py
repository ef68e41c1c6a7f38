from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from redis import Redis

from gateway.proxy.snapshot import Snapshot
from keys.nudge import CONFIG_CHANNEL
from routes import selectors, services
from routes.compile import compile as compile_document
from routes.models import ConfigVersion, PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.problems import CompileError

WHO = {"author": "test", "source": "api"}

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("environment")]


def route_create(name: str, **more) -> Route:
    upstream, _ = Upstream.objects.get_or_create(name="users")
    route = Route.objects.create(name=name, paths=[f"/{name}"], **more)
    RouteUpstream.objects.create(route=route, upstream=upstream)
    return route


def test_before_the_first_publish_there_is_nothing():
    assert selectors.live_version() == (0, "")
    assert selectors.live_document() is None


def test_a_change_goes_live_as_one_version():
    with services.change(**WHO, comment="Two at once.") as change:
        route_create("a")
        route_create("b")
    version = change.version
    assert (version.number, version.live, version.parent, version.comment) == (1, True, None, "Two at once.")
    assert [route["name"] for route in version.document["routes"]] == ["a", "b"]
    assert selectors.live_version() == (1, version.digest)
    with services.change(**WHO) as change:
        route_create("c")
    assert (change.version.number, change.version.parent) == (2, version)
    assert ConfigVersion.objects.get(live=True).number == 2


def test_a_change_inside_a_change_is_part_of_it():
    with services.change(**WHO) as outer:
        with services.change(author="other", source="api") as inner:
            route_create("a")
        assert not ConfigVersion.objects.exists()
        route_create("b")
    assert inner is outer
    assert (outer.version.number, outer.version.author) == (1, "test")


def test_what_was_published_compiles_in_a_worker(registry):
    with services.change(**WHO):
        route_create("a")
    number, digest, document = selectors.live_document()
    snapshot = compile_document(document, registry, version=number)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.digest == digest


def test_an_equal_document_makes_no_new_version(configured):
    assert services.publish(**WHO) == configured
    with services.change(**WHO) as change:
        Route.objects.update(updated_at=timezone.now())
    assert change.version == configured
    assert ConfigVersion.objects.count() == 1


def test_a_change_that_does_not_compile_has_never_happened(configured):
    def edit() -> None:
        with services.change(**WHO):
            Route.objects.create(name="nowhere", paths=["bad"])
            Upstream.objects.filter(name="users").update(tags=["not a tag"])

    with pytest.raises(CompileError) as caught:
        edit()
    assert [problem.where for problem in caught.value.problems] == [
        'upstreams["users"].tags[0]',
        'routes["nowhere"].paths[0]',
        'routes["nowhere"].upstreams',
    ]
    assert not Route.objects.filter(name="nowhere").exists()
    assert selectors.live_version() == (1, configured.digest)


def test_a_broken_configuration_may_be_mended_step_by_step_but_not_broken_further(configured):
    for name in ("gone", "lost"):
        PluginSetting.objects.create(name=name)
    with services.change(**WHO) as change:
        PluginSetting.objects.filter(name="gone").delete()
    assert change.version is None
    assert [problem.where for problem in change.remaining] == ['plugins["lost"].name']
    with pytest.raises(CompileError), services.change(**WHO):
        PluginSetting.objects.create(name="missing")
    with services.change(**WHO) as change:
        PluginSetting.objects.filter(name="lost").delete()
    assert change.version == configured


def test_without_autopublish_edits_gather_until_somebody_publishes(configured, drafts):
    with services.change(**WHO) as change:
        route = Route.objects.create(name="new", paths=["/new"])
    assert change.version is None
    with pytest.raises(CompileError, match="The route leads nowhere"):
        services.publish(**WHO)
    with services.change(**WHO):
        RouteUpstream.objects.create(route=route, upstream=Upstream.objects.get(name="users"))
    assert selectors.live_version()[0] == 1
    assert services.draft() == ['+ routes["new"]']
    assert services.publish(**WHO).number == 2
    assert services.draft() == []


def test_rollback_restores_rows_under_their_ids(configured, alice):
    before = selectors.working_document()
    created = Upstream.objects.get(name="users").created_at
    with services.change(**WHO):
        Route.objects.all().delete()
        Upstream.objects.get(name="users-next").delete()
        Upstream.objects.filter(name="users").update(name="renamed", retries=9)
        Upstream.objects.create(name="users-next")
        Target.objects.filter(port=80).update(port=81)
        PluginSetting.objects.all().delete()
    version = services.rollback(1, author="test")
    assert selectors.working_document() == before == version.document
    assert (version.number, version.digest, version.comment) == (3, configured.digest, "Back to version 1.")
    assert Upstream.objects.get(name="users").created_at == created
    assert PluginSetting.objects.get(name="quota").consumer == alice


def test_rollback_may_swap_names(configured):
    with services.change(**WHO), connection.cursor() as cursor:
        cursor.execute("UPDATE routes_upstream SET name = CASE name WHEN 'users' THEN 'users-next' ELSE 'users' END")
    assert services.rollback(1, author="test").digest == configured.digest


def test_rollback_leaves_out_settings_of_consumers_that_are_gone(configured, alice):
    alice.delete()
    services.publish(**WHO)
    version = services.rollback(1, author="test")
    assert [setting["name"] for setting in version.document["plugins"]] == ["stamp"]


def test_rollback_to_what_needs_a_missing_plugin_is_refused(configured, settings):
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugin_dir": None})
    Upstream.objects.filter(name="users").update(retries=3)
    with pytest.raises(CompileError, match="There is no plugin 'quota'"):
        services.rollback(1, author="test")
    assert Upstream.objects.get(name="users").retries == 3


def test_rollback_to_an_unknown_version_is_refused(configured):
    with pytest.raises(ConfigVersion.DoesNotExist):
        services.rollback(9, author="test")


@pytest.mark.parametrize(
    "field", [{"number": 5}, {"document": {}}, {"digest": "x"}, {"author": "me"}, {"comment": "x"}, {"source": "x"}]
)
def test_a_version_cannot_be_changed(configured, field):
    with pytest.raises(DatabaseError, match="cannot be changed"):
        ConfigVersion.objects.filter(number=1).update(**field)


def test_the_live_version_cannot_be_deleted_and_older_ones_can(configured):
    with services.change(**WHO):
        route_create("more")
    with pytest.raises(DatabaseError, match="cannot be deleted"), transaction.atomic():
        ConfigVersion.objects.filter(number=2).delete()
    ConfigVersion.objects.get(number=1).delete()
    assert ConfigVersion.objects.get().parent is None


def test_an_old_version_cannot_become_live_again(configured):
    with services.change(**WHO):
        route_create("more")
    with pytest.raises(DatabaseError, match="cannot become live again"):
        ConfigVersion.objects.filter(number=1).update(live=True)


@pytest.mark.django_db(transaction=True)
def test_some_version_is_always_live(configured):
    with pytest.raises(DatabaseError, match="one version must be live"), transaction.atomic():
        ConfigVersion.objects.update(live=False)
    assert selectors.live_version()[0] == 1


@pytest.mark.django_db(transaction=True)
def test_concurrent_changes_leave_one_live_version_and_no_gaps():
    def edit(index: int) -> None:
        try:
            with services.change(author=f"writer {index}", source="api"):
                Upstream.objects.create(name=f"upstream-{index}")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(16)))
    versions = list(ConfigVersion.objects.order_by("number"))
    assert [version.number for version in versions] == list(range(1, 17))
    assert [version.number for version in versions if version.live] == [16]
    assert [len(version.document["upstreams"]) for version in versions] == list(range(1, 17))
    assert [version.parent_id for version in versions] == [None, *(version.pk for version in versions[:-1])]


@pytest.mark.django_db(transaction=True)
def test_workers_are_nudged_after_the_commit(environment):
    client = Redis.from_url(django_settings.REDIS_URL)
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CONFIG_CHANNEL)
        channel.get_message(timeout=5)
        with services.change(**WHO):
            Upstream.objects.create(name="users")
            services.publish(**WHO)
            assert channel.get_message(timeout=0.05) is None
        message = channel.get_message(timeout=5)
    client.close()
    assert message["data"] == b"1"


def report(worker: int, number: int, **more) -> None:
    values = {"node": "n", "worker": worker, "pid": worker, "role": "proxy", "number": number, "apply_ms": 1.0, **more}
    selectors.report_applied(**values)


def test_applied_counts_the_workers_that_serve_it(configured):
    assert str(services.wait_applied(1)) == "live; no worker is running"
    report(0, 1)
    report(1, 1)
    report(2, 1, role="admin")
    waited = services.wait_applied(1)
    assert (waited.applied, waited.total, waited.errors) == (2, 2, [])
    assert str(waited) == f"applied on 2/2 workers in {waited.ms:.0f} ms"


def test_a_worker_that_cannot_serve_it_is_not_waited_for(configured):
    report(0, 1)
    report(1, 0, error="version 1: no such plugin")
    waited = services.wait_applied(1, timeout_s=60)
    assert (waited.applied, waited.total, waited.errors) == (1, 2, ["n/1: version 1: no such plugin"])


def test_a_worker_that_is_late_is_waited_for_until_time_is_up(configured):
    report(0, 0)
    waited = services.wait_applied(1, timeout_s=0.05)
    assert str(waited) == "applied on 0/1 workers"


def test_heartbeats_do_not_move_the_time_of_applying(configured):
    report(0, 1)
    before = selectors.workers().get()
    report(0, 1)
    after = selectors.workers().get()
    assert after.applied_at == before.applied_at
    assert after.seen_at > before.seen_at


def test_a_target_where_no_upstream_may_be_is_refused_by_every_writer(environment, settings):
    """What is live keeps working: workers ask when they connect."""
    document = {"format": 1, "upstreams": [{"name": "up", "targets": [{"host": "10.0.0.1", "port": 80}]}]}
    services.replace(document, **WHO)
    settings.ENVIRONMENT = environment.model_copy(update={"upstream_deny": ["10.0.0.0/8"]})
    with pytest.raises(CompileError) as caught:
        services.replace(document, **WHO)
    [problem] = caught.value.problems
    assert (problem.pointer, problem.row) == (
        "/upstreams/0/targets/0/host",
        ("upstreams", "up", "targets", "10.0.0.1:80"),
    )
    assert problem.message.startswith("10.0.0.1 is in 10.0.0.0/8 of GATEWAY_UPSTREAM_DENY")
    with pytest.raises(ValidationError, match="GATEWAY_UPSTREAM_DENY"):
        Target(upstream=Upstream.objects.get(), host="10.0.0.2", port=80).full_clean()
    with services.change(**WHO) as change:  # who mends something else is let, and told what remains
        Upstream.objects.create(name="other")
    assert change.remaining == caught.value.problems
