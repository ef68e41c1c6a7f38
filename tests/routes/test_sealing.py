"""Secrets at rest: what PostgreSQL has of them, who reads them plain, and what another SECRET_KEY does."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection

from routes import masking, sealing, selectors, services
from routes.configs import config_problems
from routes.models import ConfigVersion, PluginSetting, Upstream
from tests.routes.test_masking import CONFIG, leaked, vault  # noqa: F401 (fixture)

pytestmark = pytest.mark.django_db


def tables() -> str:
    """All that PostgreSQL has of the configuration, as it has it."""
    found = []
    with connection.cursor() as cursor:
        for table in ("routes_pluginsetting", "routes_upstream", "routes_configversion"):
            cursor.execute(f"SELECT row_to_json(row)::text FROM {table} AS row")
            found += [text for (text,) in cursor.fetchall()]
    return "\n".join(found)


def test_no_table_has_a_secret_and_everybody_above_has_it(vault: PluginSetting) -> None:  # noqa: F811
    assert leaked(tables()) == []
    assert tables().count(sealing.HEAD) >= 2 * 8
    vault.refresh_from_db()
    assert vault.config == CONFIG
    assert PluginSetting.objects.values_list("config", flat=True).get() == CONFIG
    assert selectors.working_document()["plugins"][0]["config"] == CONFIG
    assert selectors.document_of(1)["plugins"][0]["config"] == CONFIG
    assert "https://vault.example" in tables()  # what is no secret can be read


def test_each_way_of_writing_seals(vault: PluginSetting) -> None:  # noqa: F811
    changed = CONFIG | {"password": "hunter3"}
    vault.config = changed
    vault.save()
    assert leaked(tables()) == []
    services.publish(author="test", source="api")
    document = selectors.document_of(2)
    services.replace(masking.mask_document(document), author="test", source="import")
    services.rollback(1, author="test")
    assert leaked(tables()) == []
    assert PluginSetting.objects.get().config == CONFIG


def test_the_same_configuration_is_the_same_version(vault: PluginSetting) -> None:  # noqa: F811
    PluginSetting.objects.get().save()
    services.publish(author="test", source="api")
    digests = set(ConfigVersion.objects.values_list("digest", flat=True))
    assert len(digests) == 1


def test_an_upstreams_key_is_sealed(db: None) -> None:
    upstream = Upstream.objects.create(name="u", tls_client_key="PRIVATE")
    assert leaked(tables()) == []
    assert Upstream.objects.get(pk=upstream.pk).tls_client_key == "PRIVATE"
    assert "PRIVATE" not in tables()


def test_references_are_no_secrets_and_need_no_key(vault: PluginSetting) -> None:  # noqa: F811
    vault.config = {"password": "${env:PLUGIN_X}", "token": ""}
    vault.save()
    assert "${env:PLUGIN_X}" in tables()


def test_another_secret_key_opens_nothing_and_no_plugin_is_made_with_it(
    vault: PluginSetting,  # noqa: F811
    settings: Any,
) -> None:
    before, settings.SECRET_KEY = settings.SECRET_KEY, "another"
    config = PluginSetting.objects.get().config
    assert config["url"] == CONFIG["url"]
    assert sealing.is_sealed(config["password"])
    problems = config_problems("vault", config, masking.registry())
    assert (("config", "password"), sealing.UNREADABLE) in problems
    PluginSetting.objects.get().save()  # loses nothing
    settings.SECRET_KEY_FALLBACKS = [before]
    assert PluginSetting.objects.get().config == CONFIG


def test_secrets_are_sealed_anew_under_another_key(vault: PluginSetting, settings: Any) -> None:  # noqa: F811
    Upstream.objects.create(name="u", tls_client_key="PRIVATE")
    earlier, settings.SECRET_KEY = settings.SECRET_KEY, "another"
    settings.SECRET_KEY_FALLBACKS = [earlier]
    call_command("config", "reseal")
    settings.SECRET_KEY_FALLBACKS = []
    assert PluginSetting.objects.get().config == CONFIG
    assert Upstream.objects.get(name="u").tls_client_key == "PRIVATE"
    assert selectors.document_of(1)["plugins"][0]["config"] == CONFIG
    assert ConfigVersion.objects.count() == 1
    assert leaked(tables()) == []


def test_what_opens_under_no_key_is_named_and_kept(vault: PluginSetting, settings: Any) -> None:  # noqa: F811
    earlier, settings.SECRET_KEY = settings.SECRET_KEY, "another"
    with pytest.raises(CommandError, match=r"plugins\.0\.config\.password"):
        call_command("config", "reseal")
    settings.SECRET_KEY = earlier
    assert PluginSetting.objects.get().config == CONFIG


def test_sealed_text_from_outside_is_not_opened_where_no_secret_belongs(vault: PluginSetting) -> None:  # noqa: F811
    stolen = sealing.seal("hunter2")
    assert sealing.UNREADABLE in str(config_problems("vault", CONFIG | {"url": stolen}, masking.registry()))
    vault.enabled, vault.config = False, CONFIG | {"url": stolen}
    vault.save()  # what is off is not checked
    assert PluginSetting.objects.get().config["url"] != "hunter2"


def test_the_migration_seals_what_is_there_and_can_be_taken_back(vault: PluginSetting) -> None:  # noqa: F811
    migration = importlib.import_module("routes.migrations.0011_sealed")
    with connection.schema_editor(atomic=False) as editor:
        migration.open_again(apps, editor)
        assert "hunter2" in tables()
        digest = json.dumps(list(ConfigVersion.objects.values_list("digest", flat=True)))
        migration.seal(apps, editor)
    assert leaked(tables()) == []
    assert json.dumps(list(ConfigVersion.objects.values_list("digest", flat=True))) == digest
    assert selectors.document_of(1)["plugins"][0]["config"] == CONFIG
    with connection.cursor() as cursor:
        cursor.execute("SELECT tgenabled FROM pg_trigger WHERE tgname = 'routes_configversion_keep'")
        assert cursor.fetchone() == ("O",)
