"""System checks (`manage.py check`): what the environment says, tried out before anything starts.

Values themselves are checked where they are read (`gateway.environment`); here is what needs more than the value.
"""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register

from gateway.plugins.registry import Registry, RegistryProblems


@register()
def plugins_load(**kwargs: Any) -> list[CheckMessage]:
    try:
        Registry.load(settings.ENVIRONMENT.plugins, settings.ENVIRONMENT.plugin_dir)
    except RegistryProblems as error:
        return [
            Error(problem, hint="See GATEWAY_PLUGINS and GATEWAY_PLUGIN_DIR.", id="gateway.E001")
            for problem in error.problems
        ]
    return []


@register()
def data_directory_is_ours(**kwargs: Any) -> list[CheckMessage]:
    """The nearest part of the path that exists must let us in and write."""
    directory = settings.ENVIRONMENT.data_dir.absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    message = f"The data directory {directory} cannot be written: {existing} does not allow it."
    return [Error(message, hint="Set GATEWAY_DATA_DIR to a directory of your own.", id="gateway.E002")]


@register(deploy=True)
def debug_is_off(**kwargs: Any) -> list[CheckMessage]:
    if not settings.DEBUG:
        return []
    return [checks.Warning("Debug pages are on.", hint="Unset GATEWAY_DEBUG.", id="gateway.W001")]
