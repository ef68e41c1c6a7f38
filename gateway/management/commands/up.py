"""`manage.py up`: the whole gateway on one machine that has nothing but Python.

This process holds no database connection and serves nobody. It makes the secret key, runs the embedded servers, lets
`manage.py prepare` do what needs a database (a child: its settings are read when the servers and their password
exist), and then supervises as `serve` does, with the demo's upstream beside the workers.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway import environment
from gateway.embedded import EmbeddedError, Servers, places
from gateway.embedded.places import Places
from gateway.environment import ROOT, Environment
from gateway.management import invitation
from gateway.management.story import Story
from gateway.server.child import Program, end_with, tied_to
from gateway.server.node import CannotServe, Node, worker_command

INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Command(BaseCommand):
    help = "Starts everything on this machine: databases (unless set), migrations, admin user, demo, workers."
    requires_system_checks: list[str] = []  # before the first start there is nothing to check; `prepare` does

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="no demo routes and no demo upstream")
        parser.add_argument("--with-parent", action="store_true", help="stop when the process that started this ends")

    def handle(self, *args: Any, no_demo: bool, with_parent: bool, **options: Any) -> None:
        if with_parent:
            end_with(os.getppid(), signal.SIGTERM)
        os.environ.setdefault(
            "GATEWAY_LOG_LEVEL", "warning"
        )  # of the children: a terminal wants to hear of trouble only
        settings = environment.load()
        one_port = settings.model_copy(update={"role": "all", "data_dir": settings.data_dir.absolute()})
        try:
            status = Machine(one_port, with_demo=not no_demo).run()
        except (CannotServe, EmbeddedError) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            status = INTERRUPTED
        raise SystemExit(status)


class Machine:
    """One start of everything, top to bottom in `run`. Raises CannotServe, EmbeddedError, KeyboardInterrupt."""

    def __init__(self, settings: Environment, *, with_demo: bool) -> None:
        self.settings = settings
        self.with_demo = with_demo
        self.story = Story()
        self.node = Node(settings)
        self.servers = Servers(
            settings.data_dir, self.story.step, postgres=not settings.database_url, valkey=not settings.redis_url
        )
        self.began_s = time.monotonic()

    @property
    def here(self) -> Places:
        return places.at(self.settings.data_dir)

    def run(self) -> int:
        try:
            with interruptible():
                self.story.say(f"HydraGate, data in {self.settings.data_dir}", "bold")
                self.node.claim()
                self.node.bind()
                make_secret_key(self.here)
                if not (self.settings.database_url and self.settings.redis_url):
                    self.servers.start()
                echo = invitation.listener(self.settings.data_dir) if self.with_demo else None
                earlier_password = kept(self.here, "admin-password")
                self._prepare(echo)
            return self._supervise(echo, first_time=kept(self.here, "admin-password") != earlier_password)
        finally:
            with uninterrupted():
                self.servers.stop()

    def _prepare(self, echo: socket | None) -> None:
        """Migrations, admin user and demo. The child tells its steps, or what is wrong, by itself."""
        command = [sys.executable, str(ROOT / "manage.py"), "prepare"]
        if echo is not None:
            command += ["--demo-port", str(echo.getsockname()[1])]
        prepared = subprocess.run(
            command,
            env=self.node.child_environment(),
            process_group=0,
            preexec_fn=tied_to(os.getpid()),
            check=False,
        )
        if prepared.returncode:
            raise CannotServe("The database could not be prepared (see above), so nothing was started.")

    def _supervise(self, echo: socket | None, *, first_time: bool) -> int:
        began_s = time.monotonic()

        def ready() -> None:
            workers = f"{self.settings.workers} worker{'s' if self.settings.workers > 1 else ''}"
            self.story.step(f"{workers} and the recorder", time.monotonic() - began_s)
            self._welcome(first_time)

        def tick() -> None:
            try:
                self.servers.restart_dead()
            except EmbeddedError as error:  # tried again at a later tick
                self.story.say(str(error), "red")

        beside = self._demo_upstream(echo)
        return self.node.supervisor(beside=beside, hangup="stop", on_ready=ready, tick=tick).run()

    def _demo_upstream(self, echo: socket | None) -> tuple[Program, ...]:
        if echo is None or not kept(self.here, invitation.KEY_FILE):
            return ()
        echo.listen()
        command = worker_command((echo.fileno(),), "gateway.server.echo:application")
        return (Program("demo upstream", command, self.node.child_environment(), (echo.fileno(),), tells_ready=True),)

    def _welcome(self, first_time: bool) -> None:
        url, story, path = self.node.url, self.story, self.here.secrets / "admin-password"
        login = f"user admin, password {kept(self.here, path.name)} (kept in {path})"
        later = f"user admin, password in {path}" if path.exists() else ""
        story.say()
        story.say(f"Ready in {time.monotonic() - self.began_s:.1f} s", "bold green")
        story.say()
        story.facts([
            ("Admin", f"{url}/admin/", login if first_time else later),
            ("Health", f"{url}/health", ""),
            ("Metrics", f"{url}/metrics", ""),
        ])  # fmt: skip
        if self.with_demo and (key := kept(self.here, invitation.KEY_FILE)):
            story.say()
            story.say("Try it:", "dim")
            story.say(invitation.curl(url, key))
        story.say()
        story.say("Ctrl-C stops everything.", "dim")


def make_secret_key(here: Places) -> None:
    """Before any child reads its settings."""
    here.secrets.mkdir(mode=0o700, exist_ok=True)
    if not kept(here, "secret-key"):
        here.secret_write("secret-key", secrets.token_urlsafe(48))


def kept(here: Places, name: str) -> str:
    path = here.secrets / name
    return path.read_text().strip() if path.exists() else ""


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the start as Ctrl-C does: by an exception, so that everything is undone.

    Python reports and drops an exception that a handler raises inside a finaliser or around a fork: then it is raised
    at the end of the block, and nobody needs the report.
    """
    interrupted = False

    def unraisable(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    earlier_hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with handling(interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    finally:
        sys.unraisablehook = earlier_hook
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Databases close their files in peace; each has a deadline of its own."""
    with handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def handling(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
