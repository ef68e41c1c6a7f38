from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from routes import portable, selectors
from routes.models import ConfigVersion, Route, Target, Upstream

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("environment")]


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_export_is_the_file_that_was_imported(alice, file):
    run("config", "import", str(file))
    assert run("config", "export") == file.read_text()
    assert run("config", "export", "--number", "1") == file.read_text()


def test_export_import_export_is_identical_and_keeps_ids(configured, tmp_path):
    exported, before = tmp_path / "out.yaml", selectors.working_document()
    run("config", "export", str(exported))
    Route.objects.all().delete()
    Target.objects.filter(port=80).update(weight=7)
    out = run("config", "import", str(exported))
    assert run("config", "export") == exported.read_text()
    after = selectors.working_document()
    assert [row["targets"] for row in after["upstreams"]] == [row["targets"] for row in before["upstreams"]]
    assert '+ routes["users"]' in out
    assert "version 2 live; no worker is running" in out


def test_import_says_what_differs_and_a_dry_run_changes_nothing(configured, file):
    file.write_text(file.read_text().replace("name: users-next", "name: users-new").replace("weight: 90", "weight: 80"))
    out = run("config", "import", str(file), "--dry-run")
    assert out.splitlines() == [
        '+ upstreams["users-new"]',
        '- upstreams["users-next"]',
        '~ routes["users"]: upstreams',
    ]
    assert selectors.live_version()[0] == ConfigVersion.objects.count() == 1
    run("config", "import", str(file))
    assert Upstream.objects.filter(name="users-new").exists()
    assert ConfigVersion.objects.get(live=True).comment == "Imported from gateway.yaml."


def test_an_import_with_problems_names_them_all_and_changes_nothing(configured, file):
    before = selectors.working_document()
    file.write_text(
        file.read_text().replace("/users/{id}", "users").replace("alice", "bob").replace("limit: 5", "limit: 0")
    )
    with pytest.raises(CommandError) as caught:
        run("config", "import", str(file))
    assert str(caught.value).splitlines() == [
        "Nothing was changed:",
        "routes[\"users\"].paths[0]: 'users' must start with '/', or with '~' for a regular expression.",
        (
            'plugins["quota route=users consumer=bob"].config.windows[0].limit: '
            "Input should be greater than or equal to 1."
        ),
        "plugins[\"quota route=users consumer=bob\"].consumer: There is no consumer 'bob'.",
    ]
    assert selectors.working_document() == before


@pytest.mark.parametrize(
    "text", ["", "a: [", "format: 1\nformat: 1\n", "format: 2\n", "- 1\n", "format: 1\nroutes: 5\n"]
)
def test_what_is_no_configuration_is_refused(text, file):
    file.write_text(text)
    with pytest.raises(CommandError, match="Nothing was changed"):
        run("config", "import", str(file))


def test_a_missing_file_is_a_sentence():
    with pytest.raises(CommandError, match="No such file"):
        run("config", "import", "/nowhere/gateway.yaml")


def test_history_and_rollback(configured):
    Upstream.objects.filter(name="users").update(retries=5)
    assert run("publish", "--comment", "More retries.") == "version 2 live; no worker is running\n"
    newest, oldest = run("config", "history").splitlines()
    assert newest.startswith("*    2  ")
    assert newest.endswith("(command)  More retries.")
    assert oldest.startswith("     1  ")
    assert run("config", "rollback", "1").startswith("version 3 ")
    assert Upstream.objects.get(name="users").retries == 1
    with pytest.raises(CommandError, match="no such version"):
        run("config", "rollback", "77")


def test_publish_names_every_problem(configured):
    Route.objects.update(paths=["users", "people"], path_rewrite="")
    with pytest.raises(CommandError) as caught:
        run("publish")
    assert len(str(caught.value).splitlines()) == 3
    assert caught.value.returncode == 1


def test_publish_says_where_it_is_applied(configured):
    selectors.report_applied(node="n", worker=0, pid=1, role="all", number=2, apply_ms=1)
    Upstream.objects.filter(name="users").update(retries=5)
    assert run("publish").startswith("version 2 applied on 1/1 workers in ")


def test_dates_in_a_file_stay_text():
    assert portable.from_yaml("a: 2024-01-01") == {"a": "2024-01-01"}
