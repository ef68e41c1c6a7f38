"""Secrets of plugins and upstreams' keys are encrypted (`routes.sealing`): those that are there, too, in all versions.

Of plugins that are not installed nobody knows what is secret: all their texts are sealed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import migrations

import routes.sealing


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
    models = {name: apps.get_model("routes", name) for name in routes.sealing.FIELDS}
    routes.sealing.rewrite(models, schema_editor.execute, write)


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
