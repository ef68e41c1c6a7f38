"""What the control plane checks settings by: the plugins this process knows, and where upstreams may be."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from django.conf import settings

from gateway.plugins.references import References
from gateway.plugins.registry import Registry, files_of
from gateway.proxy.fence import Fence


def registry() -> Registry:
    """Loaded anew when a file of GATEWAY_PLUGIN_DIR has changed. Raises RegistryProblems."""
    directory: Path | None = settings.ENVIRONMENT.plugin_dir
    return _load(tuple(settings.ENVIRONMENT.plugins), directory, files_of(directory))


def fence() -> Fence:
    found: Fence = settings.ENVIRONMENT.fence
    return found


def references() -> References | None:
    """None where no traffic is served: variables and files are those of other machines then."""
    environment = settings.ENVIRONMENT
    return None if environment.role == "admin" else environment.references


@lru_cache(maxsize=1)
def _load(paths: tuple[str, ...], directory: Path | None, seen: tuple[tuple[str, int, int], ...]) -> Registry:
    return Registry.load(paths, directory)
