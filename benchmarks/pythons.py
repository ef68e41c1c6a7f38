"""Competitors in Python, and our own application on another server: each with uvloop, httptools and no access log
where it can have them."""

from __future__ import annotations

import json
import sys

from benchmarks.cases import Case
from benchmarks.measure import Command
from benchmarks.place import HERE, Absent, Place, package, target

FRONT_CASES = ("plain", "policies", "post-10k", "latency")  # where the front makes a difference


def django(case: Case, place: Place) -> Command:
    """What a Django developer would write, on stock daphne: see `django_way/`."""
    plainly(case)
    return daphne("benchmarks.django_way.asgi:application", place)


def hello(case: Case, place: Place) -> Command:
    """Stock daphne answers by itself: the least that any gateway on it can cost."""
    if case.name != "plain":
        raise Absent("it forwards nothing")
    return daphne("benchmarks.hello:application", place)


def relay(case: Case, place: Place) -> Command:
    """What uvloop and the kernel cost alone: the floor for anything in Python, see `relay.py`."""
    plainly(case)
    arguments = [sys.executable, "-m", "benchmarks.relay", str(place.port), str(place.upstream_port)]
    return Command(arguments, {"PYTHONPATH": str(HERE.parent)})


def daphne(application: str, place: Place) -> Command:
    arguments = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(place.port), "-v", "0", application]
    return Command(arguments, {"PYTHONPATH": str(HERE.parent), "BENCHMARK_UPSTREAM": upstream(place)})


def fastapi(case: Case, place: Place) -> Command:
    """fastapi-proxy-lib, as its documentation says, on uvicorn: see `fastapi_way.py`."""
    plainly(case)
    package("fastapi-proxy-lib", target("fastapi"))
    arguments = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(place.port), "--loop", "uvloop"]
    arguments += ["--http", "httptools", "--log-level", "warning", "--no-access-log", "benchmarks.fastapi_way:app"]
    path = f"{target('fastapi')}:{HERE.parent}"
    return Command(arguments, {"PYTHONPATH": path, "BENCHMARK_UPSTREAM": upstream(place)})


def litellm(case: Case, place: Place) -> Command:
    """LiteLLM's proxy server with a pass-through endpoint and no model, key or database."""
    plainly(case)
    package("litellm", target("litellm"))
    endpoint = {"path": case.path, "target": f"{upstream(place)}{case.path}"}
    settings = {"pass_through_endpoints": [endpoint], "dangerously_permit_weak_or_unset_master_key": True}
    (place.directory / "config.yaml").write_text(json.dumps({"general_settings": settings}))  # JSON is YAML
    arguments = [sys.executable, "-c", "import litellm; litellm.run_server()", "--config", "config.yaml"]
    arguments += ["--host", "127.0.0.1", "--port", str(place.port), "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True"}
    return Command(arguments, {"PYTHONPATH": str(target("litellm")), "HOME": str(place.directory), **quiet})


def granian(case: Case, place: Place) -> Command:
    """Our own application behind a front in Rust: no supervisor, no recorder, so no usage is shipped."""
    if case.name not in FRONT_CASES:
        raise Absent(f"it is a check on our front, asked only in {', '.join(FRONT_CASES)}")
    package("granian", target())
    arguments = [sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1"]
    arguments += ["--port", str(place.port), "--workers", "1", "--loop", "uvloop", "--no-ws", "--log-level", "warning"]
    path = f"{target()}:{HERE.parent}"
    environment = {
        **place.ours,
        "PYTHONPATH": path,
        "GATEWAY_ROLE": "proxy",
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
    }
    return Command([*arguments, "gateway.asgi:application"], environment)


def plainly(case: Case) -> None:
    if case.name != "plain":
        raise Absent("asked only in plain: it is so far from us that the others would only take time")


def upstream(place: Place) -> str:
    return f"http://127.0.0.1:{place.upstream_port}"
