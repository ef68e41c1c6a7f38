"""`manage.py` commands without the second that libraries take to be imported: a warm process forks once for each.

It has imported what reads neither environment nor settings. All else a command does for itself, as in a process of its
own: its environment, settings, applications, checks, its end. tests/test_environment.py, tests/e2e/test_tutorial.py and
others start the real one.

    us ── 1 byte and five descriptors (request, stdin, stdout, stderr, reply) ──► warm process ── fork ──► command
       ◄───────────── process id, then its end as `os.waitpid` tells it ────────
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
NUMBER = struct.Struct("!i")

LIBRARIES = (
    "asgiref.sync", "cryptography", "django.contrib.postgres.fields", "django.core.cache", "django.core.handlers.asgi",
    "django.core.management", "django.db.backends.postgresql.base", "django.forms", "django.template.backends.django",
    "django.test", "django_redis.cache", "httpx", "inflection", "jinja2", "jsonschema_rs", "jwt", "markdown_it",
    "psycopg.types.json", "pydantic_settings", "re2", "redis.asyncio", "requests", "rich.console", "rich.progress",
    "rich.table", "sqlparse", "uritemplate", "whitenoise", "yaml",
)  # fmt: skip
OURS = ("gateway.embedded", "gateway.environment", "routes.compile", "routes.document", "keys.secrets")
#: They look at the environment when they are imported.
LATE = ("gateway.settings", "gateway.server", "gateway.proxy.metrics", "prometheus_client")


def run(
    *words: str, environment: Mapping[str, str], stdin: str | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """`manage.py <words>`, with that and no other environment. Raises subprocess.TimeoutExpired, and kills it then."""
    with ExitStack() as stack:
        request, given, said, complained = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
        reply, theirs = socket.socketpair()
        stack.enter_context(reply)
        request.write(json.dumps({"words": words, "environment": dict(environment)}).encode())
        given.write((stdin or "").encode())
        with theirs:
            _warm().ask([rewound(file) for file in (request, given, said, complained)] + [theirs.fileno()])
        reply.settimeout(timeout_s)
        pid = told(reply)
        try:
            status = told(reply)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(["manage.py", *words], timeout_s) from None
        texts = [os.pread(file.fileno(), 1 << 30, 0).decode() for file in (said, complained)]
        return subprocess.CompletedProcess(["manage.py", *words], os.waitstatus_to_exitcode(status), *texts)


def told(reply: socket.socket) -> int:
    number = reply.recv(NUMBER.size)
    assert number, "the warm process has ended; what it says of that is above"
    return int(NUMBER.unpack(number)[0])


def rewound(file: IO[bytes]) -> int:
    file.seek(0)
    return file.fileno()


class Warm:
    """Our end of its socket. It ends when we do, however that comes."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._turn = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())], cwd=ROOT, pass_fds=[theirs.fileno()]
            )

    def ask(self, descriptors: list[int]) -> None:
        with self._turn:
            socket.send_fds(self._socket, [b"!"], descriptors)

    def end(self) -> None:
        self._socket.close()
        self._process.wait(20)


@cache
def _warm() -> Warm:
    warm = Warm()
    atexit.register(warm.end)
    return warm


# The warm process


def main(control: socket.socket) -> None:
    """Returns in each forked command, ready to be one. Ends when whoever started us has gone."""
    for name in (*LIBRARIES, *OURS, *inner("gateway.plugins")):
        importlib.import_module(name)
    assert not (early := set(LATE) & set(sys.modules)), f"imported before there is an environment: {early}"
    assert threading.active_count() == 1  # or what another holds at a fork is held for ever
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that only watch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for whoever started us
    while descriptors := socket.recv_fds(control, 1, 5)[1]:
        if os.fork() == 0:
            control.close()
            watch(socket.socket(fileno=descriptors.pop()))
            become(*descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
    raise SystemExit


def inner(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    return [f"{package}.{module.name}" for module in pkgutil.iter_modules(path)]


def watch(reply: socket.socket) -> None:
    """Returns in a new process; this one tells which, and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        reply.send(NUMBER.pack(pid))
        reply.send(NUMBER.pack(os.waitpid(pid, 0)[1]))
        os._exit(0)
    reply.close()


def become(request: int, *streams: int) -> None:
    with open(request) as file:
        asked = json.load(file)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["manage.py", *asked["words"]]


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(str(ROOT / "manage.py"), run_name="__main__")
