"""Configurations as Snapshots, for pages that explain them. Workers load theirs in `gateway.runtime`."""

from __future__ import annotations

from gateway.plugins.registry import Registry
from gateway.proxy.snapshot import Snapshot
from routes import selectors
from routes.catalogue import registry
from routes.compile import compile as compile_document
from routes.models import Route

#: The last one asked for. Replaced whole; its version and its plugins say whether it still holds.
_last: tuple[str, Registry, Snapshot] | None = None


def live() -> Snapshot | None:
    """None before anything was published. Raises CompileError when it needs plugins that are gone.

    One query while the version stays the same, two when it has changed.
    """
    global _last
    _, digest = selectors.live_version()
    plugins = registry()
    if not digest:
        return None
    if _last is None or _last[0] != digest or _last[1] is not plugins:
        found = selectors.live_document()
        if found is None:
            return None
        number, digest, document = found
        _last = digest, plugins, compile_document(document, plugins, version=number)
    return _last[2]


def with_route(route: Route) -> Snapshot:
    """The working copy with that route enabled: what it would do. Raises CompileError."""
    document = selectors.working_document()
    for entry in document["routes"]:
        if entry["id"] == route.pk:
            entry["enabled"] = True
    return compile_document(document, registry())
