"""What the control plane checks settings by: the plugins this process knows, and where upstreams may be."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from gateway.plugins.references import References
from gateway.plugins.registry import Registry, files_of
from gateway.proxy.fence import Fence

logger = logging.getLogger(__name__)


def registry() -> Registry:
    """Loaded anew when a file of GATEWAY_PLUGIN_DIR has changed. Of one that cannot be imported any more, what this
    process knew before goes on; of one that never could, the plugins are not there.
    """
    directory: Path | None = settings.ENVIRONMENT.plugin_dir
    return _load(tuple(settings.ENVIRONMENT.plugins), directory, files_of(directory))


def fence() -> Fence:
    found: Fence = settings.ENVIRONMENT.fence
    return found


def references() -> References | None:
    """None where no traffic is served: variables and files are those of other machines then."""
    environment = settings.ENVIRONMENT
    return None if environment.role == "admin" else environment.references


_last: tuple[Path | None, Registry | None] = None, None  # replaced whole


@lru_cache(maxsize=1)
def _load(paths: tuple[str, ...], directory: Path | None, seen: tuple[tuple[str, int, int], ...]) -> Registry:
    global _last
    before = _last[1] if _last[0] == directory else None
    found, problems = Registry.load_sound(paths, directory, before)
    if problems:
        logger.warning("plugins that cannot be used: %s", " ".join(problems))
    _last = directory, found
    return found
