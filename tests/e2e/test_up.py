"""`manage.py up` as a newcomer meets it: an empty directory, one command, one printed line that works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from django.conf import settings

from gateway.embedded import places
from gateway.management.commands.up import interruptible
from tests.e2e.gateway import wait_until
from tests.running import Running, alive, free_port, get, ordinary_user, running, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

UNSET = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "GATEWAY_LOG_LEVEL"), "")
READY_S = 60.0
PER_MINUTE = 100


@dataclass
class Home:
    """One instance: its data directory and port, through several starts."""

    data_dir: Path
    port: int
    stack: ExitStack
    starts: int = 0

    def up(self, *arguments: str, environment: dict[str, str] | None = None, **popen: Any) -> Running:
        self.starts += 1
        own = {
            **UNSET,
            "GATEWAY_DATA_DIR": str(self.data_dir),
            "PORT": str(self.port),
            "GATEWAY_WORKERS": "2",
            **(environment or {}),
        }
        log = self.data_dir.with_name(f"{self.data_dir.name}-{self.starts}.log")
        return self.stack.enter_context(running("up", *arguments, log=log, environment=own, **popen))

    @property
    def database_url(self) -> str:
        return places.at(self.data_dir).database_url

    def rows(self) -> int:
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute("SELECT count(*) FROM usage_row").fetchone()
            assert row is not None
            return int(row[0])


Homes = Callable[[], Home]


@pytest.fixture
def homes() -> Iterator[Homes]:
    """Below /tmp itself: as root, the servers' account has no way into pytest's own 0700 directories."""
    with tempfile.TemporaryDirectory(prefix="hg-up-") as top, ExitStack() as stack:
        os.chmod(top, 0o755)
        made: list[Home] = []

        def make() -> Home:
            made.append(Home(Path(top, f"home{len(made)}"), free_port(), stack))
            return made[-1]

        yield make
        stack.close()
        for home in made:
            link = home.data_dir / "servers"
            if link.is_symlink():
                shutil.rmtree(link.resolve())


def printed_curl(node: Running) -> tuple[int, str, dict[str, str]]:
    """Port, path and headers of the printed line; a fresh machine has no curl."""
    [line] = re.findall(r"^ *(curl .*)$", node.output, re.MULTILINE)
    command, option, flag, header, url = shlex.split(line)
    assert (command, option, flag) == ("curl", "-i", "-H")
    name, value = header.split(": ")
    parts = urlsplit(url)
    return parts.port or 0, parts.path, {name: value}


def follow(node: Running) -> int:
    """The status that the printed line gives."""
    return get(*printed_curl(node))[0]


def test_a_first_start_from_nothing_to_a_usage_row(homes: Homes) -> None:
    home = homes()
    node = home.up().says("Ctrl-C stops everything", READY_S)
    port, path, headers = printed_curl(node)
    assert port == home.port

    status, answer, body = get(port, path, headers)
    assert status == 200, body
    assert b'"x-consumer-username"' in body
    assert answer["ratelimit"]
    wait_for(lambda: home.rows() == 1, 2.0)

    assert get(port, "/echo/hello")[0] == 200
    assert get(port, path)[0] == 401
    statuses = [get(port, path, headers)[0] for _ in range(PER_MINUTE)]
    assert statuses == [200] * (PER_MINUTE - 1) + [429]
    status, answer, _ = get(port, path, headers)
    assert status == 429
    assert answer["ratelimit"]
    assert int(answer["retry-after"]) > 0

    assert get(port, "/ready")[0] == 200
    assert get(port, "/metrics")[0] == 200

    family = node.family
    node.signal(signal.SIGINT)
    assert node.wait() == 0
    assert not any(map(alive, family))


def test_secrets_are_kept_for_their_owner_and_shown_once(homes: Homes) -> None:
    home = homes()
    first = home.up().says("Ctrl-C stops everything", READY_S)
    secrets = home.data_dir / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    for name in ("secret-key", "admin-password", "demo-key"):
        assert (secrets / name).stat().st_mode & 0o777 == 0o600
    password = (secrets / "admin-password").read_text().strip()
    assert first.output.count(f"password {password}") == 1
    assert logs_in(home.port, "admin", password)
    line = printed_curl(first)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0

    began_s = time.monotonic()
    second = home.up().says("Ctrl-C stops everything", READY_S)
    assert time.monotonic() - began_s < 20  # seconds on a quiet machine; the bound leaves room for a busy one
    assert password not in second.output
    assert printed_curl(second) == line
    assert follow(second) == 200
    assert "\x1b" not in second.output  # no colours when piped


def test_nothing_outlives_a_killed_parent_and_the_next_start_recovers(homes: Homes) -> None:
    home = homes()
    node = home.up().says("Ctrl-C stops everything", READY_S)
    family = node.family
    assert len(family) >= 6  # two servers, recorder, echo, two workers
    node.signal(signal.SIGKILL)
    node.wait()
    wait_for(lambda: not any(map(alive, family)), 20)
    again = home.up().says("Ctrl-C stops everything", READY_S)
    assert follow(again) == 200


def test_two_live_side_by_side(homes: Homes) -> None:
    one, other = homes(), homes()
    nodes = [home.up("--no-demo") if home is other else home.up() for home in (one, other)]
    for node in nodes:
        node.says("Ctrl-C stops everything", READY_S)
    assert follow(nodes[0]) == 200
    assert get(other.port, "/echo/hello")[0] == 404
    assert "curl" not in nodes[1].output


def test_a_second_start_on_the_same_directory_is_refused(homes: Homes) -> None:
    home = homes()
    home.up("--no-demo").says("Ctrl-C stops everything", READY_S)
    second = home.up(environment={"PORT": str(free_port())})
    assert second.wait() == 1
    assert "is already running on" in second.output
    assert "Traceback" not in second.output


def test_a_taken_port_is_found_before_anything_is_started(homes: Homes) -> None:
    home = homes()
    with socket.socket() as other:
        other.bind(("127.0.0.1", home.port))
        other.listen()
        node = home.up()
        assert node.wait() == 1
    assert f"Port {home.port} on 127.0.0.1 is taken" in node.output
    assert "Traceback" not in node.output
    assert not (home.data_dir / "servers").exists()


def test_an_unreachable_database_is_said_in_a_sentence(homes: Homes) -> None:
    unreachable = f"postgres://someone@127.0.0.1:{free_port()}/none"
    node = homes().up(environment={"DATABASE_URL": unreachable})
    assert node.wait(READY_S) == 1
    assert "PostgreSQL cannot be used" in node.output
    assert "Traceback" not in node.output


def test_servers_of_your_own_are_used_and_nothing_is_embedded(homes: Homes, database_url: str) -> None:
    home = homes()
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    host, name = parts.pop("host"), parts.pop("dbname")
    query = "&".join(f"{key}={value}" for key, value in {"host": host, **parts}.items())
    url = f"postgres:///{name}?{query}"
    node = home.up(environment={"DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL})
    node.says("Ctrl-C stops everything", READY_S)
    assert follow(node) == 200
    assert not (home.data_dir / "servers").exists()


@pytest.mark.parametrize("moment", ["HydraGate, data in", "PostgreSQL ready"])
def test_an_interrupted_start_leaves_nothing_running(homes: Homes, moment: str) -> None:
    home = homes()
    node = home.up().says(moment, READY_S)
    family = node.family
    node.signal(signal.SIGTERM)
    assert node.wait() == 130
    wait_until(lambda: not any(map(alive, family)), 2, "everything it started has ended")
    assert "Traceback" not in node.output


def test_an_interrupt_that_python_drops_still_ends_the_start_and_is_not_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), interruptible():
        Finalised()
    assert capsys.readouterr().err == ""


def test_an_ordinary_user_needs_nothing_from_root(homes: Homes) -> None:
    nobody = ordinary_user()
    identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    home = homes()
    home.data_dir.mkdir()
    os.chown(home.data_dir, nobody.pw_uid, nobody.pw_gid)
    node = home.up(environment={"HOME": "/nonexistent"}, cwd="/", **identity).says("Ctrl-C stops everything", READY_S)
    assert follow(node) == 200
    assert "as nobody" in node.output


def logs_in(port: int, user: str, password: str) -> bool:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as browser:
        page = browser.get("/admin/login/")
        form = {"username": user, "password": password, "csrfmiddlewaretoken": page.cookies["csrftoken"]}
        return browser.post("/admin/login/?next=/admin/", data=form).status_code == 302
