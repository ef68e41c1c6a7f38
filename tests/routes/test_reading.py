"""Whatever a document holds: the answer is a Snapshot or a list of problems, never another exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.plugins.registry import Registry
from routes.compile import compile as compile_document
from routes.document import PluginEntry, RouteEntry, canonical, digest
from routes.problems import CompileError, Problem, pointer
from routes.reading import read
from routes.upstreams import TargetEntry, UpstreamEntry

REGISTRY = Registry.load([], Path(__file__).parent / "plugins")

texts = st.sampled_from(["users", "/users/*", "~^/a(", "*.a", "unix:/x", "a\x00", "\ud800", "", "quota", "alice"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.text(max_size=5)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def entries(*shapes: type[Any]) -> st.SearchStrategy[Any]:
    fields = {name: values for shape in shapes for name in shape.model_fields}
    targets = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(TargetEntry.model_fields, values)), max_size=2)
    upstreams = st.lists(st.fixed_dictionaries({"name": texts}), max_size=2)
    more = {"targets": targets} if "targets" in fields else {"upstreams": upstreams} if "upstreams" in fields else {}
    optional = {name: value for name, value in (fields | more).items() if name != "name"}
    entry = st.fixed_dictionaries({"name": texts | values}, optional=optional)
    return st.lists(entry | values, max_size=3) | values


documents = st.fixed_dictionaries(
    {"format": st.just(1)},
    optional={"upstreams": entries(UpstreamEntry), "routes": entries(RouteEntry), "plugins": entries(PluginEntry)},
)


@given(documents | values)
@settings(max_examples=300, deadline=None)
def test_any_document_is_compiled_or_explained(document):
    for problem in problems_of(document):
        assert problem.where
        assert problem.message
        assert resolves(document, problem.pointer)


def problems_of(document: Any) -> tuple[Problem, ...]:
    try:
        compile_document(document, REGISTRY)
    except CompileError as error:
        return error.problems
    return ()


def resolves(document: Any, text: str) -> bool:
    """A pointer leads to something, at most one missing or unknown key past it."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]
    for place, part in enumerate(parts):
        if isinstance(document, list):
            document = document[int(part)]
        elif isinstance(document, dict) and part in document:
            document = document[part]
        else:
            return place >= len(parts) - 2  # a missing field, or pydantic's own last word such as `[key]`
    return True


def test_one_bad_field_hides_nothing_else():
    reading = read({"format": 1, "routes": [{"name": "a", "priority": "x", "paths": ["b"]}, {"name": "c"}]})
    assert [problem.pointer for problem in reading.problems] == ["/routes/0/paths/0", "/routes/0/priority"]
    assert list(reading.routes) == [1]
    assert reading.named["routes"] == {"a", "c"}


def test_equal_documents_have_equal_digests_whatever_their_order():
    one, other = {"a": [1, {"b": "é", "c": 2}]}, {"a": [1, {"c": 2, "b": "é"}]}
    assert canonical(one) == canonical(other) == '{"a":[1,{"b":"é","c":2}]}'.encode()
    assert digest(one) == digest(other) != digest({"a": [{"b": "é", "c": 2}, 1]})


@pytest.mark.parametrize(
    ("row", "field", "where"),
    [
        ((), (), "document"),
        ((), ("format",), "format"),
        (("routes", "a"), ("paths", 0), 'routes["a"].paths[0]'),
        (("upstreams", "a", "targets", "b:1"), ("port",), 'upstreams["a"].targets["b:1"].port'),
    ],
)
def test_where_is_said_by_names(row, field, where):
    assert Problem(row, field, "x").where == where


def test_pointers_are_escaped():
    assert pointer(("plugins", 0, "config", "a/b~c")) == "/plugins/0/config/a~1b~0c"


def test_yaml_is_what_the_docstring_shows():
    shown = yaml.safe_load("\n".join(line for line in __import__("routes.document").document.__doc__.splitlines()[2:6]))
    assert [problem.where for problem in read(shown).problems] == []
