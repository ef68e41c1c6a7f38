"""References in settings: a worker works with what they stand for, and nothing else ever has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from gateway.environment import PLUGINS
from gateway.plugins.references import References
from gateway.plugins.registry import Registry
from routes import masking, selectors, services
from routes.compile import CompileError
from routes.compile import compile as compile_document
from routes.configs import config_of
from routes.models import ConfigVersion, PluginSetting

SECRET = "sixteen-bytes-at-least"
CONFIG = {"credentials": [{"username": "a", "secret": "${env:PLUGIN_SECRET}"}], "realm": "${env:PLUGIN_REALM}"}
ENVIRON = {"PLUGIN_SECRET": SECRET, "PLUGIN_REALM": "the realm"}


@pytest.fixture(scope="module")
def real() -> Registry:
    return Registry.load(PLUGINS)


def document(config: dict[str, Any]) -> dict[str, Any]:
    return {"format": 1, "plugins": [{"name": "hmac-auth", "config": config}]}


def compiled(real: Registry, config: dict[str, Any], environ: dict[str, str] | None, *, resolve: bool) -> Any:
    references = None if environ is None else References(environ, ["PLUGIN_*"])
    snapshot = compile_document(document(config), real, references=references, resolve=resolve)
    return snapshot.plugins[0].config


def test_a_worker_has_what_they_stand_for(real: Registry) -> None:
    config = compiled(real, CONFIG, ENVIRON, resolve=True)
    assert config.credentials[0].secret.get_secret_value() == SECRET
    assert config.realm == "the realm"


@pytest.mark.parametrize("environ", [ENVIRON, None])
def test_who_only_shows_it_has_the_references(real: Registry, environ: dict[str, str] | None) -> None:
    config = compiled(real, {"credentials": CONFIG["credentials"]}, environ, resolve=False)
    assert SECRET not in repr(config)
    assert "PLUGIN_SECRET" in config.credentials[0].secret.get_secret_value()


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"PLUGIN_SECRET": SECRET}, "config.realm: The variable 'PLUGIN_REALM' is not set where this worker runs."),
        ({**ENVIRON, "PLUGIN_SECRET": "short"}, "config.credentials[0].secret: What this refers to does not fit here."),
        ({**ENVIRON, "PLUGIN_REALM": 'say "so"'}, "config.realm: What this refers to does not fit here."),
    ],
)
def test_what_is_missing_or_does_not_fit_is_a_problem_at_its_field(
    real: Registry, environ: dict[str, str], problem: str
) -> None:
    for resolve in (True, False):
        with pytest.raises(CompileError) as caught:
            compiled(real, CONFIG, environ, resolve=resolve)
        assert [str(one) for one in caught.value.problems] == [f'plugins["hmac-auth"].{problem}']


def test_where_they_cannot_be_looked_up_other_faults_are_found_all_the_same(real: Registry) -> None:
    with pytest.raises(CompileError) as caught:
        compiled(real, {**CONFIG, "clock_skew": 0}, None, resolve=False)
    assert [problem.field for problem in caught.value.problems] == [("config", "clock_skew")]


@pytest.mark.django_db
def test_what_is_referred_to_is_shown_nowhere(
    admin_client: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugins": PLUGINS, "plugin_dir": None})
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    services.replace(document(CONFIG), author="test", source="import")
    setting = PluginSetting.objects.get()
    assert setting.config == CONFIG
    shown = [json.dumps(version.document) for version in ConfigVersion.objects.all()]
    shown.append(json.dumps(selectors.working_document()))
    shown += [
        admin_client.get(path).content.decode()
        for path in (
            reverse("admin:routes_pluginsetting_change", args=[setting.pk]), f"/admin/v1/plugin-settings/{setting.pk}",
            "/admin/v1/config", "/admin/v1/versions/1",
        )
    ]  # fmt: skip
    shown.append(str(list(LogEntry.objects.values())))
    assert not [text for text in shown if SECRET in text or "the realm" in text]
    assert "${env:PLUGIN_SECRET}" in shown[2]
    assert "${env:PLUGIN_SECRET}" in shown[3]


@pytest.mark.django_db
def test_one_that_is_missing_is_refused_when_it_is_saved(admin_client: Any, settings: Any) -> None:
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugins": PLUGINS, "plugin_dir": None})
    body = {"name": "hmac-auth", "config": {"credentials": [{"username": "a", "secret": "${env:PLUGIN_NOT_THERE}"}]}}
    answer = admin_client.post("/admin/v1/plugin-settings", body, content_type="application/json")
    assert answer.status_code == 422
    [fault] = answer.json()["errors"]
    assert fault["pointer"] == "/config/credentials/0/secret"
    assert "PLUGIN_NOT_THERE" in fault["detail"]
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"role": "admin"})
    assert admin_client.post("/admin/v1/plugin-settings", body, content_type="application/json").status_code == 201


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("hmac-auth", {"credentials": [{"username": "a", "secret": "${env:PLUGIN_X}"}]}),
        ("http-log", {"url": "${env:PLUGIN_URL}", "authorization": "${env:PLUGIN_A}"}),
        ("rate-limiting", {"minute": "${env:PLUGIN_N}"}),
    ],
)
def test_what_cannot_be_validated_can_be_shown(real: Registry, name: str, config: dict[str, Any]) -> None:
    made, faults = config_of(name, config, real)
    assert faults == []
    shown = masking.shown(made)
    assert set(shown) == set(real[name].Config.model_fields)
    json.dumps(shown)
