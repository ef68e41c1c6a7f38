"""git through the gateway: large packs up and down, chunked and gzip bodies, long-lived answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway, route, upstream

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")

SIZE_MB = 52


IDENTITY = {f"GIT_{role}_{field}": "t@t" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


def git(*words: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, **IDENTITY, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(["git", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class _Backend(BaseHTTPRequestHandler):
    """git http-backend as CGI. A chunked body is gathered first: CGI wants its length (RFC 3875 §4.1.2)."""

    protocol_version = "HTTP/1.0"
    root = Path()

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._read_body())

    def _read_body(self) -> bytes:
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _serve(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ, "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "REMOTE_USER": "t", "REMOTE_ADDR": "127.0.0.1",
            "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "http.receivepack", "GIT_CONFIG_VALUE_1": "true",
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = [line.split(b": ", 1) for line in head.split(b"\r\n") if line]
        status = next((value.split(b" ")[0] for name, value in lines if name == b"Status"), b"200")
        self.send_response(int(status))
        for name, value in lines:
            if name != b"Status":
                self.send_header(name.decode(), value.decode())
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def backend_port(directory: Path) -> Iterator[int]:
    _Backend.root = directory
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_push_and_clone_of_a_large_repository(gateway: Gateway, directory: Path, backend_port: int) -> None:
    gateway.configure({
        "format": 1,
        "upstreams": [upstream("git", backend_port)],
        "routes": [route("git", "/git/*", "git", strip_path=True)],
        "plugins": [],
    })  # fmt: skip
    git("init", "-q", "--bare", str(directory / "repo.git"))
    work = directory / "work"
    git("init", "-q", "-b", "main", str(work))
    (work / "big.bin").write_bytes(os.urandom(SIZE_MB << 20))  # random: does not compress
    for number in range(50):
        (work / f"file-{number}.txt").write_text(f"line {number}\n" * 100)
    git("add", ".", cwd=work)
    git("commit", "-q", "-m", "all", cwd=work)
    url = f"{gateway.url}/git/repo.git"

    git("push", "-q", url, "main", cwd=work)  # larger than http.postBuffer: chunked
    git("clone", "-q", "-b", "main", url, str(directory / "clone"))

    assert git("rev-parse", "HEAD", cwd=directory / "clone") == git("rev-parse", "HEAD", cwd=work)
    assert (directory / "clone" / "big.bin").read_bytes() == (work / "big.bin").read_bytes()
    git("fsck", "--full", cwd=directory / "clone")
