"""References in configs: what may be named, what they stand for, and what is never said."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.plugins.references import MAX_BYTES, References, check_names, is_one, places, told

ENVIRON = {
    "PLUGIN_TOKEN": "s3cret", "PLUGIN_EMPTY": "", "ONE": "1", "ONE_MORE": "2", "SECRET_KEY": "key", "HOME": "/root",
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "secrets"
    (directory / "below").mkdir(parents=True)
    (directory / "token").write_text("from-a-file\n")
    (directory / "below" / "pem").write_text("a\nb\n\n")
    (directory / "empty").write_text("\n")
    (directory / "bytes").write_bytes(b"\xff\xfe")
    (directory / "large").write_text("x" * (MAX_BYTES + 1))
    (tmp_path / "outside").write_text("outside")
    (directory / "link-out").symlink_to(tmp_path / "outside")
    (directory / "link-in").symlink_to(directory / "token")
    return directory


@pytest.fixture
def references(directory: Path) -> References:
    return References(ENVIRON, ["PLUGIN_*", "ONE", "SECRET_*"], directory)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:PLUGIN_TOKEN}", "s3cret"),
        ("Bearer ${env:PLUGIN_TOKEN}!", "Bearer s3cret!"),
        ("${env:ONE}${file:token}", "1from-a-file"),
        ("${file:below/pem}", "a\nb\n"),
        ("${file:link-in}", "from-a-file"),
        ("${file:below/../token}", "from-a-file"),
        ("$${env:PLUGIN_TOKEN}", "${env:PLUGIN_TOKEN}"),
        ("$(headers.x) ${other:x} $ {env:ONE}", "$(headers.x) ${other:x} $ {env:ONE}"),
    ],
)
def test_what_they_stand_for_is_put_in(references: References, text: str, value: str) -> None:
    config = {"a": [{"b": text}], "n": 1, "${env:ONE}": None}
    assert references.resolved(config) == ({"a": [{"b": value}], "n": 1, "${env:ONE}": None}, [])
    assert config["a"] == [{"b": text}]  # a copy


@pytest.mark.parametrize("name", ["HOME", "ONE_MORE", "SECRET_KEY", "DATABASE_URL", "", "plugin_token"])
def test_only_variables_that_are_allowed_can_be_named(references: References, name: str) -> None:
    (at, said), *rest = references.resolved({"a": ["x", f"${{env:{name}}}"]})[1]
    assert (at, rest) == (("a", 1), [])
    assert "may not be named here" in said or "is not set" in said
    assert ENVIRON.get(name) is None or ENVIRON[name] not in said


@pytest.mark.parametrize("name", ["PLUGIN_NONE", "PLUGIN_EMPTY"])
def test_one_that_is_not_set_is_said(references: References, name: str) -> None:
    said = f"The variable '{name}' is not set where this worker runs."
    assert references.resolved(f"${{env:{name}}}")[1] == [((), said)]


@pytest.mark.parametrize("name", ["../outside", "link-out", "/etc/passwd", "", ".", "below", "none", "x\0y"])
def test_only_files_in_the_directory_can_be_named(references: References, name: str) -> None:
    value, [(_, said)] = references.resolved(f"${{file:{name}}}")
    assert value == f"${{file:{name}}}"
    assert "is not in GATEWAY_SECRETS_DIR" in said or "cannot be read" in said


@pytest.mark.parametrize("name", ["empty", "bytes", "large"])
def test_what_is_no_secret_is_none(references: References, name: str) -> None:
    assert len(references.resolved(f"${{file:{name}}}")[1]) == 1


def test_without_a_directory_there_are_no_files() -> None:
    [(_, said)] = References(ENVIRON).resolved("${file:token}")[1]
    assert "GATEWAY_SECRETS_DIR" in said


@pytest.mark.parametrize(
    ("text", "one"), [("${env:A}", True), ("${file:a/b}", True), ("$${env:A}", False), ("x${env:A}", False), (7, False)]
)
def test_only_a_reference_by_itself_is_no_secret(text: object, one: bool) -> None:
    assert is_one(text) is one


def test_problems_do_not_say_what_stands_there() -> None:
    given = {"url": "${env:A}", "names": ["a", "x ${env:B}"]}
    full = {"url": "hidden", "names": ["a", "x hidden2"]}
    problems = [(("url", "inner"), "'hidden' is no URL"), ((), "These stand there twice: x hidden2.")]
    assert list(told(problems, given, full)) == [
        (("url", "inner"), "What this refers to does not fit here."),
        ((), "These stand there twice: x ${env:B}."),
    ]
    assert places(given) == [("url",), ("names", 1)]


@pytest.mark.parametrize("word", ["*", "", "A-B", "A*B", "1A"])
def test_what_is_no_variable_cannot_be_allowed(word: str) -> None:
    with pytest.raises(ValueError, match="neither a variable's name"):
        check_names(["PLUGIN_*", word])
