"""The document as a YAML file: without ids and without what is at its default, so that it moves between machines.

Read and written by libyaml, which is in PyYAML's wheels: a file of ten thousand routes in a second, not in six.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from routes.document import FORMAT
from routes.parts import Part
from routes.problems import CompileError, Problem
from routes.reading import read

_IDS: Any = {"id": True, "consumer_id": True, "targets": {"__all__": {"id"}}}


def to_yaml(document: Mapping[str, Any]) -> str:
    """Raises CompileError for a document with unsound entries."""
    return dump(to_file(document))


def to_file(document: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the file, before it is YAML. Raises CompileError for a document with unsound entries."""
    reading = read(document)
    if reading.problems:
        raise CompileError(reading.problems)
    return {
        "format": FORMAT,
        "upstreams": [_dump(entry) for entry in reading.upstreams.values()],
        "routes": [_dump(entry) for entry in reading.routes.values()],
        "plugins": [_dump(entry) for entry in reading.plugins.values()],
    }


def dump(file: Mapping[str, Any], *, flow: bool | None = False) -> str:
    """`flow` None: what holds no other lists stands on one line."""
    return yaml.dump(
        dict(file), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=flow
    )


def _dump(entry: Part) -> dict[str, Any]:
    return entry.model_dump(exclude_defaults=True, exclude=_IDS)


def from_yaml(text: str) -> object:
    """Raises CompileError with the line, also for a key that stands there twice."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise CompileError([Problem((), (), f"This is not YAML: {error}")]) from error


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    """A certificate stays readable."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


class _Loader(yaml.CSafeLoader):
    """Dates stay text, as in JSON; a key that is there twice is an error, not the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is there twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, Hashable) else id(key))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
