"""One plugin = one file, one class, one doc page, one test file. This proves it for every plugin in the list."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.environment import PLUGINS, ROOT
from gateway.plugins.base import Plugin, PluginConfig
from gateway.plugins.reference import PAGES, renewed
from gateway.plugins.registry import Registry
from gateway.proxy.errors import OUTCOMES

NO_PLUGINS = {
    "__init__", "base", "registry", "edits", "reference", "bearer", "claims", "jwks", "signatures", "tokens",
    "endpoints", "callers", "anonymous", "passwords", "references", "templates", "bodies", "schemas", "openapi",
    "pointers", "packers", "identity", "certificates", "provider", "sealed", "trying", "skeleton", "batches", "dryruns",
    "freshness", "directives", "level", "flights", "purges", "store",
    "conditions", "answers", "cache", "lookup", "inquiry", "intake", "rates", "ramps", "terms", "periods",
    "attempts", "secured", "rfc5424", "deliveries", "kept", "kafka", "extras", "programs", "jq_helper",
}  # fmt: skip


def class_of(path: str) -> type[Plugin]:
    module, _, name = path.rpartition(".")
    found: type[Plugin] = getattr(importlib.import_module(module), name)
    return found


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    yield from schema.get("$defs", {}).values()


@pytest.fixture(params=PLUGINS, ids=lambda path: path.rpartition(".")[2])
def plugin(request: pytest.FixtureRequest) -> type[Plugin]:
    return class_of(request.param)


def test_file_and_class_are_named_after_the_plugin(plugin: type[Plugin]) -> None:
    assert plugin.__module__ == f"gateway.plugins.{plugin.name.replace('-', '_')}"
    assert plugin.__name__ == plugin.name.title().replace("-", "")


def test_one_file_holds_one_plugin(plugin: type[Plugin]) -> None:
    module = importlib.import_module(plugin.__module__)
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    assert [value for value in own if issubclass(value, Plugin)] == [plugin]
    assert issubclass(plugin.Config, PluginConfig)


def test_the_docstring_names_phases_failures_and_kongs_twin(plugin: type[Plugin]) -> None:
    doc = importlib.import_module(plugin.__module__).__doc__
    assert doc is not None
    assert doc.startswith(f"{plugin.name}: ")
    phases = re.search(r"^Phases +(.*)$", doc, re.MULTILINE)
    assert phases is not None
    assert (
        tuple(re.findall(r"\b(access|forward|response|body|log|batch)\b", re.sub(r"\(.*?\)", "", phases[1])))
        == plugin.hooks()
    )
    assert re.search(r"^Fails +", doc, re.MULTILINE)
    assert re.search(r"^Compare +Kong's ", doc, re.MULTILINE)


def test_there_is_a_test_file(plugin: type[Plugin]) -> None:
    assert (Path(__file__).parent / f"test_{plugin.name.replace('-', '_')}.py").is_file()


def test_every_field_has_a_description_and_a_bound(plugin: type[Plugin], registry: Registry) -> None:
    for part in objects(registry.schema(plugin.name)):
        for name, field in part["properties"].items():
            assert field.get("description"), f"{name} has no description"
            for kind in (field, *field.get("anyOf", ())):
                if kind.get("type") == "integer":
                    assert {"minimum", "maximum"} <= kind.keys() or "enum" in kind, f"{name} has no bound"
                if kind.get("type") == "string" and "anyOf" not in field:
                    assert {"maxLength", "enum"} & kind.keys(), f"{name} has no bound"


def test_the_page_shows_the_fields_as_they_are(plugin: type[Plugin], registry: Registry) -> None:
    """`python -m gateway.plugins.reference` renews it."""
    page = (PAGES / f"{plugin.name}.md").read_text()
    assert page.startswith(f"# {plugin.name}\n")
    assert renewed(page, registry.schema(plugin.name)) == page


def test_the_page_names_every_code_the_plugin_can_end_with(plugin: type[Plugin]) -> None:
    source = inspect.getsource(importlib.import_module(plugin.__module__))
    codes = {code for code in re.findall(r'"([a-z]+(?:_[a-z]+)+)"', source) if code in OUTCOMES}
    page = (PAGES / f"{plugin.name}.md").read_text()
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_every_example_on_a_page_is_a_valid_config(plugin: type[Plugin], registry: Registry) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (PAGES / f"{plugin.name}.md").read_text(), re.DOTALL)
    assert examples
    for text in examples:
        example = yaml.safe_load(text)
        registry.validate(example["plugin"], example["config"])


def test_there_are_no_pages_or_files_of_no_plugin() -> None:
    names = {class_of(path).name for path in PLUGINS}
    assert {page.stem for page in PAGES.glob("*.md")} == names
    files = {file.stem for file in (ROOT / "gateway" / "plugins").glob("*.py")}
    assert files == NO_PLUGINS | {name.replace("-", "_") for name in names}
