"""How pages change the configuration: one version, an entry in the audit trail, toasts that say what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import models
from django.http import HttpRequest, HttpResponse

from gateway.plugins.registry import RegistryProblems
from routes import services
from routes.models import ConfigVersion
from routes.problems import CompileError
from routes.publishing import announce, tell

SOURCE = "dashboard"


def edit(request: HttpRequest, comment: str, write: Callable[[], models.Model]) -> bool:
    """`write` changes rows and gives the one that the audit trail names. False: refused, and nothing has changed."""
    try:
        with services.change(author=request.user.get_username(), source=SOURCE, comment=comment) as change:
            log(request.user.pk, write(), comment)
    except (CompileError, RegistryProblems) as error:
        _refused(request, "Nothing was changed.", error)
        return False
    tell(request, change)
    return True


def publish(request: HttpRequest, write: Callable[[], ConfigVersion]) -> bool:
    """Publish or roll back."""
    try:
        version = write()
    except (CompileError, RegistryProblems) as error:
        _refused(request, "Nothing was published.", error)
        return False
    announce(request, version.number)
    return True


def log(user_id: Any, row: models.Model, words: str) -> None:
    LogEntry.objects.log_actions(user_id, [row], CHANGE, words, single_object=True)


def toasts(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Put what was to be said into an htmx answer; `toasts.js` shows it."""
    said = [{"text": str(message), "kind": message.level_tag} for message in messages.get_messages(request)]
    response["HX-Trigger"] = json.dumps({"hg:toasts": said})
    return response


def _refused(request: HttpRequest, words: str, error: CompileError | RegistryProblems) -> None:
    for problem in error.problems:
        messages.error(request, f"{words} {problem}")
