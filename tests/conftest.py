"""Starts what the suite needs, once: embedded PostgreSQL and Valkey, unless DATABASE_URL / REDIS_URL name others."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import django
import pytest

# Before Django's settings are read: a data directory of the suite's own, in a short path other accounts can reach.
DATA_DIR = Path(tempfile.mkdtemp(prefix="hg-test-"))
DATA_DIR.chmod(0o755)
os.environ["GATEWAY_DATA_DIR"] = str(DATA_DIR)
os.environ["DJANGO_SETTINGS_MODULE"] = "gateway.settings"
os.environ.setdefault("SECRET_KEY", "only-for-tests")

from gateway import embedded  # noqa: E402

SERVERS = pytest.StashKey[embedded.Servers]()


def pytest_configure(config: pytest.Config) -> None:
    wanted = {"postgres": not os.environ.get("DATABASE_URL"), "valkey": not os.environ.get("REDIS_URL")}
    if any(wanted.values()):
        config.stash[SERVERS] = servers = embedded.Servers(DATA_DIR, **wanted)
        servers.start()
    django.setup()  # now that the settings can name the servers


def pytest_unconfigure(config: pytest.Config) -> None:
    if servers := config.stash.get(SERVERS, None):
        servers.stop()
    shutil.rmtree(DATA_DIR, ignore_errors=True)
