from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User

from keys.trail import Step, steps
from routes import portable, services
from routes.models import ConfigVersion, Route, Upstream
from routes.selectors import document_of, report_applied
from tests.dashboard.configuring import configured, staff

pytestmark = pytest.mark.django_db

URL = "/dashboard/config/"


def edited(retries: int = 4) -> None:
    with services.change(author="ann", source="api", comment="More retries."):
        Upstream.objects.filter(name="users").update(retries=retries)


@pytest.fixture
def operator(client):
    configured()
    edited()
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def drafts(settings):
    """GATEWAY_AUTOPUBLISH=off."""
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"autopublish": False})


def test_versions_the_newest_first(operator, django_assert_max_num_queries):
    with django_assert_max_num_queries(13):
        page = operator.get(URL)
    shown = [(v.number, v.live, v.author, v.source, v.comment) for v in page.context["shown"]]
    assert shown == [(2, True, "ann", "api", "More retries."), (1, False, "ann", "import", "")]
    assert not page.context["pending"]


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("?to=2", ['~ upstreams["users"]: retries']),
        ("?from=2&to=1", ['~ upstreams["users"]: retries']),
        ("?from=2&to=2", []),
    ],
)
def test_what_differs(operator, query, lines):
    page = operator.get(URL + query)
    assert [str(change) for change in page.context["differences"]] == lines


def test_the_first_version_added_everything(operator):
    page = operator.get(URL + "?to=1")
    assert {change.kind for change in page.context["differences"]} == {"added"}


@pytest.mark.parametrize("query", ["?to=9", "?to=x", "?from=9&to=1", "?to=99999999999"])
def test_no_such_version(operator, query):
    assert operator.get(URL + query).status_code == 404


def test_a_field_shows_its_value_before_and_after(operator):
    text = operator.get(URL + "?to=2").content.decode()
    assert "<del>1</del>" in text
    assert "<ins>4</ins>" in text


def test_rolling_back_asks_first_and_makes_a_new_version(operator):
    asked = operator.get(URL + "1/rollback/")
    assert [str(change) for change in asked.context["differences"]] == ['~ upstreams["users"]: retries']
    done = operator.post(URL + "1/rollback/", {"comment": "Too many."}, follow=True)
    live = ConfigVersion.objects.get(live=True)
    assert (live.number, live.author, live.source, live.comment) == (3, "operator", "rollback", "Too many.")
    assert Upstream.objects.get(name="users").retries == 1
    assert "Version 3" in done.content.decode()
    row, version = LogEntry.objects.order_by("pk")
    assert list(steps(row)) == [Step("Changed.", [("retries", "4", "1")])]
    assert list(steps(version)) == [Step("Rolled back to version 1.", [("live", "2", "3")])]
    assert operator.post(URL + "9/rollback/").status_code == 404


def test_a_version_that_needs_a_lost_plugin_is_not_rolled_back_to(operator, settings):
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugins": []})
    assert "cannot go live" in operator.get(URL + "1/rollback/").content.decode()
    page = operator.post(URL + "1/rollback/", follow=True)
    assert "Nothing was published" in page.content.decode()
    assert ConfigVersion.objects.get(live=True).number == 2


def test_a_draft_is_shown_and_published(operator, drafts):
    edited(7)
    assert [str(change) for change in operator.get(URL).context["pending"]] == ['~ upstreams["users"]: retries']
    operator.post(URL + "publish/", {"comment": "Now."})
    live = ConfigVersion.objects.get(live=True)
    assert (live.number, live.source, live.comment) == (3, "dashboard", "Now.")
    assert not operator.get(URL).context["pending"]


def test_a_broken_draft_says_why(operator, drafts):
    with services.change(author="ann", source="api"):
        Route.objects.create(name="nowhere", paths=["/x"])
    page = operator.get(URL)
    assert "The route leads nowhere" in page.content.decode()
    assert "Nothing was published" in operator.post(URL + "publish/", follow=True).content.decode()


def test_workers_that_drifted_are_told_apart(operator):
    for worker, (number, error) in enumerate([(2, ""), (1, ""), (1, "no memory")]):
        report_applied(node="n", worker=worker, pid=9, role="all", number=number, apply_ms=3, error=error)
    report_applied(node="n", worker=9, pid=9, role="admin", number=0, apply_ms=0)
    page = operator.get(URL)
    assert [worker["behind"] for worker in page.context["workers"]] == [False, True, True]
    text = page.content.decode()
    assert "drifted: 2 is live" in text
    assert "no memory" in text


def test_a_version_comes_as_the_file_that_an_import_takes(operator):
    answer = operator.get(URL + "1/export/")
    assert answer["Content-Disposition"] == 'attachment; filename="hydragate-1.yaml"'
    assert answer.content.decode() == portable.to_yaml(document_of(1))
    services.replace(portable.from_yaml(answer.content.decode()), author="ann", source="import")
    assert Upstream.objects.get(name="users").retries == 1


def test_an_empty_gateway(client):
    client.force_login(User.objects.create_superuser("operator"))
    assert "No version yet" in client.get(URL).content.decode()


def test_who_may_look_may_not_publish(client):
    configured()
    client.force_login(staff("routes.view_configversion"))
    page = client.get(URL).content.decode()
    assert "Roll back" not in page
    assert "workers-title" not in page
    assert client.get(URL + "1/rollback/").status_code == 403
    assert client.post(URL + "1/rollback/").status_code == 403
    assert client.post(URL + "publish/").status_code == 403


def test_others_see_nothing(client):
    configured()
    client.force_login(staff())
    for url in (URL, URL + "1/export/", URL + "1/rollback/"):
        assert client.get(url).status_code == 403
