from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from gateway.environment import PLUGINS, ROOT
from gateway.plugins import registry as module
from gateway.plugins.acl import Acl
from gateway.plugins.base import Plugin
from gateway.plugins.registry import IDENTIFYING, ConfigProblems, Registry, RegistryProblems

STAMP = """
from __future__ import annotations
from pydantic import Field
from gateway.plugins.base import Plugin, PluginConfig

class StampConfig(PluginConfig):
    text: str = Field("x", max_length=9)
    '''What to write.'''

class Stamp(Plugin):
    name = "{name}"
    Config = StampConfig

    def access(self, exchange):
        exchange.headers.append((b"x-stamp", self.config.text.encode()))
"""


@pytest.fixture(autouse=True)
def _forget_modules() -> None:
    yield
    for name in [name for name in sys.modules if name.startswith("hydragate_plugins.")]:
        del sys.modules[name]


def installed(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = EntryPoints(EntryPoint(name, value, module.ENTRY_POINTS) for name, value in points.items())
    monkeypatch.setattr(module, "entry_points", lambda group: found.select(group=group))


def problems(*args: object) -> list[str]:
    with pytest.raises(RegistryProblems) as caught:
        Registry.load(*args)  # type: ignore[arg-type]
    return caught.value.problems


def test_the_order_is_the_settings() -> None:
    registry = Registry.load(list(reversed(PLUGINS)))
    assert registry.names[0] == "kafka-log"
    assert [registry.position(name) for name in registry] == list(range(len(PLUGINS)))
    assert registry["acl"] is Acl
    assert "nope" not in registry


def test_a_file_of_the_directory_is_a_plugin(tmp_path: Path, exchange_of) -> None:
    (tmp_path / "stamp.py").write_text(STAMP.format(name="stamp"))
    (tmp_path / "_shared.py").write_text("1/0")
    (tmp_path / "notes.txt").write_text("1/0")
    registry = Registry.load(["gateway.plugins.acl.Acl"], tmp_path)
    assert registry.names == ("acl", "stamp")
    exchange = exchange_of()
    registry["stamp"](registry.validate("stamp", {"text": "hi"}), None).access(exchange)
    assert exchange.headers == [(b"x-stamp", b"hi")]


def test_installed_plugins_stand_after_the_list_unless_it_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, b="gateway.plugins.cors:Cors", a="gateway.plugins.acl:Acl")
    assert Registry.load(["gateway.plugins.request_id.RequestId"]).names == ("request-id", "acl", "cors")
    assert Registry.load(["gateway.plugins.cors.Cors"]).names == ("cors", "acl")


def test_every_problem_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, gone="no_such_package:Thing")
    (tmp_path / "a_empty.py").write_text("")
    (tmp_path / "b_broken.py").write_text("raise RuntimeError('boom')")
    (tmp_path / "c_twin.py").write_text(STAMP.format(name="acl"))
    (tmp_path / "d_misspelt.py").write_text(STAMP.format(name="d").replace("def access", "def acces"))
    paths = [
        "Acl",
        "no.such.Module",
        "gateway.plugins.acl.Nope",
        "gateway.plugins.base.Plugin",
        *["gateway.plugins.acl.Acl"] * 2,
    ]
    found = problems(paths, tmp_path)
    for sentence, words in zip(
        found,
        [
            "'Acl' is no dotted path",
            "cannot be imported: ModuleNotFoundError",
            "has no 'Nope'",
            "no subclass",
            "stands there twice",
            "entry point 'gone'",
            "a_empty.py: no subclass",
            "RuntimeError: boom",
            "Stamp.acces is not a hook",
            "Two plugins are called 'acl'",
        ],
        strict=True,
    ):
        assert words in sentence


def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    assert problems([], tmp_path / "nope") == [f"GATEWAY_PLUGIN_DIR: {tmp_path / 'nope'} is no directory."]


def test_problems_of_a_config_carry_their_field(registry: Registry) -> None:
    config = {"limits": [{"limit": 0, "algorithm": "lottery"}, 5], "minuet": 3, "by": None}
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("rate-limiting", config)
    found = dict(caught.value.problems)
    assert found.keys() == {"limits.0.limit", "limits.0.window", "limits.0.algorithm", "limits.1", "minuet", "by"}
    assert found["limits.0.window"] == "This field is required."
    assert found["minuet"].startswith("There is no such field. The fields are: second, minute,")


@pytest.mark.parametrize(("name", "config"), [("nope", {}), ("acl", None), ("acl", ["gold"]), ("acl", "gold")])
def test_what_is_no_config_at_all_is_said_for_the_whole(registry: Registry, name: str, config: object) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate(name, config)
    assert [path for path, _ in caught.value.problems] == [""]


def test_a_lists_only_wrong_entry_is_one_problem(registry: Registry) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("key-auth", {"key_names": ["a b"]})
    assert [path for path, _ in caught.value.problems] == ["key_names.0"]


def test_a_valid_config_survives_the_way_through_json(registry: Registry) -> None:
    config = registry.validate("rate-limiting", {"limits": [{"limit": 5, "window": "1m"}]})
    assert registry.validate("rate-limiting", config.model_dump(mode="json")) == config


def test_plugins_get_the_id_of_their_setting(make) -> None:
    plugin: Plugin = make("acl", {"allow": ["gold"]}, setting_id=42)
    assert plugin.setting_id == 42


def test_ours_may_be_loaded_when_they_are_asked_for() -> None:
    early, (late, problems) = Registry.load(PLUGINS), Registry.load_sound(PLUGINS, late=True)
    assert (late.names, late.identified, problems) == (early.names, early.identified, [])
    assert {name for name in early if early[name].identifies} == IDENTIFYING
    assert dict(late) == dict(early)
    with pytest.raises(KeyError):
        late["nothing"]


def test_a_worker_loads_only_the_plugins_it_is_asked_for() -> None:
    code = (
        "import sys; from gateway.environment import PLUGINS; from gateway.plugins.registry import Registry; "
        "registry, _ = Registry.load_sound(PLUGINS, late=True); registry.validate('cors', {}); "
        "print([name for name in ('cors', 'jwt', 'acl') if 'gateway.plugins.' + name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cors']"
