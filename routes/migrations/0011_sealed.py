"""Secrets of plugins and upstreams' keys are encrypted (`routes.sealing`): those that are there, too, in all versions.

Published versions are facts that triggers keep; what they say stays the same, so the trigger is off meanwhile. Of
plugins that are not installed nobody knows what is secret: all their texts are sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import migrations

import routes.sealing

FIELDS = {"PluginSetting": "config", "Upstream": "tls_client_key", "ConfigVersion": "document"}


def seal(apps: Any, schema_editor: Any) -> None:
    _each(apps, schema_editor, lambda row, field: row.save(update_fields=[field]))


def open_again(apps: Any, schema_editor: Any) -> None:
    """An update writes what was read, and that is plain."""
    _each(
        apps,
        schema_editor,
        lambda row, field: type(row).objects.filter(pk=row.pk).update(**{field: getattr(row, field)}),
    )


def _each(apps: Any, schema_editor: Any, write: Callable[[Any, str], Any]) -> None:
    models = {name: apps.get_model("routes", name) for name in FIELDS}
    if not any(model.objects.exists() for model in models.values()):
        return
    with _versions_open(schema_editor):
        for name, model in models.items():
            for row in model.objects.iterator(chunk_size=20):
                write(row, FIELDS[name])


@contextmanager
def _versions_open(schema_editor: Any) -> Iterator[None]:
    schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what waits for the end would forbid the next statement
    schema_editor.execute("ALTER TABLE routes_configversion DISABLE TRIGGER routes_configversion_keep")
    yield
    schema_editor.execute("ALTER TABLE routes_configversion ENABLE TRIGGER routes_configversion_keep")


class Migration(migrations.Migration):
    dependencies = [("routes", "0010_plugin_when")]
    operations = [
        migrations.AlterField("configversion", "document", routes.sealing.SealedDocument()),
        migrations.AlterField("pluginsetting", "config", routes.sealing.SealedConfig(blank=True, default=dict)),
        migrations.AlterField(
            "upstream",
            "tls_client_key",
            routes.sealing.SealedText(blank=True, default="", verbose_name="TLS: client key"),
        ),
        migrations.RunPython(seal, open_again),
    ]
