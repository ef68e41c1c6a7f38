"""Nothing exists without its page, and no page names what does not exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from gateway.environment import PLUGINS, ROOT, Environment, variable
from gateway.plugins.registry import Registry
from gateway.proxy.errors import OUTCOMES, GatewayError
from gateway.reference import PAGES
from gateway.server import refusals
from routes import catalogue, portable
from routes.compile import compile as compile_document
from routes.document import PluginEntry, RouteEntry, RouteUpstreamEntry
from routes.parts import Part
from routes.upstreams import TargetEntry, UpstreamEntry

DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
SETTINGS = {str(field.validation_alias or variable(name)) for name, field in Environment.model_fields.items()}


def subclasses(kind: type[GatewayError]) -> set[type[GatewayError]]:
    return {kind} | {below for child in kind.__subclasses__() for below in subclasses(child)}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `python manage.py reference`"


def test_every_error_code_and_outcome_is_documented() -> None:
    assert refusals  # imported for its subclasses
    page = (DOCS / "errors.md").read_text()
    ours = {kind for kind in subclasses(GatewayError) if kind.__module__.startswith("gateway.")}
    codes = {kind.code for kind in ours} | OUTCOMES
    missing = sorted(code for code in codes if f"`{code}`" not in page)
    assert not missing


def test_every_plugin_has_its_page() -> None:
    names = Registry.load(PLUGINS).names
    assert {path.stem for path in (DOCS / "plugins").glob("*.md")} == set(names)


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in TEXTS
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in readme]


# --- the example of a configuration -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> Any:
    [text] = blocks(DOCS / "configuration.md", "yaml")
    return portable.from_yaml(text)


def test_the_example_compiles(example: Any) -> None:
    snapshot = compile_document(example, catalogue.registry())
    assert len(snapshot.upstreams) == len(example["upstreams"])
    assert len(snapshot.routes) == len(example["routes"])
    assert len(snapshot.plugins) == len(example["plugins"])


def test_the_example_names_every_field(example: Any) -> None:
    upstream, route = example["upstreams"][0], example["routes"][0]
    shown: dict[type[Part], set[str]] = {
        UpstreamEntry: set(upstream),
        TargetEntry: set(upstream["targets"][0]),
        RouteEntry: set(route),
        RouteUpstreamEntry: set(route["upstreams"][0]),
        PluginEntry: {field for setting in example["plugins"] for field in setting},
    }
    ids = {"id", "consumer_id"}  # of rows, which no file has
    assert shown == {shape: shape.model_fields.keys() - ids for shape in shown}


def test_the_first_entries_show_the_defaults(example: Any) -> None:
    upstream, route = example["upstreams"][0], example["routes"][0]
    for shape, entry in ((UpstreamEntry, upstream), (TargetEntry, upstream["targets"][0]), (RouteEntry, route)):
        own = {"name", "host", "port"}
        shown = {name: value for name, value in entry.items() if name not in own and not isinstance(value, list | dict)}
        assert shown == {name: shape.model_fields[name].default for name in shown}


# --- commands, settings, metrics --------------------------------------------------------------------------------------


def command(name: str) -> BaseCommand:
    app: Any = get_commands()[name]
    return app if isinstance(app, BaseCommand) else load_command_class(app, name)


def typed() -> Iterator[tuple[str, str]]:
    """(page, what follows `manage.py`) of every line of a code block, without prompt, comment and redirection."""
    for page in TEXTS:
        for line in page.read_text().splitlines():
            if match := re.match(r"    (?:\S+ )?manage\.py ([^#>|]+)", line):
                yield page.name, match[1].strip()


@pytest.mark.parametrize(("page", "line"), sorted(set(typed())))
def test_every_command_line_is_understood(page: str, line: str) -> None:
    name, *arguments = shlex.split(line)
    if name == "help":  # Django's own, of no application
        return
    try:
        command(name).create_parser("manage.py", name).parse_args(arguments)
    except CommandError as error:
        pytest.fail(f"{page}: manage.py {line}: {error}")


def test_every_command_named_exists() -> None:
    named = {name for page in TEXTS for name in re.findall(r"manage\.py ([a-z]+)", page.read_text())}
    assert named <= {*get_commands(), "help"}
    assert {"up", "serve", "prepare", "config", "publish", "key", "consumer"} <= named


def test_every_variable_named_is_a_setting() -> None:
    for page in (*TEXTS, ROOT / "docker-compose.yml"):
        assert set(re.findall(r"\bGATEWAY_[A-Z_]+\b", page.read_text())) <= SETTINGS, page.name


def test_every_metric_named_exists() -> None:
    known = set(re.findall(r"`(hydragate_\w+)`", PAGES["metrics.md"]()))
    for page in TEXTS:
        assert set(re.findall(r"\bhydragate_\w+\b", page.read_text())) <= known, page.name


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_usage_column_and_outcome_is_explained() -> None:
    with connection.cursor() as cursor:
        columns = [column.name for column in connection.introspection.get_table_description(cursor, "usage_row")]
    page = (DOCS / "usage.md").read_text()
    assert not [word for word in (*columns, *sorted(OUTCOMES)) if f"`{word}`" not in page]


@pytest.mark.django_db
@pytest.mark.parametrize("query", blocks(DOCS / "usage.md", "sql"))
def test_sql_of_the_page_runs(query: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(query)
        assert cursor.description
