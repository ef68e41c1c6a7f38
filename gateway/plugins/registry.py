"""Which plugins there are, in the order they run: the setting GATEWAY_PLUGINS, then installed ones, then a directory's.

    registry = Registry.load(ENVIRONMENT.plugins, ENVIRONMENT.plugin_dir)
    config = registry.validate("rate-limiting", {"minute": 100})

A package offers plugins by entry points of the group `hydragate.plugins`. A class that GATEWAY_PLUGINS names keeps its
place there; any other stands after the list, by name. Files of the directory come last, by file name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from pydantic import ValidationError

from gateway.plugins.base import Plugin, PluginConfig

ENTRY_POINTS = "hydragate.plugins"
OURS = "gateway.plugins."
#: Of ours, those that say who calls: asked before they are loaded.
IDENTIFYING = frozenset({
    "key-auth", "basic-auth", "jwt", "oauth2-introspection", "mtls-auth", "openid-connect", "hmac-auth", "forward-auth",
})  # fmt: skip


class RegistryProblems(Exception):
    """Plugins that cannot be loaded: one sentence for each, all at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("Plugins that cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = problems


class ConfigProblems(ValueError):
    """What is wrong with a config, each as (field path such as `limits.0.window`, sentence). "": the whole config."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {text}" if path else text for path, text in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Late:
    """One of our own that is not loaded yet. Its module has its name."""

    path: str

    @property
    def name(self) -> str:
        return self.path.split(".")[-2].replace("_", "-")

    @property
    def identifies(self) -> bool:
        return self.name in IDENTIFYING

    def load(self) -> type[Plugin]:
        module, _, name = self.path.rpartition(".")
        found: type[Plugin] = getattr(importlib.import_module(module), name)
        return found


class Registry(Mapping[str, type[Plugin]]):
    """Plugin classes by name, in the order they run. Never changes: another set of plugins is another registry."""

    def __init__(self, classes: Iterable[type[Plugin] | Late]) -> None:
        self._classes: dict[str, type[Plugin] | Late] = {}
        problems = [
            f"Two plugins are called '{cls.name}': {_path(other)} and {_path(cls)}."
            for cls in classes
            if (other := self._classes.setdefault(cls.name, cls)) is not cls
        ]
        if problems:
            raise RegistryProblems(problems)
        self.names = tuple(self._classes)
        self._positions = {name: position for position, name in enumerate(self.names)}
        #: Where the last one stands that says who calls; -1: there is none.
        self.identified = max(
            (self._positions[name] for name, cls in self._classes.items() if cls.identifies), default=-1
        )

    @classmethod
    def load(cls, paths: Iterable[str], plugin_dir: Path | None = None) -> Registry:
        """Imports everything. Raises RegistryProblems."""
        registry, problems = cls.load_sound(paths, plugin_dir)
        if problems:
            raise RegistryProblems(problems)
        return registry

    @classmethod
    def load_sound(
        cls, paths: Iterable[str], plugin_dir: Path | None = None, before: Registry | None = None, *, late: bool = False
    ) -> tuple[Registry, list[str]]:
        """Imports everything; what can be used, and what is wrong with the rest.

        `before`: whose plugins of a file stay where the file cannot be imported any more. `late`: our own are imported
        when they are first asked for, since most configurations use few of them.
        """
        loader = _Loader([] if before is None else [*before._classes.values()], late)
        for path in paths:
            loader.take_path(path)
        for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
            loader.take_entry_point(f"entry point '{entry.name}' ({entry.value})", entry.load)
        if plugin_dir is not None:
            loader.take_directory(plugin_dir)
        try:
            return cls(loader.classes), loader.problems
        except RegistryProblems as error:
            first = {cls.name: cls for cls in reversed(loader.classes)}
            sound = [cls for cls in loader.classes if first[cls.name] is cls]
            return cls(sound), loader.problems + error.problems

    def __getitem__(self, name: str) -> type[Plugin]:
        found = self._classes[name]
        if isinstance(found, Late):
            found = self._classes[name] = found.load()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def position(self, name: str) -> int:
        """Where it stands in the order; 0 runs first."""
        return self._positions[name]

    def validate(self, name: str, config: object) -> PluginConfig:
        """Text from outside becomes a Config. Raises ConfigProblems with every problem."""
        plugin = self.get(name)
        if plugin is None:
            raise ConfigProblems([("", f"There is no plugin '{name}'. There are: {', '.join(self.names)}.")])
        if not isinstance(config, Mapping):
            raise ConfigProblems([("", "The config must be an object with fields.")])
        try:
            return plugin.Config.model_validate(dict(config))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            places = [problem["loc"] for problem in problems]
            raise ConfigProblems(
                [
                    _plain(plugin.Config, problem)
                    for problem in problems
                    # A list whose only entry is wrong is "too short" too for pydantic; people need the entry alone.
                    if problem["type"] != "too_short" or not any(_inside(place, problem["loc"]) for place in places)
                ]
            ) from error

    def schema(self, name: str) -> dict[str, Any]:
        """JSON Schema of what `validate` accepts."""
        return self[name].Config.model_json_schema(mode="validation")


class _Loader:
    """Collects classes and problems; a problem never stops the search for the next."""

    def __init__(self, before: Iterable[type[Plugin] | Late], late: bool) -> None:
        self._before, self._late = before, late
        self.classes: list[type[Plugin] | Late] = []
        self.problems: list[str] = []

    def take_path(self, path: str) -> None:
        module_name, _, class_name = path.rpartition(".")
        if not module_name:
            self.problems.append(f"GATEWAY_PLUGINS: '{path}' is no dotted path such as 'package.module.Class'.")
            return
        if self._late and module_name.startswith(OURS):
            self.classes.append(Late(path))
            return
        module = self._imported(f"GATEWAY_PLUGINS: '{path}'", lambda: importlib.import_module(module_name))
        if module is None:
            return
        if not hasattr(module, class_name):
            self.problems.append(f"GATEWAY_PLUGINS: '{path}': the module {module_name} has no '{class_name}'.")
        elif (found := self._checked(f"GATEWAY_PLUGINS: '{path}'", getattr(module, class_name))) in self.classes:
            self.problems.append(f"GATEWAY_PLUGINS: '{path}' stands there twice.")
        elif found is not None:
            self.classes.append(found)

    def take_entry_point(self, origin: str, load: Any) -> None:
        loaded = self._imported(origin, load)
        if loaded is not None and (found := self._checked(origin, loaded)) and found not in self.classes:
            self.classes.append(found)

    def take_directory(self, directory: Path) -> None:
        if not directory.is_dir():
            self.problems.append(f"GATEWAY_PLUGIN_DIR: {directory} is no directory.")
            return
        for file in sorted(directory.glob("*.py")):
            if not file.name.startswith("_"):
                self._take_file(file)

    def _take_file(self, file: Path) -> None:
        module = self._imported(str(file), lambda: module_of(file))
        if module is None:
            self.classes += [cls for cls in self._before if cls.__module__ == _module_name(file)]
            return
        found = plugins_in(module)
        if not found:
            self.problems.append(f"{file}: no subclass of gateway.plugins.base.Plugin in it.")
        self.classes += found

    def _imported(self, origin: str, load: Any) -> Any:
        try:
            return load()
        except Exception as error:  # foreign code: whatever it raises is a sentence for the operator, not our end
            self.problems.append(f"{origin}: cannot be imported: {type(error).__name__}: {error}")
            return None

    def _checked(self, origin: str, value: object) -> type[Plugin] | None:
        if inspect.isclass(value) and issubclass(value, Plugin) and value is not Plugin:
            return value
        self.problems.append(f"{origin}: is no subclass of gateway.plugins.base.Plugin.")
        return None


def files_of(plugin_dir: Path | None) -> tuple[tuple[str, int, int], ...]:
    """What `load` would read of a directory: name, time and size of each file. Another value: something has changed."""
    found = []
    for file in sorted(plugin_dir.glob("*.py")) if plugin_dir is not None else ():
        with contextlib.suppress(OSError):  # it has just gone
            stat = file.stat()
            found.append((str(file), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def plugins_in(module: ModuleType) -> list[type[Plugin]]:
    """Those defined there, not those imported."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Plugin) and value.__module__ == module.__name__
    ]


class _Fresh(SourceFileLoader):
    """Always compiles: bytecode that is kept tells two versions within a second apart by their size only."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def module_of(file: Path) -> ModuleType:
    """Raises whatever the file raises."""
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file, loader=_Fresh(name, str(file)))
    assert spec is not None  # a `.py` file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves a Config's annotations by the module's name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(file: Path) -> str:
    return f"hydragate_plugins.{file.stem}"


def _path(cls: type[Plugin] | Late) -> str:
    return cls.path if isinstance(cls, Late) else f"{cls.__module__}.{cls.__qualname__}"


def _inside(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def _plain(config: type[PluginConfig], problem: Any) -> tuple[str, str]:
    """One of pydantic's errors as (field path, sentence)."""
    path = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "missing":
            text = "This field is required."
        case "extra_forbidden" if len(problem["loc"]) == 1:
            text = f"There is no such field. The fields are: {', '.join(config.model_fields)}."
        case "extra_forbidden":
            text = "There is no such field here."
        case _:
            text = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            text = text if text.endswith(".") else text + "."
    return path, text
