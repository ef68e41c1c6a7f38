"""A registry of three plugins of our own, so that these tests say nothing about the real ones' configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.environment import Environment
from gateway.plugins.registry import Registry

PLUGIN_DIR = Path(__file__).parent / "plugins"


@pytest.fixture
def registry() -> Registry:
    return Registry.load([], PLUGIN_DIR)


@pytest.fixture
def environment(settings) -> Environment:
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(
        update={"plugins": [], "plugin_dir": PLUGIN_DIR, "autopublish": True}
    )
    return settings.ENVIRONMENT


@pytest.fixture
def drafts(environment, settings) -> None:
    """GATEWAY_AUTOPUBLISH=off."""
    settings.ENVIRONMENT = environment.model_copy(update={"autopublish": False})
