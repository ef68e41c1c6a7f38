"""`manage.py prepare`: the release step that several nodes may take at the same moment."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from django.conf import settings

from tests.running import running


def test_nodes_that_start_together_migrate_once_and_make_one_admin(tmp_path: Path, database_url: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    query = "&".join(f"{key}={value}" for key, value in parts.items() if key != "dbname")
    environment = {"DATABASE_URL": f"postgres:///{parts['dbname']}?{query}", "REDIS_URL": settings.REDIS_URL}

    def node(name: str) -> dict[str, str]:
        return {**environment, "GATEWAY_DATA_DIR": str(tmp_path / name)}

    with (
        running("prepare", log=tmp_path / "one.log", environment=node("one")) as one,
        running("prepare", log=tmp_path / "two.log", environment=node("two")) as two,
    ):
        assert one.wait(60) == 0, one.output
        assert two.wait(60) == 0, two.output
    made = [name for name in ("one", "two") if (tmp_path / name / "secrets" / "admin-password").exists()]
    assert len(made) == 1
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT username FROM auth_user").fetchall() == [("admin",)]
    assert os.stat(tmp_path / made[0] / "secrets" / "admin-password").st_mode & 0o777 == 0o600
