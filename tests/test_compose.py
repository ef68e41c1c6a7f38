"""docker-compose.yml says nothing that the code does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from gateway.environment import ROOT, Environment, variable

KNOWN = {str(field.validation_alias or variable(name)) for name, field in Environment.model_fields.items()}
SERVICES: dict[str, Any] = yaml.safe_load(Path(ROOT, "docker-compose.yml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "hydragate"}


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
