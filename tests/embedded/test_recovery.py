"""Whatever ended it, the next start finds its data and stands up again."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import redis

from gateway import embedded
from gateway.embedded import process

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


@pytest.mark.parametrize("victim", ["PostgreSQL", "Valkey"])
def test_a_killed_server_comes_back_with_its_data(station, wait_for, victim):
    with embedded.servers(station.data_dir) as running:
        station.write()
        assert running.poll() == []
        os.kill(station.pids()[victim == "Valkey"], signal.SIGKILL)
        wait_for(lambda: running.poll() == [victim])
        wait_for(lambda: running.restart_dead() == [victim])
        wait_for(lambda: _kept(station))
        assert running.poll() == []


def test_postgres_killed_under_a_busy_child_comes_back(station, wait_for):
    with embedded.servers(station.data_dir, valkey=False) as running:
        station.sql("CREATE TABLE kept AS SELECT 42 AS answer")
        with psycopg.connect(station.places.database_url, autocommit=True) as busy:
            pid = busy.execute("SELECT pg_backend_pid()").fetchone()[0]
            os.kill(pid, signal.SIGSTOP)  # holds the shared memory for as long as we like
            os.kill(int(running.places.postgres.joinpath("postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            wait_for(lambda: running.poll() == ["PostgreSQL"])
            subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -CONT {pid}"]).wait()
            wait_for(lambda: running.restart_dead() == ["PostgreSQL"])
        wait_for(lambda: _answers(station))
        assert station.sql("SELECT answer FROM kept") == 42


def test_one_that_keeps_dying_is_restarted_ever_more_rarely(station, wait_for):
    with embedded.servers(station.data_dir, postgres=False) as running:
        pauses = []
        for _ in range(3):
            pid = int((station.places.valkey / "valkey.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            wait_for(running.poll)
            began_s = time.monotonic()
            wait_for(running.restart_dead)
            pauses.append(time.monotonic() - began_s)
            wait_for(lambda: _ping(station))
        assert pauses[2] > 1 > pauses[0]


@linux
def test_a_killed_parent_takes_both_along_and_the_next_start_recovers(station, child, all_ended):
    parent = child(station.data_dir)
    station.write()
    pids = station.pids()
    parent.kill()
    with embedded.servers(station.data_dir):  # at once: they may still be going down
        assert station.kept()
    all_ended(pids)


@linux
def test_an_orphan_that_still_runs_is_stopped_first(station, child):
    parent = child(station.data_dir)
    station.write()
    pids = station.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # so that the death of its parent does not reach it
    parent.kill()
    waker = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -CONT {' '.join(map(str, pids))}"])
    with embedded.servers(station.data_dir):
        assert station.kept()
        assert not set(station.pids()) & set(pids)
    waker.wait()


def test_a_pid_that_now_is_somebody_elses_neither_stops_the_start_nor_dies(station):
    with embedded.servers(station.data_dir):
        station.write()
        left = (station.places.postgres / "postmaster.pid").read_text()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        first, rest = left.split("\n", 1)
        assert first.isdecimal()
        (station.places.postgres / "postmaster.pid").write_text(f"{stranger.pid}\n{rest}")
        (station.places.valkey / "valkey.pid").write_text(f"{stranger.pid}\n")
        with embedded.servers(station.data_dir):
            assert station.kept()
        assert stranger.poll() is None
        stranger.kill()


def test_stale_sockets_are_replaced(station):
    with embedded.servers(station.data_dir):
        station.write()
    here = station.places
    for path in (here.postgres_socket, here.valkey_socket):
        path.write_bytes(b"")
    here.sockets.joinpath(".s.PGSQL.5432.lock").write_text("1\n")  # process 1 is alive, and not PostgreSQL
    with embedded.servers(station.data_dir):
        assert station.kept()


def test_a_cluster_made_half_way_is_made_again(station):
    whole = station.places.postgres
    half = whole.with_name("postgres.new-0badcafe")
    whole.rename(half)
    (half / "PG_VERSION").unlink()
    shutil.rmtree(half / "global")
    with embedded.servers(station.data_dir, valkey=False):
        assert station.sql("SELECT 1") == 1
    assert not half.exists()


def test_killed_while_making_the_cluster(empty, wait_for):
    code = "import pathlib, sys, gateway.embedded as e; e.Servers(pathlib.Path(sys.argv[1])).start()"
    with subprocess.Popen([sys.executable, "-c", code, str(empty.data_dir)], cwd=ROOT) as parent:
        wait_for(lambda: any(empty.places.servers.glob("postgres.new-*/base")))
        parent.kill()
    assert not empty.places.postgres.exists()
    with embedded.servers(empty.data_dir):
        assert empty.sql("SELECT 1") == 1


def test_a_lost_password_is_replaced(station):
    with embedded.servers(station.data_dir):
        station.write()
        lost = station.places.database["PASSWORD"]
    (station.places.secrets / "postgres_password").unlink()
    with embedded.servers(station.data_dir):
        assert station.places.database["PASSWORD"] != lost
        assert station.kept()


def test_a_dropped_database_is_made_again(station):
    with embedded.servers(station.data_dir, valkey=False):
        url = station.places.database_url.replace("@/hydragate", "@/postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP DATABASE hydragate")
    with embedded.servers(station.data_dir, valkey=False):
        assert station.sql("SELECT current_database()") == "hydragate"


def test_no_process_is_taken_for_a_survivor_by_its_directory_alone(station):
    with subprocess.Popen(["sleep", "60"], cwd=station.places.postgres) as visitor:
        with embedded.servers(station.data_dir, valkey=False):
            assert visitor.poll() is None
        visitor.kill()


def test_servers_are_tied_to_the_main_thread(station):
    # The kernel's signal comes when the *thread* that started them ends.
    seen: list[BaseException] = []

    def start() -> None:
        try:
            embedded.Servers(station.data_dir, postgres=False).start()
        except RuntimeError as error:
            seen.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(seen[0])


def test_a_failed_start_shows_the_servers_own_words_and_leaves_nothing_running(station):
    here = station.places
    with (here.postgres / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(embedded.EmbeddedError) as caught:
        embedded.Servers(station.data_dir).start()
    assert "PostgreSQL ended while starting (status 1)" in str(caught.value)
    assert 'invalid value for parameter "shared_buffers": "nonsense"' in str(caught.value)
    assert not here.valkey_socket.exists()


def test_tail_begins_where_this_attempt_began(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("from an earlier start\n")
    start = process.log_size(log)
    with log.open("a") as file:
        file.writelines(f"line {number}\n" for number in range(50))
    told = process.tail(log, start)
    assert "line 49" in told
    assert "line 30" in told
    assert "line 29" not in told
    assert "earlier" not in told


def _kept(station) -> bool:
    return _answers(station) and _ping(station) and station.kept()


def _answers(station) -> bool:
    try:
        return station.sql("SELECT true")
    except psycopg.OperationalError:
        return False


def _ping(station) -> bool:
    try:
        return station.valkey("PING") in (True, "PONG")
    except redis.RedisError:
        return False
