"""Valkey on a unix socket, every write in an append-only file.

There is no password: the socket lies in a directory (0700) that only its account and root can enter.
The append-only file is synced each second: a crash of the machine loses at most that second, a crash of
the process loses nothing.
"""

import signal
import socket
from pathlib import Path

from gateway.embedded.account import Account
from gateway.embedded.places import Places
from gateway.embedded.server import Server


class Valkey(Server):
    name = "Valkey"
    program = "valkey-server"
    stop_steps = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))

    def __init__(self, places: Places, account: Account, binary: Path) -> None:
        super().__init__(places, account)
        self.binary = binary
        self.directory = places.valkey
        self.pid_file = places.valkey / "valkey.pid"
        self.log = places.logs / "valkey.log"
        self.socket_files = (places.valkey_socket,)

    def prepare(self) -> bool:
        is_new = not self.directory.exists()
        self.account.directory(self.directory)
        return is_new

    def command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.places.valkey_socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "pidfile": str(self.pid_file),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "set-proc-title": "no",  # its command line then names the directory, by which `survivors` knows it
        }
        return [str(self.binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.places.valkey_socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # "-LOADING" while it reads its file
            except OSError:
                return False
