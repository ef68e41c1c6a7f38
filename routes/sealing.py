"""Secrets of the configuration as PostgreSQL has them: encrypted under SECRET_KEY. Above the database they are plain.

The fields below seal as a row is written, each secret by itself, and open as it is read, so neither a backup nor who
reads the tables has a secret. What was written before is plain and stays readable. A secret that cannot be opened, for
SECRET_KEY is another now, stays sealed: `unreadable` finds it, and no plugin is made with it. `SECRET_KEY_FALLBACKS`
opens, too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import models

from gateway.plugins import references
from routes import masking
from routes.problems import Path

HEAD = "sealed:1:"
FIELDS = {"PluginSetting": "config", "Upstream": "tls_client_key", "ConfigVersion": "document"}
UNREADABLE = "This secret was stored under another SECRET_KEY and cannot be read. Write it anew."
_PURPOSE = b"hydragate secrets of the configuration 1"


def seal(secret: Any) -> Any:
    """What is empty, or a reference to a secret kept elsewhere, is none."""
    if secret in (None, "", [], {}) or references.is_one(secret) or is_sealed(secret):
        return secret
    return HEAD + _fernet().encrypt(json.dumps(secret).encode()).decode()


def stored(value: Any, secret: bool) -> Any:
    """Sealed text where no secret belongs comes from outside: it must not be opened there."""
    if secret:
        return seal(value)
    return f" {value}" if is_sealed(value) else value


def opened(value: Any) -> Any:
    """A copy with what was sealed; the very value if nothing was."""
    if isinstance(value, str):
        return _opened(value) if is_sealed(value) else value
    if isinstance(value, Mapping):
        return {name: opened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [opened(part) for part in value]
    return value


def unreadable(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where something is that could not be opened."""
    if isinstance(value, str):
        if is_sealed(value):
            yield at
        return
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from unreadable(part, (*at, name))


def is_sealed(value: object) -> bool:
    return isinstance(value, str) and value.startswith(HEAD)


def _opened(text: str) -> Any:
    from cryptography.fernet import InvalidToken  # 8 MB that a worker without such secrets does not need

    try:
        return json.loads(_fernet().decrypt(text.removeprefix(HEAD)))
    except InvalidToken:
        return text


def _fernet() -> Any:
    return _fernet_of((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=4)
def _fernet_of(keys: tuple[str, ...]) -> Any:
    from cryptography.fernet import Fernet, MultiFernet

    made = [base64.urlsafe_b64encode(hmac.digest(key.encode(), _PURPOSE, hashlib.sha256)) for key in keys]
    return MultiFernet([Fernet(key) for key in made])


def rewrite(models: Mapping[str, Any], execute: Callable[[str], Any], write: Callable[[Any, str], Any]) -> int:
    """`write(row, field)` for every row of these models that may hold secrets; how many those are.

    Published versions are facts that a trigger keeps. What they say stays the same, so it is off meanwhile: needs a
    transaction.
    """
    if not any(model.objects.exists() for model in models.values()):
        return 0
    execute("SET CONSTRAINTS ALL IMMEDIATE")  # what waits for the end would forbid the next statement
    execute("ALTER TABLE routes_configversion DISABLE TRIGGER routes_configversion_keep")
    rows = 0
    for name, model in models.items():
        for row in model.objects.iterator(chunk_size=20):
            write(row, FIELDS[name])
            rows += 1
    execute("ALTER TABLE routes_configversion ENABLE TRIGGER routes_configversion_keep")
    return rows


# --- fields of models -------------------------------------------------------------------------------------------------


class SealedConfig(models.JSONField):
    """The `config` of a row whose `name` is the plugin's."""

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        config = super().pre_save(model_instance, add)
        return masking.with_secrets(model_instance.name, config, stored)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return opened(super().from_db_value(value, expression, connection))


class SealedDocument(models.JSONField):
    """A whole configuration."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return masking.document_with_secrets(super().pre_save(model_instance, add), stored)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return opened(super().from_db_value(value, expression, connection))


class SealedText(models.TextField):  # no generic at run time
    """A text that is secret as a whole."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return seal(super().pre_save(model_instance, add))

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return opened(value)
