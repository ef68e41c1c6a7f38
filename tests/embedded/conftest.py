"""Real servers in data directories that the servers' account can reach.

pytest's own tmp_path is 0700 under root: exactly the case that `test_places` wants, and others do not.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from gateway import embedded
from tests.running import ordinary_user

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
# In memory if there is room (containers often have 64 MB): each data directory is 46 MB of small files.
GROUND = next(path for path in ("/dev/shm", "/tmp") if Path(path).exists() and shutil.disk_usage(path).free > 1e9)

# Starts the servers, says how that went in one line of JSON, and holds them until its input ends.
CHILD = """
import json, sys
from pathlib import Path
from gateway import embedded
from tests.running import ordinary_user
try:
    with embedded.servers(Path(sys.argv[1])) as running:
        here = running.places
        print(json.dumps({"sockets": str(here.sockets), "url": here.database_url}), flush=True)
        sys.stdin.read()
except embedded.EmbeddedError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
"""


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


class Child:
    """A process of its own that runs the servers, as `uid`, with `path` before its import path."""

    def __init__(self, data_dir: Path, uid: int | None = None, path: Path = ROOT) -> None:
        lent: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(data_dir)],
            cwd="/",
            env=os.environ | {"PYTHONPATH": f"{path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            **lent,
        )
        assert self.process.stdout
        self.report = json.loads(self.process.stdout.readline())

    def interrupt(self) -> None:
        """What Ctrl-C does: the whole group of the terminal gets it."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        with self.process:
            if self.process.stdin:
                self.process.stdin.close()
            self.process.wait(DEADLINE_S)


class Station:
    """What a test does with one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    @property
    def places(self) -> embedded.places.Places:
        return embedded.places.at(self.data_dir)

    def sql(self, query: str) -> Any:
        with psycopg.connect(self.places.database_url, connect_timeout=5) as connection:
            cursor = connection.execute(query)
            return cursor.fetchone()[0] if cursor.description else None

    def valkey(self, *command: str) -> Any:
        with redis.Redis.from_url(self.places.redis_url, decode_responses=True) as client:
            return client.execute_command(*command)

    def write(self) -> None:
        """Leaves something in both that must still be there later."""
        self.sql("CREATE TABLE kept AS SELECT 42 AS answer")
        self.valkey("SET", "kept", "42")

    def kept(self) -> bool:
        return self.sql("SELECT answer FROM kept") == 42 and self.valkey("GET", "kept") == "42"

    def pids(self) -> list[int]:
        """Of both servers, by their pid files."""
        files = self.places.postgres / "postmaster.pid", self.places.valkey / "valkey.pid"
        return [int(file.read_text().split()[0]) for file in files]

    def remove(self) -> None:
        here = self.places
        shutil.rmtree(here.sockets, ignore_errors=True)
        shutil.rmtree(here.servers, ignore_errors=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)


def is_running(pid: int) -> bool:
    """A zombie has ended: that nobody collected it yet is the container's affair."""
    status = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            return status.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[[Callable[[], Any]], None]:
    return wait_for


@pytest.fixture
def all_ended() -> Callable[[list[int]], None]:
    """Waits until these processes have ended."""
    return lambda pids: wait_for(lambda: not any(is_running(pid) for pid in pids))


@pytest.fixture
def station_at() -> Iterator[Callable[[Path], Station]]:
    """Makes stations; what they left outside their data directories is removed in the end."""
    made: list[Station] = []

    def make(data_dir: Path) -> Station:
        made.append(Station(data_dir))
        return made[-1]

    yield make
    for station in made:
        station.remove()


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that every account can enter."""
    with tempfile.TemporaryDirectory(dir=GROUND, prefix="hg-") as name:
        path = Path(name).resolve()
        path.chmod(0o755)
        yield path


@pytest.fixture
def empty(base: Path, station_at: Callable[[Path], Station]) -> Station:
    """Nothing was started here yet."""
    return station_at(base / "new" / "var")


@pytest.fixture(scope="session")
def started_once() -> Iterator[Path]:
    """A data directory after its first start and stop, to be copied: a new cluster takes a second."""
    with tempfile.TemporaryDirectory(dir=GROUND, prefix="hg-") as name:
        Path(name).chmod(0o755)
        data_dir = Path(name).resolve() / "var"
        with embedded.servers(data_dir):
            pass
        yield data_dir


@pytest.fixture
def station(base: Path, station_at: Callable[[Path], Station], started_once: Path) -> Station:
    """Started and stopped before."""
    subprocess.run(["cp", "-a", str(started_once), str(base / "var")], check=True)
    return station_at(base / "var")


@pytest.fixture(scope="session")
def running() -> Iterator[Station]:
    """One that runs all the time, for tests that only look."""
    with tempfile.TemporaryDirectory(dir=GROUND, prefix="hg-") as name:
        Path(name).chmod(0o755)
        station = Station(Path(name).resolve() / "var")
        with embedded.servers(station.data_dir):
            yield station


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def make(*args: Any, **kwargs: Any) -> Child:
        made.append(Child(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def nobody() -> int:
    """The uid of an ordinary user that can run our code."""
    return ordinary_user().pw_uid
