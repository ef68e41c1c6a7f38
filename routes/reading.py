"""Reads a document whatever its state: the entries that are sound, and every problem of those that are not.

Each entry is read on its own, so one bad field hides nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from routes.document import FORMAT, SECTIONS, PluginEntry, RouteEntry, setting_key
from routes.parts import Part
from routes.problems import Path, Problem, Row, pointer
from routes.syntax import target_host
from routes.upstreams import UpstreamEntry

P = TypeVar("P", bound=Part)


@dataclass(slots=True)
class Reading:
    """Sound entries by their place in the document. `named` also holds the names of unsound ones."""

    upstreams: dict[int, UpstreamEntry] = field(default_factory=dict)
    routes: dict[int, RouteEntry] = field(default_factory=dict)
    plugins: dict[int, PluginEntry] = field(default_factory=dict)
    mended: dict[int, RouteEntry] = field(default_factory=dict)  # unsound routes without their faulty fields
    named: dict[str, set[str]] = field(default_factory=lambda: {section: set() for section in SECTIONS})
    problems: list[Problem] = field(default_factory=list)


def read(document: object) -> Reading:
    reading = Reading()
    if not isinstance(document, Mapping):
        reading.problems.append(Problem((), (), "A configuration is a mapping with `format: 1`."))
        return reading
    if document.get("format") != FORMAT or document["format"] is True:
        reading.problems.append(Problem((), ("format",), f"This gateway reads `format: {FORMAT}`.", "/format"))
    for key in document:
        if key not in ("format", *SECTIONS):
            message = f"Unknown; a configuration has {', '.join(SECTIONS)}."
            reading.problems.append(Problem((), (str(key),), message, pointer((str(key),))))
    reading.upstreams = _section(reading, document, "upstreams", UpstreamEntry)
    reading.routes = _section(reading, document, "routes", RouteEntry)
    reading.plugins = _section(reading, document, "plugins", PluginEntry)
    return reading


def _section(reading: Reading, document: Mapping[str, Any], section: str, shape: type[P]) -> dict[int, P]:
    sound: dict[int, P] = {}
    entries = document.get(section, [])
    if not isinstance(entries, list):
        reading.problems.append(Problem((), (section,), "This is a list.", f"/{section}"))
        return sound
    for index, raw in enumerate(entries):
        row = _row(section, index, raw)
        try:
            sound[index] = shape.model_validate(raw)
        except ValidationError as error:
            faults = explain(error)
            for path, message in faults:
                part, rest = _part(raw, path)
                reading.problems.append(Problem(row + part, rest, message, pointer((section, index, *path))))
            if shape is RouteEntry:
                _mend(reading, index, raw, {path[0] for path, _ in faults if path})
        name = raw.get("name") if isinstance(raw, Mapping) else None
        if isinstance(name, str):
            if section != "plugins" and name in reading.named[section]:
                message = "The name is there twice."
                reading.problems.append(Problem(row, ("name",), message, pointer((section, index, "name"))))
            reading.named[section].add(name)
    return sound


def _mend(reading: Reading, index: int, raw: object, faulty: set[str | int]) -> None:
    """Keeps what an unsound route leads to, so that an unknown upstream is named together with the rest."""
    if isinstance(raw, Mapping) and not faulty & {"name", "upstreams"}:
        with suppress(ValidationError):
            reading.mended[index] = RouteEntry.model_validate({k: v for k, v in raw.items() if k not in faulty})


def explain(error: ValidationError) -> list[tuple[Path, str]]:
    """(path, sentence) of each fault, without pydantic's prefixes."""
    faults = []
    for fault in error.errors():
        reason = fault.get("ctx", {}).get("error")
        faults.append((fault["loc"], str(reason) if isinstance(reason, ValueError) else fault["msg"]))
    return faults


def _row(section: str, index: int, raw: object) -> Row:
    if not isinstance(raw, Mapping):
        return section, str(index)
    text = {key: value if isinstance(value, str) else "" for key, value in raw.items()}
    name = text.get("name") or str(index)
    if section != "plugins":
        return section, name
    return section, setting_key(name, *(text.get(key, "") for key in ("route", "upstream", "consumer")))


def _part(raw: object, path: Path) -> tuple[Row, Path]:
    """The part of a row that a path leads into, such as a target, and the rest of the path."""
    match path:
        case ("targets", int(index), *rest) if isinstance(raw, Mapping):
            return ("targets", _address(raw["targets"][index], index)), tuple(rest)
        case ("upstreams", int(index), *rest) if isinstance(raw, Mapping):
            part = raw["upstreams"][index]
            name = part.get("name") if isinstance(part, Mapping) else None
            return ("upstreams", name if isinstance(name, str) else str(index)), tuple(rest)
    return (), path


def _address(target: object, index: int) -> str:
    if not isinstance(target, Mapping) or not isinstance(target.get("host"), str):
        return str(index)
    return address(target["host"], target.get("port", 0))


def address(host: str, port: object) -> str:
    """As `TargetSpec.address`, for texts that need not be sound."""
    try:
        host = target_host(host)
    except ValueError:
        return f"{host}:{port}"
    if host.startswith("unix:"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
