"""Databases, gateways and upstreams for the end-to-end tests."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from psycopg.conninfo import make_conninfo

from tests.e2e.gateway import Gateway, running


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hg-e2e-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """A fresh database on the suite's PostgreSQL, as a connection string."""
    base = settings.DATABASES["default"]
    parts = {
        "host": base["HOST"], "port": base.get("PORT", ""), "user": base["USER"], "password": base.get("PASSWORD", ""),
    }  # fmt: skip
    parts = {key: value for key, value in parts.items() if value}
    name = f"hg_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(make_conninfo(dbname="postgres", **parts), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        yield make_conninfo(dbname=name, **parts)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def gateway(directory: Path, database_url: str, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """One worker unless the module says `GATEWAY_WORKERS = n`."""
    environment = {"DATABASE_URL": database_url, "REDIS_URL": settings.REDIS_URL}
    workers = getattr(request.module, "GATEWAY_WORKERS", 1)
    with running(Gateway(directory, environment, workers)) as started:
        yield started
