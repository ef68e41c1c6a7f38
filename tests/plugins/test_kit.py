"""`manage.py plugin`, and the page about writing one: what they write works and passes as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from gateway.environment import ROOT
from gateway.plugins import skeleton
from gateway.plugins.registry import Registry, files_of
from routes import catalogue

GUIDE = (ROOT / "docs" / "write-a-plugin.md").read_text()
ANALYTICS = (ROOT / "docs" / "analytics-plugin.md").read_text()


@pytest.fixture
def directory(tmp_path: Path, settings: Any) -> Path:
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugin_dir": tmp_path})
    return tmp_path


def passes(tests: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_plugin_works_and_its_test_passes(directory: Path) -> None:
    said = StringIO()
    call_command("plugin", "new", "good-day", stdout=said, stderr=StringIO())
    files = ["good_day.py", "tests/test_good_day.py", "docs/good-day.md"]
    assert said.getvalue().split() == [str(directory / file) for file in files]
    registry = Registry.load([], directory)
    assert registry.names == ("good-day",)
    assert registry["good-day"].hooks() == ("access", "response")
    assert "3 passed" in passes(directory / "tests")
    [example] = re.findall(r"```yaml\n(.*?)```", (directory / "docs" / "good-day.md").read_text(), re.DOTALL)
    wanted = yaml.safe_load(example)
    registry.validate(wanted["plugin"], wanted["config"])


@pytest.mark.parametrize("name", ["Good", "good_day", "1st", "a--b", "a-", "", "json", "class", "x" * 61, "../x"])
def test_what_is_no_name_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(CommandError):
        call_command("plugin", "new", name, stderr=StringIO())
    assert not list(directory.iterdir())


def test_nothing_is_written_over(directory: Path) -> None:
    call_command("plugin", "new", "good-day", stdout=StringIO(), stderr=StringIO())
    (directory / "good_day.py").write_text("mine")
    with pytest.raises(CommandError, match="already"):
        call_command("plugin", "new", "good-day")
    assert (directory / "good_day.py").read_text() == "mine"


def test_the_name_of_another_plugin_is_taken(directory: Path) -> None:
    with pytest.raises(CommandError, match="a plugin 'key-auth' already"):
        call_command("plugin", "new", "key-auth")


def test_without_a_directory_it_asks_for_one(settings: Any, tmp_path: Path) -> None:
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugin_dir": None})
    with pytest.raises(CommandError, match="GATEWAY_PLUGIN_DIR"):
        call_command("plugin", "new", "good-day")
    call_command("plugin", "new", "good-day", "--dir", str(tmp_path / "mine"), stdout=StringIO(), stderr=StringIO())
    assert (tmp_path / "mine" / "good_day.py").is_file()


def test_all_plugins_are_listed_and_what_is_wrong_is_said(directory: Path) -> None:
    (directory / "broken.py").write_text("import nothing_like_this")
    (directory / "good_day.py").write_text(skeleton.files("good-day")["good_day.py"])
    said = StringIO()
    with pytest.raises(CommandError, match="nothing_like_this"):
        call_command("plugin", "list", stdout=said)
    lines = [line.split() for line in said.getvalue().splitlines()]
    assert [line[0] for line in lines][-1] == "good-day"
    assert ["key-auth", "access", "gateway.plugins.key_auth"] in lines


def test_a_changed_file_is_read_whatever_its_time_and_size_say_of_the_second(directory: Path) -> None:
    file = directory / "good_day.py"
    text = skeleton.files("good-day")["good_day.py"]
    for word in ("hello", "jello"):
        file.write_text(text.replace('"hello"', f'"{word}"'))
        assert Registry.load([], directory)["good-day"].Config().text == word  # type: ignore[attr-defined]
    assert not (directory / "__pycache__").exists()
    before = files_of(directory)
    file.write_text(text + "\n")
    assert files_of(directory) != before


def test_one_broken_file_leaves_the_others(directory: Path) -> None:
    (directory / "broken.py").write_text("1 / 0")
    (directory / "good_day.py").write_text(skeleton.files("good-day")["good_day.py"])
    registry, problems = Registry.load_sound([], directory)
    assert registry.names == ("good-day",)
    assert len(problems) == 1
    assert "ZeroDivisionError" in problems[0]


def test_of_two_plugins_of_one_name_the_first_stays(directory: Path) -> None:
    for file in ("a.py", "b.py"):
        (directory / file).write_text(skeleton.files("good-day")["good_day.py"])
    registry, [problem] = Registry.load_sound([], directory)
    assert registry["good-day"].__module__ == "hydragate_plugins.a"
    assert "Two plugins are called 'good-day'" in problem


@pytest.mark.parametrize(
    ("guide", "module", "said"), [(GUIDE, "office_hours", "6 passed"), (ANALYTICS, "call_counts", "2 passed")]
)
def test_the_guides_plugin_does_what_the_guide_says(directory: Path, guide: str, module: str, said: str) -> None:
    plugin, test = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (directory / f"{module}.py").write_text(plugin)
    (directory / "tests").mkdir()
    (directory / "tests" / f"test_{module}.py").write_text(test)
    [setting] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[0])["plugins"]
    assert Registry.load([], directory).validate(setting["name"], setting["config"])
    assert said in passes(directory / "tests")


def test_of_a_file_that_breaks_the_plugin_before_it_stays_and_others_are_new(directory: Path) -> None:
    text = skeleton.files("good-day")["good_day.py"]
    (directory / "good_day.py").write_text(text)
    before, _ = Registry.load_sound([], directory)
    (directory / "good_day.py").write_text("1 / 0")
    (directory / "other.py").write_text(text.replace('name = "good-day"', 'name = "other"'))
    after, problems = Registry.load_sound([], directory, before)
    assert after["good-day"] is before["good-day"]
    assert after.names == ("good-day", "other")
    assert len(problems) == 1


def test_a_file_that_breaks_takes_nothing_from_the_pages(directory: Path) -> None:
    file = directory / "good_day.py"
    file.write_text(skeleton.files("good-day")["good_day.py"])
    known = catalogue.registry()["good-day"]
    file.write_text("1 / 0")
    assert catalogue.registry()["good-day"] is known
    file.write_text(skeleton.files("good-day")["good_day.py"] + "\n")
    assert catalogue.registry()["good-day"] is not known
