"""Regular expressions that operators write: RE2, whose time is linear in the text whatever they are."""

from __future__ import annotations

from typing import Any

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # a bad expression is an answer to its author, not a line on our standard error


def compiled(expression: str) -> Any:
    """Raises ValueError with a sentence for the person who wrote it."""
    try:
        return re2.compile(expression, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"'{expression}' is not a regular expression RE2 accepts: {reason}.") from error
