"""PostgreSQL on a unix socket: one role, one database, no superuser that anybody could log in as.

The role `hydragate` owns the database `hydragate` and may create others (test runs do). The bootstrap
superuser has no password and no line in pg_hba.conf. What needs it (making the role, replacing a lost
password) is done in single-user mode, while no server runs.

Settings that the gateway depends on go on the command line; the rest went into `postgresql.conf` once,
when the cluster was made, and an operator may change it there.
"""

import os
import re
import secrets
import shutil
import signal
from pathlib import Path

import psycopg

from gateway.embedded import process
from gateway.embedded.account import Account
from gateway.embedded.errors import NotStarted, ServerFailed
from gateway.embedded.places import POSTGRES_PORT, Places, write
from gateway.embedded.server import Server

INITIAL_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_wal_size": "512MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",  # one every five minutes would bury what matters
}
HBA = "# Written at each start.\nlocal  all  hydragate  scram-sha-256\n"


class Postgres(Server):
    name = "PostgreSQL"
    program = "postgres"
    stop_steps = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, places: Places, account: Account, home: Path) -> None:
        super().__init__(places, account)
        self.bin = home / "bin"
        self.directory = places.postgres
        self.pid_file = places.postgres / "postmaster.pid"
        self.log = places.logs / "postgres.log"
        self.hba = places.servers / "pg_hba.conf"  # ours: the account may read who is let in, not change it
        self.socket_files = (places.postgres_socket, Path(f"{places.postgres_socket}.lock"))

    def prepare(self) -> bool:
        write(self.hba, HBA, 0o644)
        if not self.directory.exists():
            self._initialise()
            return True
        if self._password() is None:
            self._password_replace(self.directory, "ALTER ROLE hydragate PASSWORD '{password}';\n")
        return False

    def command(self) -> list[str]:
        settings = {
            "hba_file": str(self.hba),
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.places.sockets}"',  # of a list, hence the quotes
            "unix_socket_permissions": "0700",
            "port": str(POSTGRES_PORT),
            "logging_collector": "off",
            "cluster_name": "hydragate",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.directory), *options]

    def answers(self) -> bool:
        place = self.places.database
        try:
            with psycopg.connect(
                host=place["HOST"],
                port=place["PORT"],
                user=place["USER"],
                password=place["PASSWORD"],
                dbname="postgres",
                connect_timeout=5,
                autocommit=True,
            ) as connection:
                wanted = connection.execute("SELECT FROM pg_database WHERE datname = 'hydragate'")
                if wanted.fetchone() is None:  # dropped by hand, to start over
                    connection.execute("CREATE DATABASE hydragate")
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerFailed(
                    "PostgreSQL does not accept the password in "
                    f"{self.places.secrets / 'postgres_password'}. Delete that file to get a new one."
                ) from error
            return False
        return True

    def _initialise(self) -> None:
        """Makes the cluster aside and names it when it is whole: one killed half-way is simply redone."""
        for unfinished in self.directory.parent.glob("postgres.new-*"):
            shutil.rmtree(unfinished)
        fresh = self.directory.with_name(f"postgres.new-{secrets.token_hex(4)}")
        self.account.directory(fresh)
        initdb = [str(self.bin / "initdb"), "-D", str(fresh), "--username=postgres", "--auth=reject"]
        # The builtin provider and "C" need no locale of the system: text sorts the same everywhere.
        initdb += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        initdb += ["--no-instructions", *(f"--set={name}={value}" for name, value in INITIAL_SETTINGS.items())]
        process.run(initdb, account=self.account, log=self.log)
        self._password_replace(
            fresh,
            "CREATE ROLE hydragate LOGIN CREATEDB PASSWORD '{password}';\nCREATE DATABASE hydragate OWNER hydragate;\n",
        )
        fresh.rename(self.directory)
        _sync(self.directory.parent)

    def _password_replace(self, directory: Path, statements: str) -> None:
        """The server learns it before our file does, so whoever reads the file gets one that works."""
        password = self._password() or secrets.token_urlsafe(24)
        if not re.fullmatch(r"[\w-]+", password):
            raise ServerFailed(f"{self.places.secrets / 'postgres_password'} holds characters we never write.")
        command = [str(self.bin / "postgres"), "--single", "-D", str(directory)]
        # An error ends it, and does not write the statement with the password to the log.
        command += ["-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "postgres"]
        process.run(command, account=self.account, log=self.log, stdin=statements.format(password=password))
        self.places.secret_write("postgres_password", password)

    def _password(self) -> str | None:
        try:
            return self.places.secret("postgres_password")
        except NotStarted:
            return None


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
