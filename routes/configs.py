"""A plugin's config as text becomes what a plugin is made with, or every fault of it. Pure but for references, which
are looked up in the environment and in files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.plugins import references as refer
from gateway.plugins.references import At, References
from gateway.plugins.registry import ConfigProblems, Registry
from routes import sealing
from routes.problems import Path

Faults = list[tuple[Path, str]]


def config_problems(
    name: str, config: Mapping[str, Any], registry: Registry, references: References | None = None
) -> Faults:
    """(path, sentence) for each fault of one enabled setting; the path starts at `name` or `config`."""
    return config_of(name, config, registry, references)[1]


def config_of(
    name: str,
    config: Mapping[str, Any],
    registry: Registry,
    references: References | None = None,
    *,
    resolve: bool = False,
) -> tuple[Any, Faults]:
    """The validated Config (None with faults). `references` None: they cannot be looked up here, so they are fine.

    Without `resolve` the Config holds references as they are written: it is to be shown, not to be worked with.
    """
    if name not in registry:
        return None, [(("name",), f"There is no plugin '{name}'. There are: {', '.join(registry.names)}.")]
    if sealed := [(("config", *path), sealing.UNREADABLE) for path in sealing.unreadable(config)]:
        return None, sealed
    places = refer.places(config)
    if not places:
        return _validated(registry, name, config)
    if references is not None:
        full, missing = references.resolved(config)
        if missing:
            return None, [(("config", *path), message) for path, message in missing]
        made, faults = _validated(registry, name, full)
        if faults or resolve:
            return made, _told(faults, config, full)
    made, faults = _validated(registry, name, config)
    others = [fault for fault in faults if not _may_be_a_references(fault[0][1:], places)]
    return made or registry[name].Config.model_construct(**config), others


def _validated(registry: Registry, name: str, config: Mapping[str, Any]) -> tuple[Any, Faults]:
    try:
        return registry.validate(name, config), []
    except ConfigProblems as error:
        return None, [(("config", *_path(path)), message) for path, message in error.problems]


def _told(faults: Faults, config: Mapping[str, Any], full: Any) -> Faults:
    """Without what the references stand for."""
    return [
        (("config", *path), text)
        for path, text in refer.told([(path[1:], text) for path, text in faults], config, full)
    ]


def _may_be_a_references(path: Path, places: Sequence[At]) -> bool:
    """A reference is too short, or no number, where its value is neither; nor can anything be said of the whole."""
    return any(path[: len(at)] == at or at[: len(path)] == path for at in places)


def _path(dotted: str) -> Path:
    return tuple(int(part) if part.isdecimal() else part for part in dotted.split(".")) if dotted else ()
