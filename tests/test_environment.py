from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import environment
from gateway.environment import ROOT


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_") or name in ("PORT", "DATABASE_URL", "REDIS_URL", "SECRET_KEY"):
            monkeypatch.delenv(name)


def test_defaults_are_a_gateway_on_this_machine() -> None:
    settings = environment.load()
    assert (settings.role, settings.port, settings.autopublish, settings.database_url) == ("all", 8080, True, "")
    assert settings.plugins == environment.PLUGINS


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8")
    monkeypatch.setenv("GATEWAY_ALLOWED_HOSTS", "a.test,b.test")
    settings = environment.load()
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    assert settings.allowed_hosts == ["a.test", "b.test"]


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "eighty")
    monkeypatch.setenv("GATEWAY_WORKERS", "0")
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", "10.0.0.0/33")
    with pytest.raises(environment.BadEnvironment) as caught:
        environment.load()
    said = str(caught.value)
    assert all(f"\n  {name}: " in said for name in ("PORT", "GATEWAY_WORKERS", "GATEWAY_TRUSTED_PROXIES"))


def test_secrets_may_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "key"))
    assert environment.load().secret_key == "from a file"
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(environment.BadEnvironment, match="SECRET_KEY_FILE: cannot read"):
        environment.load()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GATEWAY_WORKERS": "many"}, "GATEWAY_WORKERS"),
        ({"GATEWAY_PLUGINS": "gateway.plugins.acl.Misspelt"}, "gateway.E001"),
        ({"GATEWAY_DATA_DIR": "/dev/null/none"}, "gateway.E002"),
    ],
)
def test_check_refuses_nonsense_without_a_traceback(variables: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env={**os.environ, "SECRET_KEY": "x", **variables},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_away_is_said_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "config", "export"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "SECRET_KEY": "x", "DATABASE_URL": "postgres://someone@127.0.0.1:1/none"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("PostgreSQL cannot be used: ")
    assert "Traceback" not in done.stderr
