"""What `manage.py up` has to do with the demo: where its upstream listens, and the line to try."""

from __future__ import annotations

import socket
from pathlib import Path

KEY_FILE = "demo-key"
PORT_FILE = Path("run", "demo-port")


def listener(data_dir: Path) -> socket.socket:
    """Bound for the echo upstream on a loopback port: the earlier start's if it is free, so that no row must change."""
    remembered = data_dir / PORT_FILE
    earlier = int(remembered.read_text()) if remembered.exists() else 0
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", earlier))
    except OSError:  # somebody has it now
        sock.bind(("127.0.0.1", 0))
    remembered.write_text(str(sock.getsockname()[1]))
    return sock


def curl(url: str, key: str) -> str:
    return f"curl -i -H 'apikey: {key}' {url}/secure/hello"
