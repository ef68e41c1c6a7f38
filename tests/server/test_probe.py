from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gateway.environment import ROOT
from tests.running import free_port


class _Node(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()
        self.wfile.write(b"said")

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Node)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def probe(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.server.probe", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("role", "variable"), [("proxy", "PORT"), ("admin", "GATEWAY_ADMIN_PORT"), ("all", "PORT")])
def test_it_asks_the_port_of_its_role(port: int, role: str, variable: str) -> None:
    done = probe(GATEWAY_ROLE=role, GATEWAY_BIND="0.0.0.0", **{variable: str(port)})
    assert (done.returncode, done.stderr) == (0, "")


def test_anything_else_is_a_failure_with_a_sentence(port: int) -> None:
    unready = probe("/unready", PORT=str(port))
    nobody = probe(PORT=str(free_port()))
    assert (unready.returncode, nobody.returncode) == (1, 1)
    assert "503 said" in unready.stderr
    assert "refused" in nobody.stderr
    assert "Traceback" not in nobody.stderr
