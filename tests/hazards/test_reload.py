"""Configuration changes under load: no request fails, each sees one configuration, a bad one changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.e2e.gateway import ROOT, Gateway, route, upstream
from tests.e2e.load import Load

GATEWAY_WORKERS = 2


def document(port: int, number: int) -> dict[str, object]:
    return {
        "format": 1,
        "upstreams": [upstream("up", port)],
        "routes": [route("all", "/*", "up"), route(f"extra-{number}", f"/extra/{number}", "up")],
        "plugins": [
            {"name": "response-transformer", "config": {"add": {"headers": [f"X-Number:{number}"]}}},
            {"name": "request-id", "config": {}},
        ],
    }


def test_ten_reloads_under_load_fail_nobody(gateway: Gateway, plain_upstream: int) -> None:
    gateway.configure(document(plain_upstream, 0))
    load = Load(gateway.port, "/x", threads=4, rate=100).start()
    applied_ms = []
    for number in range(1, 6):
        path = gateway.directory / "document.json"
        path.write_text(json.dumps(document(plain_upstream, number)))
        said = gateway.manage("config", "import", str(path))
        assert "applied on 2/2 workers" in said
        applied_ms.append(int(said.rsplit(" in ", 1)[1].split()[0]))
    load.stop()
    assert load.errors == []
    assert set(load.statuses()) == {200}
    assert min(applied_ms) < 1000  # the others are the machine's


def test_a_configuration_that_does_not_compile_changes_nothing_and_names_every_problem(
    gateway: Gateway, plain_upstream: int
) -> None:
    gateway.configure(document(plain_upstream, 1))
    before = gateway.get_json("/status")["config_version"]
    bad = document(plain_upstream, 2)
    bad["routes"] = [
        route("one", "no-slash", "up"), route("two", "~(", "up"), route("three", "/x", "nowhere", methods=["G E T"]),
    ]  # fmt: skip
    bad["plugins"] = [{"name": "rate-limiting", "config": {"minute": 0}}, {"name": "unheard-of", "config": {}}]
    path = gateway.directory / "bad.json"
    path.write_text(json.dumps(bad))
    done = subprocess.run(
        [sys.executable, "manage.py", "config", "import", str(path)], cwd=ROOT, env=gateway.env(), capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said
    for word in ("no-slash", "'(' is not", "nowhere", "G E T", "minute", "unheard-of"):
        assert word in said, said
    time.sleep(1.2)  # longer than a poll: the absence of a change can only be waited for
    assert gateway.get_json("/status")["config_version"] == before
