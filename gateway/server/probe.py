"""`python -m gateway.server.probe [PATH]`: asks this node's own port whether it is ready. For container health checks.

Ends with 0 if it answers 200, else with 1 and a sentence. Reads the same environment as `serve`; no Django, so that a
check every few seconds costs little.
"""

from __future__ import annotations

import http.client
import sys

from gateway import environment


def main(path: str = "/ready") -> int:
    settings = environment.load()
    port = settings.admin_port if settings.role == "admin" else settings.port
    host = settings.bind if settings.bind not in ("", "0.0.0.0", "::") else "127.0.0.1"
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read().decode("utf-8", "replace").strip()
    except OSError as error:
        sys.stderr.write(f"http://{host}:{port}{path}: {error}\n")
        return 1
    finally:
        connection.close()
    if answer.status != 200:
        sys.stderr.write(f"http://{host}:{port}{path}: {answer.status} {said}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
