"""Start, use, stop."""

import os
import socket
import stat
import subprocess

import psycopg
import pytest

from gateway import embedded
from tests.running import Stopwatch

pytestmark = pytest.mark.timeout(60)


def test_both_accept_queries(empty):
    with embedded.servers(empty.data_dir):
        empty.write()
        assert empty.kept()


def test_second_start_is_quick_and_keeps_data(station):
    with embedded.servers(station.data_dir):
        station.write()
    watch = Stopwatch()
    with embedded.servers(station.data_dir):
        took_s = watch.s
        assert station.kept()
    assert took_s < 2


def test_text_is_unicode_without_any_locale_of_the_system(running):
    assert running.sql("SELECT upper('é ж') || length('日本')") == "É Ж2"


def test_role_is_not_superuser_and_may_make_a_database_for_tests(running):
    assert running.sql("SHOW is_superuser") == "off"
    with psycopg.connect(running.places.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_hydragate")


def test_wrong_password_and_bootstrap_superuser_are_refused(running):
    place = running.places.database
    for user, password in (("hydragate", "wrong"), ("postgres", place["PASSWORD"])):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host=place["HOST"], port=place["PORT"], user=user, password=password, dbname="postgres")


def test_nothing_listens_on_tcp(running):
    assert running.sql("SHOW listen_addresses") == ""
    assert running.valkey("CONFIG", "GET", "port") == {"port": "0"}
    assert "tcp" not in _kinds_of_listening_sockets(running.pids())


def test_durable_settings(running):
    assert running.sql("SHOW fsync") == "on"
    assert running.sql("SHOW synchronous_commit") == "on"
    assert running.valkey("CONFIG", "GET", "appendonly") == {"appendonly": "yes"}


def test_secrets_are_ours_alone(running):
    secrets = running.places.secrets
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((secrets / "postgres_password").stat().st_mode) == 0o600
    assert secrets.stat().st_uid == os.geteuid()


def test_another_user_cannot_connect_to_valkey(running, nobody):
    if running.places.sockets.stat().st_uid == nobody:
        pytest.skip("there is no `postgres` account here: nobody is the servers' own")
    path = str(running.places.valkey_socket)
    command = ["/bin/sh", "-c", 'test -e "$0"', path]
    assert subprocess.run(command, cwd="/", check=False, user=nobody, group=nobody).returncode == 1
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(path)


@pytest.mark.parametrize(("postgres", "valkey"), [(True, False), (False, True)])
def test_each_server_is_optional(station, postgres, valkey):
    with embedded.servers(station.data_dir, postgres=postgres, valkey=valkey):
        assert station.places.postgres_socket.exists() == postgres
        assert station.places.valkey_socket.exists() == valkey


def test_two_data_directories_side_by_side(station, empty):
    one, two = station, empty
    with embedded.servers(one.data_dir), embedded.servers(two.data_dir):
        one.write()
        two.valkey("SET", "kept", "other")
        assert one.kept()
        assert two.sql("SELECT to_regclass('kept') IS NULL")


def test_second_start_on_the_same_data_is_refused(station, child):
    with embedded.servers(station.data_dir):
        second = child(station.data_dir)
        assert second.report["error"] == "AlreadyRunning"
        assert f"already running (process {os.getpid()})" in second.report["message"]
        assert "GATEWAY_DATA_DIR" in second.report["message"]
        station.write()
        assert station.kept()


def test_a_copy_that_shares_the_servers_is_refused(base, station_at, station):
    copy = station_at(base / "copy")
    with embedded.servers(station.data_dir, valkey=False):
        copy.data_dir.mkdir()
        (copy.data_dir / "servers").symlink_to(station.places.servers)
        with pytest.raises(embedded.AlreadyRunning):
            embedded.Servers(copy.data_dir).start()


def test_ctrl_c_stops_everything(station, child, all_ended):
    parent = child(station.data_dir)
    pids = station.pids()
    parent.interrupt()
    all_ended(pids)
    assert not station.places.postgres_socket.exists()
    assert not station.places.valkey_socket.exists()


def test_stop_may_be_called_twice_and_start_again(station):
    servers = embedded.Servers(station.data_dir, valkey=False)
    servers.start()
    servers.stop()
    servers.stop()
    servers.start()
    assert station.sql("SELECT 1") == 1
    servers.stop()


def test_progress_tells_each_step(empty):
    steps: list[tuple[str, float]] = []
    with embedded.servers(empty.data_dir, lambda step, seconds: steps.append((step, seconds))):
        pass
    told = " / ".join(step for step, _ in steps)
    for expected in ("PostgreSQL has a new data directory", "PostgreSQL ready", "Valkey ready", "stopped"):
        assert expected in told


def test_nothing_started_yet_is_said_so(base):
    with pytest.raises(embedded.NotStarted, match=r"manage\.py up"):
        _ = embedded.places.at(base / "var").database_url


def _kinds_of_listening_sockets(pids: list[int]) -> set[str]:
    """Reads /proc: which of tcp, tcp6, unix these processes hold sockets of."""
    inodes = set()
    for pid in pids:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    kinds = set()
    for kind, column in (("tcp", 9), ("tcp6", 9), ("unix", 6)):
        with open(f"/proc/net/{kind}") as table:
            if inodes & {line.split()[column] for line in list(table)[1:]}:
                kinds.add(kind.rstrip("6"))
    assert kinds, "no socket at all was found: this test looks in the wrong place"
    return kinds
