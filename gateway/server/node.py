"""What one node consists of: its sockets, its run directory, and the programs its supervisor keeps alive."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Callable
from typing import IO, Literal

from gateway.environment import ROOT, Environment
from gateway.server.child import Program
from gateway.server.supervisor import Supervisor
from gateway.server.tls import TlsProblem, server_context

BACKLOG = 2048


class CannotServe(Exception):
    """The message is for the person at the terminal: what is in the way, and what to do about it."""


class Node:
    """`bind` and `claim` first (they fail at once, before anything was started), then `supervisor().run()`."""

    def __init__(self, environment: Environment, app: str = "") -> None:
        self.environment = environment
        self.app = app  # empty: the gateway's own
        self.run_dir = environment.data_dir.absolute() / "run"
        self.metrics_dir = self.run_dir / f"metrics-{environment.role}"
        self.sockets: list[socket.socket] = []
        self.secure_sockets: list[socket.socket] = []  # for TLS
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches the first socket."""
        host, port = self.sockets[0].getsockname()[:2]
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"

    def bind(self) -> None:
        """Raises CannotServe. The sockets do not listen yet, so nobody waits in vain if the start fails."""
        role, settings = self.environment.role, self.environment
        address = settings.bind or ("0.0.0.0" if role == "proxy" else "127.0.0.1")
        if role == "admin":
            self.sockets.append(bound(address, settings.admin_port, "GATEWAY_ADMIN_PORT"))
        else:
            self.sockets.append(bound(address, settings.port, "PORT"))
            if settings.tls_port:
                try:
                    server_context(settings.tls_certificates, settings.tls_client_ca)
                except TlsProblem as problem:
                    raise CannotServe(str(problem)) from None
                self.secure_sockets.append(bound(address, settings.tls_port, "GATEWAY_TLS_PORT"))
        if role == "proxy" and settings.status_port:
            self.sockets.append(bound("127.0.0.1", settings.status_port, "GATEWAY_STATUS_PORT"))

    def claim(self) -> None:
        """One supervisor of a role per data directory: they share its metrics and its usage spool."""
        path = self.run_dir / f"{self.environment.role}.lock"
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._lock = path.open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotServe(
                f"A gateway (role {self.environment.role}) is already running on {self.environment.data_dir}. "
                "Stop it first, or set GATEWAY_DATA_DIR to another directory."
            ) from None
        except OSError as error:
            raise CannotServe(f"Cannot write to {path}: {error.strerror}. Set GATEWAY_DATA_DIR to elsewhere.") from None

    def supervisor(
        self,
        *,
        beside: tuple[Program, ...] = (),
        hangup: Literal["roll", "stop"] = "roll",
        on_ready: Callable[[], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Supervisor:
        """`beside`: programs that must outlive the workers, as their upstreams do."""
        for sock in (*self.sockets, *self.secure_sockets):
            sock.listen(BACKLOG)
        shutil.rmtree(self.metrics_dir, ignore_errors=True)
        self.metrics_dir.mkdir(parents=True)
        recorder = () if self.environment.role == "admin" else (self._recorder(),)  # no traffic, nothing to record
        return Supervisor(
            [recorder, beside, [self._worker(index) for index in range(1, self.environment.workers + 1)]],
            drain_timeout_s=self.environment.drain_timeout_s,
            drain_delay_s=self.environment.drain_delay_s,
            hangup=hangup,
            on_ready=on_ready,
            on_stop=self.close,
            on_exit=self._forget_gauges,
            tick=tick,
        )

    def close(self) -> None:
        """Or clients would go on queueing at a door that nobody opens any more."""
        for sock in (*self.sockets, *self.secure_sockets):
            sock.close()

    def _worker(self, index: int) -> Program:
        fds, secure_fds = (tuple(sock.fileno() for sock in some) for some in (self.sockets, self.secure_sockets))
        return Program(
            name=f"worker {index}",
            command=worker_command(fds, self.app, secure_fds),
            environment={**self._measured(), "GATEWAY_WORKER": str(index)},
            fds=fds + secure_fds,
            tells_ready=True,
        )

    def _recorder(self) -> Program:
        command = (sys.executable, str(ROOT / "manage.py"), "recorder")
        return Program(name="recorder", command=command, environment=self._measured())

    def _measured(self) -> dict[str, str]:
        return {**self.child_environment(), "PROMETHEUS_MULTIPROC_DIR": str(self.metrics_dir)}

    def child_environment(self) -> dict[str, str]:
        """Ours, with what the command line changed, and paths that hold wherever the child works."""
        path = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT),
            "GATEWAY_DATA_DIR": str(self.environment.data_dir.absolute()),
            "GATEWAY_ROLE": self.environment.role,
            "GATEWAY_WORKERS": str(self.environment.workers),
        }

    def _forget_gauges(self, pid: int) -> None:
        """What prometheus_client.multiprocess.mark_process_dead does: counters of the dead stay, live gauges go."""
        for path in self.metrics_dir.glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)


def worker_command(fds: tuple[int, ...], app: str = "", secure_fds: tuple[int, ...] = ()) -> tuple[str, ...]:
    # -P: a file named like one of our modules in the current directory must not replace it.
    options = ["--app", app] if app else []
    for fd in secure_fds:
        options += ["--tls", str(fd)]
    return (sys.executable, "-P", "-m", "gateway.server.worker", *options, *map(str, fds))


def bound(address: str, port: int, variable: str) -> socket.socket:
    """Raises CannotServe, naming the variable that chose the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise CannotServe(_explain(error, address, port, variable)) from None
    return sock


def _explain(error: OSError, address: str, port: int, variable: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {address} is taken by another program. Stop it, or choose another port: {variable}=…"
    if error.errno == errno.EACCES:
        return f"Port {port} needs privileges that this account lacks. Choose one above 1023: {variable}=…"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"This machine has no address {address}: set GATEWAY_BIND to one it has."
    return f"Cannot listen on {address} port {port}: {error.strerror}."
