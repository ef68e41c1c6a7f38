"""How pages change the configuration: one version, and toasts that say what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse

from routes import services
from routes.models import ConfigVersion
from routes.problems import CompileError
from routes.publishing import announce, tell

SOURCE = "dashboard"


def edit(request: HttpRequest, comment: str, write: Callable[[], None]) -> bool:
    """`write` changes rows. False: refused, and nothing has changed."""
    try:
        with services.change(author=request.user, source=SOURCE, comment=comment) as change:
            write()
    except CompileError as error:
        _refused(request, "Nothing was changed.", error)
        return False
    tell(request, change)
    return True


def publish(request: HttpRequest, write: Callable[[], ConfigVersion]) -> bool:
    """Publish or roll back."""
    try:
        version = write()
    except CompileError as error:
        _refused(request, "Nothing was published.", error)
        return False
    announce(request, version.number)
    return True


def toasts(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Put what was to be said into an htmx answer; `toasts.js` shows it."""
    said = [{"text": str(message), "kind": message.level_tag} for message in messages.get_messages(request)]
    response["HX-Trigger"] = json.dumps({"hg:toasts": said})
    return response


def _refused(request: HttpRequest, words: str, error: CompileError) -> None:
    for problem in error.problems:
        messages.error(request, f"{words} {problem}")
