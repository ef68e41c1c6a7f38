"""What an edit of the working copy did to each row, for the audit trail: read off the documents before and after.

So every door tells the same, whatever its form or request looked like: `services` calls `record`, nobody else has to.
Rows are met by id: one with another name is the same row. A change of a target or of a plugin's setting is told twice,
in its own history and in that of the upstream or route it is a part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.db.models import Model

from keys import trail
from keys.trail import Author
from routes import masking
from routes.document import setting_key
from routes.models import ConfigVersion, PluginSetting, Route, Target, Upstream
from routes.reading import address

Key = tuple[str, int]
Entries = dict[Key, dict[str, Any]]
Document = Mapping[str, Any]

_MODELS: dict[str, type[Model]] = {"upstreams": Upstream, "targets": Target, "routes": Route, "plugins": PluginSetting}
_IDS = ("id", "consumer_id", "targets")


def record(author: Author, before: Document, after: Document) -> None:
    """An entry for each row that differs, in one statement. Inside the transaction of the edit."""
    if (user_id := trail.user_id_of(author)) is None:
        return
    old, new = _entries(before, after), _entries(after, after)
    wholes_before, wholes_after = _wholes(before), _wholes(after)
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    parts: dict[Key, list[Key]] = {key: [] for key in changed}
    for key in changed:
        for whole in sorted({wholes_before.get(key, key), wholes_after.get(key, key)} - {key}):
            parts.setdefault(whole, []).append(key)
    trail.save(
        trail.entry(user_id, _MODELS[key[0]], key[1], _called(key, new.get(key) or old[key]), steps)
        for key, inside in parts.items()
        if (steps := list(_steps(key, inside, old, new)))
    )


def version_record(author: Author, version: ConfigVersion, live: int, said: str) -> None:
    """What was published by itself, not by an edit. `live`: the number of the version before it, 0 for none."""
    if (user_id := trail.user_id_of(author)) is not None:
        message = trail.changed({"live": live or None}, {"live": version.number}, said)
        trail.save([trail.entry(user_id, ConfigVersion, version.pk, str(version), message)])


def _entries(document: Document, names: Document) -> Entries:
    """`names`: the document that says what an upstream is called, so that only its own row tells of another name."""
    called = {row["id"]: row["name"] for row in (*document.get("upstreams", ()), *names.get("upstreams", ()))}
    found: Entries = {}
    for section in ("upstreams", "routes", "plugins"):
        for row in document.get(section, ()):
            found[section, row["id"]] = {name: value for name, value in row.items() if name not in _IDS}
    for upstream in document.get("upstreams", ()):
        for target in upstream["targets"]:
            told = {name: value for name, value in target.items() if name not in _IDS}
            found["targets", target["id"]] = {**told, "upstream": called[upstream["id"]]}
    return found


def _wholes(document: Document) -> dict[Key, Key]:
    """Target → its upstream; setting → its route or upstream, if it is for one."""
    ids = {(kind, row["name"]): row["id"] for kind in ("upstreams", "routes") for row in document.get(kind, ())}
    found: dict[Key, Key] = {}
    for upstream in document.get("upstreams", ()):
        found |= {("targets", target["id"]): ("upstreams", upstream["id"]) for target in upstream["targets"]}
    for row in document.get("plugins", ()):
        place = ("routes", row["route"]) if row["route"] else ("upstreams", row["upstream"])
        if place in ids:
            found["plugins", row["id"]] = place[0], ids[place]
    return found


def _steps(key: Key, parts: Iterable[Key], old: Entries, new: Entries) -> Iterator[dict[str, Any]]:
    """What became of the row itself, then of its parts."""
    for one in (key, *parts):
        before, after = old.get(one), new.get(one)
        if before != after:
            named = {} if one == key and after else _naming(one, after or before or {})
            yield _step(named, _told(one, before), _told(one, after))


def _step(named: dict[str, str], before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    if before is None:
        return {"added": {**named, "after": after}}
    if after is None:
        return {"deleted": {**named, "before": before}}
    return {"changed": {**named, **trail.changed(before, after)[0]["changed"]}}


def _naming(key: Key, row: Mapping[str, Any]) -> dict[str, str]:
    return {"name": str(_MODELS[key[0]]._meta.verbose_name), "object": _called(key, row)}


def _told(key: Key, row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """As the trail may keep it: without secrets."""
    return None if row is None else masking.mask_entry(key[0], row)


def _called(key: Key, row: Mapping[str, Any]) -> str:
    match key[0]:
        case "targets":
            return address(row["host"], row["port"])
        case "plugins":
            return setting_key(row["name"], row["route"], row["upstream"], row["consumer"])
    return str(row["name"])
