"""References in plugins' configs: `${env:PLUGIN_TOKEN}` and `${file:vault/token}`, alone or within a text.

A worker puts in what they stand for when it makes its table, so that a secret is neither in the database, nor in an
export, nor on a page. Which variables and which files may be named is the operator's setting: who may publish a
configuration may have a plugin say what a reference stands for. `$${env:…}` is the plain text `${env:…}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Whatever the list of allowed variables says.
NEVER = frozenset({"SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL", "REDIS_URL"})
MAX_BYTES = 65_536
_REFERENCE = re.compile(r"(?P<escape>\$)?\$\{(?P<kind>env|file):(?P<name>[^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")

At = tuple[str | int, ...]  # names and indexes that lead to a place in a config


class Unresolved(ValueError):
    """A sentence for who wrote the reference. Never says what a variable or a file holds."""


class References:
    """`allowed`: names of variables; one that ends in `*` stands for all that begin so. No directory: no files."""

    def __init__(self, environ: Mapping[str, str], allowed: Sequence[str] = (), directory: Path | None = None) -> None:
        self._environ, self._directory = environ, directory
        self._names = frozenset(word for word in allowed if not word.endswith("*"))
        self._heads = tuple(word[:-1] for word in allowed if word.endswith("*"))

    def resolved(self, config: Any) -> tuple[Any, list[tuple[At, str]]]:
        """A copy with what the references stand for; and what cannot be had, with its place."""
        faults: list[tuple[At, str]] = []

        def put_in(text: str, at: At) -> str:
            try:
                return _REFERENCE.sub(self._value, text)
            except Unresolved as error:
                faults.append((at, str(error)))
                return text

        return _mapped(config, put_in), faults

    def _value(self, match: re.Match[str]) -> str:
        if match["escape"]:
            return match[0][1:]
        return self._variable(match["name"]) if match["kind"] == "env" else self._file(match["name"])

    def _variable(self, name: str) -> str:
        if name in NEVER or not (name in self._names or name.startswith(self._heads)):
            raise Unresolved(f"The variable '{name}' may not be named here: GATEWAY_SECRETS_ENV says which may.")
        if not self._environ.get(name):
            raise Unresolved(f"The variable '{name}' is not set where this worker runs.")
        return self._environ[name]

    def _file(self, name: str) -> str:
        if self._directory is None:
            raise Unresolved("Files cannot be named here: GATEWAY_SECRETS_DIR says in which directory they are.")
        try:
            directory = self._directory.resolve(strict=True)
            path = (directory / name).resolve(strict=True)  # links are followed: what counts is where they lead
            if not path.is_relative_to(directory) or path == directory:
                raise Unresolved(f"The file '{name}' is not in GATEWAY_SECRETS_DIR.")
            with path.open("rb") as file:
                text = file.read(MAX_BYTES + 1).decode()
        except (OSError, ValueError) as error:
            if isinstance(error, Unresolved):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no text in UTF-8"
            raise Unresolved(f"The file '{name}' cannot be read: {reason}.") from None
        text = text.removesuffix("\n").removesuffix("\r")
        if len(text) > MAX_BYTES or not text or "\0" in text:
            raise Unresolved(f"The file '{name}' is empty, larger than {MAX_BYTES} bytes, or no text.")
        return text


def is_one(value: object) -> bool:
    """A text that is a reference and nothing else: no secret, so it may be shown."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return match is not None and not match["escape"]


def places(config: Any) -> list[At]:
    """Where references stand."""
    found: list[At] = []

    def note(text: str, at: At) -> str:
        if _REFERENCE.search(text):
            found.append(at)
        return text

    _mapped(config, note)
    return found


def check_names(words: Sequence[str]) -> None:
    """Of GATEWAY_SECRETS_ENV. Raises ValueError."""
    for word in words:
        if not _NAME.fullmatch(word):
            raise ValueError(f"'{word}' is neither a variable's name nor the beginning of one, such as PLUGIN_*.")


def _mapped(value: Any, change: Any, at: At = ()) -> Any:
    """A copy with every text put through `change`. Names of fields are left alone."""
    if isinstance(value, str):
        return change(value, at) if "${" in value else value
    if isinstance(value, Mapping):
        return {name: _mapped(part, change, (*at, name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(part, change, (*at, index)) for index, part in enumerate(value)]
    return value


def told(problems: Sequence[tuple[At, str]], given: Any, put_in: Any) -> Iterator[tuple[At, str]]:
    """Problems of a config with values put in, without those values."""
    where = places(given)
    values = sorted(((_at(put_in, at), _at(given, at)) for at in where), key=lambda pair: -len(pair[0]))
    for path, text in problems:
        if any(path[: len(at)] == at for at in where):
            unknown = text.startswith("There is no such field")
            yield path, text if unknown else "What this refers to does not fit here."
            continue
        for value, reference in values:
            text = text.replace(value, reference)
        yield path, text


def _at(config: Any, at: At) -> str:
    for step in at:
        config = config[step]
    return str(config)
