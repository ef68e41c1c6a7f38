"""docs/tutorial.md does what it says: its commands run one after another in one shell, and print what it promises."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.environment import ROOT
from tests.e2e.gateway import Gateway, free_port, wait_until

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
#: (commands, the lines that follow them on the page)
STEPS = re.findall(r"^```sh\n(.*?)^```$(?:\n\n(?:[^`\n]+\n\n)?```text\n(.*?)^```$)?", PAGE, re.MULTILINE | re.DOTALL)
END = "end of step"


@pytest.fixture
def shell(gateway: Gateway) -> Iterator[subprocess.Popen[str]]:
    """A reader's, with its own process group: what it left in the background goes with it."""
    gateway.manage("prepare")
    started = subprocess.Popen(
        ["bash", "-eu"],
        cwd=ROOT, env=gateway.env(), text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    yield started
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()


def test_every_block_of_the_page_is_a_step() -> None:
    assert len(STEPS) == PAGE.count("```sh")
    assert sum(bool(printed) for _, printed in STEPS) == PAGE.count("```text")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page needs curl: apt-get install curl")
def test_the_tutorial(gateway: Gateway, shell: subprocess.Popen[str]) -> None:
    service = free_port()
    for commands, promised in STEPS:
        printed = run(shell, here(commands, gateway.port, service))
        place = 0
        for line in promised.splitlines():
            place = printed.find(line, place)
            assert place >= 0, f"{commands}\nnever said {line!r}, but:\n{printed}"
        if "http.server" in commands:
            wait_until(lambda: answers(service), what="the service listens")


def here(commands: str, port: int, service: int) -> str:
    """With the ports and the Python of this test."""
    for theirs, ours in ((".venv/bin/python", sys.executable), (":8080", f":{port}"), ("9000", str(service))):
        commands = commands.replace(theirs, ours)
    return commands


def run(shell: subprocess.Popen[str], commands: str) -> str:
    """What they print. Fails when one of them does."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{commands}\necho; echo {END}\n")
    shell.stdin.flush()
    printed: list[str] = []
    for line in shell.stdout:
        if line.strip() == END:
            return "".join(printed)
        printed.append(line)
    pytest.fail(f"{commands}\nended the shell:\n{''.join(printed)}")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
