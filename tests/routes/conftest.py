"""Plugins of our own, so that these tests say nothing about the real ones' configs; and a small configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.environment import Environment
from gateway.plugins.registry import Registry

PLUGIN_DIR = Path(__file__).parent / "plugins"

FILE = """\
format: 1
upstreams:
- name: users
  connect_timeout_ms: 1500
  targets:
  - host: 10.0.0.1
    port: 80
  - host: unix:/run/users.sock
    weight: 0
- name: users-next
  targets:
  - host: 10.0.0.2
    port: 80
routes:
- name: users
  hosts:
  - api.example.com
  paths:
  - /users/{id}
  - /people/{id}
  methods:
  - GET
  header_conditions:
    x-version:
    - '2'
  path_rewrite: /v2/{id}
  upstreams:
  - name: users
    weight: 90
  - name: users-next
    weight: 10
plugins:
- name: quota
  config:
    windows:
    - limit: 5
      seconds: 1
  route: users
  consumer: alice
- name: stamp
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def registry() -> Registry:
    return Registry.load([], PLUGIN_DIR)


@pytest.fixture
def environment(settings) -> Environment:
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(
        update={"plugins": [], "plugin_dir": PLUGIN_DIR, "autopublish": True}
    )
    return settings.ENVIRONMENT


@pytest.fixture
def drafts(environment, settings) -> None:
    """GATEWAY_AUTOPUBLISH=off."""
    settings.ENVIRONMENT = environment.model_copy(update={"autopublish": False})


@pytest.fixture
def alice(db):
    from keys.models import Consumer

    return Consumer.objects.create(username="alice")


@pytest.fixture
def configured(environment, alice):
    """FILE, live as version 1."""
    from routes import portable, services

    return services.replace(portable.from_yaml(FILE), author="test", source="import").version
