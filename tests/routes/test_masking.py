"""Secrets of plugins: no page, answer, diff, file for the eye or audit entry has one, and none is lost by an edit."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.urls import reverse

from gateway.proxy.snapshot import PluginSpec
from routes import masking, selectors, services
from routes.models import ConfigVersion, PluginSetting, Route
from tests.routes.test_admin import admin_user, client, errors, post, url, viewer  # noqa: F401 (fixtures)

pytestmark = pytest.mark.django_db

CONFIG: dict[str, Any] = {
    "url": "https://vault.example", "password": "hunter2", "token": "tok-plain", "signing": {"pem": "PRIVATE"},
    "keys": ["k-one", "k-two"], "doors": [{"key": "d-one", "open": True}, {"key": "d-two", "open": False}],
    "by_name": {"a": "n-one"}, "either": "e-one",
}  # fmt: skip
SECRETS = ("hunter2", "hunter3", "tok-plain", "PRIVATE", "k-one", "k-two", "d-one", "d-two", "n-one", "e-one")
API = "/admin/v1"


@pytest.fixture
def vault(settings, db) -> PluginSetting:
    """Live as version 1."""
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(
        update={"plugins": [], "plugin_dir": Path(__file__).parent / "secretive", "autopublish": True}
    )
    file = {
        "format": 1,
        "upstreams": [{"name": "users", "targets": [{"host": "10.0.0.1", "port": 80}]}],
        "routes": [{"name": "users", "paths": ["/users/*"], "upstreams": [{"name": "users"}]}],
        "plugins": [{"name": "vault", "route": "users", "config": CONFIG}],
    }
    services.replace(file, author="test", source="import")
    return PluginSetting.objects.get()


def leaked(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


# --- the mask itself --------------------------------------------------------------------------------------------------


def test_every_secret_has_a_stand_in_and_nothing_else_does(vault):
    shown = masking.mask("vault", CONFIG)
    assert not leaked(json.dumps(shown))
    assert (shown["url"], shown["doors"][1]["open"]) == (CONFIG["url"], False)
    assert masking.unmask("vault", shown, CONFIG) == (CONFIG, [])


def test_stand_ins_are_known_wherever_their_rows_have_moved(vault):
    shown = masking.mask("vault", CONFIG)
    moved = {"password": "new", "doors": shown["doors"][::-1], "keys": ["another", shown["keys"][1]]}
    assert masking.unmask("vault", moved, CONFIG)[0] == {
        "password": "new", "doors": CONFIG["doors"][::-1], "keys": ["another", "k-two"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "at"),
    [
        ({"url": "{password}"}, ("url",)),  # where it would be shown
        ({"keys": ["", masking.MASK + "0" * 16]}, ("keys", 1)),
        ({"doors": [{"key": masking.MASK + "f" * 16}]}, ("doors", 0, "key")),
    ],
)
def test_a_stand_in_for_nothing_or_in_the_wrong_place_is_a_fault(vault, config, at):
    shown = masking.mask("vault", CONFIG)
    given = json.loads(json.dumps(config).replace("{password}", shown["password"]))
    unmasked, faults = masking.unmask("vault", given, CONFIG)
    assert faults == [(at, masking.UNKNOWN)]
    assert not leaked(json.dumps(unmasked))


def test_of_a_plugin_that_is_gone_every_text_is_secret(vault):
    config = {"host": "db", "port": 5, "users": [{"password": "x"}]}
    shown = masking.mask("gone", config)
    assert (shown["port"], masking.is_stand_in(shown["users"][0]["password"])) == (5, True)
    assert masking.unmask("gone", shown, config) == (config, [])


# --- what people see --------------------------------------------------------------------------------------------------

PAGES = [
    "/admin/routes/pluginsetting/", "/admin/routes/pluginsetting/{setting}/change/",
    "/admin/routes/pluginsetting/{setting}/history/", "/admin/routes/route/{route}/change/",
    "/admin/routes/route/{route}/history/", "/admin/routes/configversion/{version}/change/", "/admin/admin/logentry/",
    "/dashboard/routes/{route}/", "/dashboard/config/?to=2", "/dashboard/config/?to=1", "/dashboard/config/2/export/",
]  # fmt: skip
ASKING = ["/admin/routes/configversion/{first}/roll_back", "/dashboard/config/1/rollback/"]
ANSWERS = [
    "/plugin-settings", "/plugin-settings/{setting}", "/plugins/vault", "/versions/2", "/versions/1/diff",
    "/versions/2/diff", "/versions/draft/diff?against=1", "/config", "/config?version=1",
]  # fmt: skip


@pytest.mark.parametrize("who", ["client", "viewer"])
def test_no_page_and_no_answer_has_a_secret(request, vault, client, who):  # noqa: F811
    post(client, url("pluginsetting", "change", vault.pk), **{"config~as": "fields", **_fields(client, vault)})
    assert PluginSetting.objects.get().config["password"] == "hunter3"
    if who == "viewer":
        client.force_login(request.getfixturevalue("viewer"))
    versions = {version.number: version.pk for version in ConfigVersion.objects.all()}
    places = {"setting": vault.pk, "route": vault.route_id, "first": versions[1], "version": versions[2]}
    for page in [*PAGES, *(ASKING if who == "client" else ()), *(API + answer for answer in ANSWERS)]:
        answer = client.get(page.format(**places), follow=True)
        text = answer.content.decode()
        assert (page, answer.status_code, leaked(text)) == (page, 200, [])
    asked = client.post(f"{API}/explain", {"path": "/users/1"}, "application/json").content.decode()
    assert "vault.example" in asked
    assert not leaked(asked)


def _fields(client: Any, setting: PluginSetting) -> dict[str, str]:  # noqa: F811
    """The form's fields as a browser has them, with another password."""
    html = client.get(url("pluginsetting", "change", setting.pk)).content.decode()
    assert not leaked(html)
    inputs = {name: text for name, text in re.findall(r'name="(config\.[^"]+)" value="([^"]*)"', html) if text != "on"}
    areas = re.findall(r'<textarea id="[^"]*" name="(config\.[^"]+)"[^>]*>([^<]*)<', html)
    texts = {**inputs, **{name: text.replace("&quot;", '"') for name, text in areas}}
    return {**texts, "config.password": "hunter3", "config~plugin": "vault", "config.doors.0.open": "on"}


def test_the_form_keeps_what_it_only_had_stand_ins_for(vault, client):  # noqa: F811
    post(client, url("pluginsetting", "change", vault.pk), **{"config~as": "fields", **_fields(client, vault)})
    assert PluginSetting.objects.get().config == {**CONFIG, "password": "hunter3"}


def test_the_json_tab_and_the_routes_own_form_keep_them_too(vault, client):  # noqa: F811
    shown = json.dumps(masking.mask("vault", CONFIG) | {"url": "https://other.example"})
    post(client, url("pluginsetting", "change", vault.pk), config=shown)
    assert PluginSetting.objects.get().config == {**CONFIG, "url": "https://other.example"}
    post(client, url("route", "change", vault.route_id), priority="3")
    assert Route.objects.get().priority == 3
    assert PluginSetting.objects.get().config == {**CONFIG, "url": "https://other.example"}


def test_the_form_says_where_a_stand_in_is_of_no_use(vault, client):  # noqa: F811
    page = client.post(url("pluginsetting", "add"), {"name": "vault", "config": json.dumps({"password": _unknown()})})
    assert errors(page)["config"] == [f"password: {masking.UNKNOWN}"]


def _unknown() -> str:
    return masking.MASK + "0" * 16


def test_drawing_the_form_anew_blames_no_stand_in(vault, client):  # noqa: F811
    shown = masking.mask("vault", CONFIG)  # its token does not look like one
    asked = {"field": "config", "plugin": "vault", "action": "fields", "config": json.dumps(shown), "config~as": "json"}
    html = client.post(url("pluginsetting", "config"), asked).content.decode()
    assert "String should match" not in html
    assert shown["token"] in html


def test_the_trail_says_that_a_secret_has_changed_not_what_it_is(vault, client):  # noqa: F811
    body = {"config": {**masking.mask("vault", CONFIG), "password": "hunter3"}}
    assert client.patch(f"{API}/plugin-settings/{vault.pk}", body, "application/json").status_code == 200
    kept = "".join(LogEntry.objects.values_list("change_message", flat=True))
    assert not leaked(kept)
    (step,) = json.loads(LogEntry.objects.filter(content_type__model="pluginsetting").get().change_message)
    before, after = step["changed"]["before"]["config"], step["changed"]["after"]["config"]
    assert [name for name in after if before[name] != after[name]] == ["password"]


def test_what_runs_is_shown_without_secrets(vault):
    spec = PluginSpec(1, "vault", "global", "", "", 0, masking.registry()["vault"].Config(**CONFIG))
    shown = masking.shown(spec.config)
    assert not leaked(str(shown))
    assert (shown["password"], shown["token"], shown["signing"]) == (masking.MASK,) * 3


# --- the admin API ----------------------------------------------------------------------------------------------------


def test_what_the_api_answers_can_be_sent_back(vault, client):  # noqa: F811
    place = f"{API}/plugin-settings/{vault.pk}"
    read = client.get(place)
    body = {name: value for name, value in read.json().items() if name not in ("id", "created_at", "updated_at")}
    assert client.put(place, body, "application/json", headers={"If-Match": read["ETag"]}).status_code == 200
    assert client.patch(place, body, "application/json").status_code == 200
    assert PluginSetting.objects.get().config == CONFIG
    assert ConfigVersion.objects.count() == 1
    changed = client.patch(place, {"config": {**body["config"], "password": "hunter3"}}, "application/json")
    assert changed["ETag"] != read["ETag"]


def test_the_api_says_where_a_stand_in_is_of_no_use(vault, client):  # noqa: F811
    other = {"name": "vault", "config": {"doors": [{"key": masking.mask("vault", CONFIG)["doors"][0]["key"]}]}}
    answer = client.post(f"{API}/plugin-settings", other, "application/json")
    assert answer.status_code == 422
    assert [(fault["pointer"], fault["detail"]) for fault in answer.json()["errors"]] == [
        ("/config/doors/0/key", masking.UNKNOWN)
    ]


def test_a_document_comes_back_with_its_secrets(vault, client):  # noqa: F811
    document = client.get(f"{API}/config").json()
    document["routes"][0]["priority"] = 9
    assert client.post(f"{API}/config", document, "application/json").status_code == 200
    assert PluginSetting.objects.get().config == CONFIG
    document["plugins"][0]["route"] = ""
    answer = client.post(f"{API}/config", document, "application/json")
    assert answer.status_code == 422
    faults = {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}
    assert faults["/plugins/0/config/keys/0"] == masking.UNKNOWN
    assert PluginSetting.objects.get().config == CONFIG


# --- files and versions -----------------------------------------------------------------------------------------------


def exported(*arguments: str) -> str:
    out = StringIO()
    call_command("config", "export", *arguments, stdout=out)
    return out.getvalue()


def test_a_backup_is_whole_and_only_its_owner_reads_it(vault, tmp_path):
    assert yaml.safe_load(exported())["plugins"][0]["config"] == CONFIG
    exported(str(tmp_path / "backup.yaml"))
    assert (tmp_path / "backup.yaml").stat().st_mode & 0o077 == 0


def test_a_masked_file_can_be_read_by_anybody_and_imported_here(vault, tmp_path):
    file = tmp_path / "shared.yaml"
    exported("--masked", str(file))
    assert not leaked(file.read_text())
    file.write_text(file.read_text().replace("/users/*", "/people/*"))
    call_command("config", "import", str(file), stdout=StringIO())
    assert (Route.objects.get().paths, PluginSetting.objects.get().config) == (["/people/*"], CONFIG)
    PluginSetting.objects.all().delete()
    with pytest.raises(CommandError, match=re.escape('plugins["vault route=users"].config.password: This stands for')):
        call_command("config", "import", str(file), stdout=StringIO())


def test_a_rollback_brings_the_old_secret_back(vault, client):  # noqa: F811
    client.patch(f"{API}/plugin-settings/{vault.pk}", {"config": {"password": "hunter3"}}, "application/json")
    client.post(reverse("dashboard:config-rollback", args=[1]))
    assert selectors.working_document()["plugins"][0]["config"] == CONFIG
