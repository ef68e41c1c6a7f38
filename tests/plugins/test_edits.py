"""The words both transformers share."""

from __future__ import annotations

import pytest

from gateway.plugins.registry import ConfigProblems

BEFORE = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4")]


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ({"remove": ["A", "nope"]}, [(b"b", b"2"), (b"c", b"4")]),
        ({"rename": ["A:X"]}, [(b"x", b"1"), (b"b", b"2"), (b"x", b"3"), (b"c", b"4")]),
        ({"rename": ["A:B"]}, [(b"b", b"1"), (b"b", b"3"), (b"c", b"4")]),
        ({"rename": ["nope:B"]}, BEFORE),
        ({"replace": ["A: x:y "]}, [(b"b", b"2"), (b"c", b"4"), (b"a", b"x:y")]),
        ({"replace": ["nope:x"]}, BEFORE),
        ({"set": ["A:x", "new:y"]}, [(b"b", b"2"), (b"c", b"4"), (b"a", b"x"), (b"new", b"y")]),
        ({"add": ["A:x", "new:y"]}, [*BEFORE, (b"new", b"y")]),
        ({"append": ["A:x", "new:"]}, [*BEFORE, (b"a", b"x"), (b"new", b"")]),
        (
            {"remove": ["A"], "rename": ["B:A"], "replace": ["A:r"], "add": ["A:no"], "append": ["A:s"]},
            [(b"c", b"4"), (b"a", b"r"), (b"a", b"s")],
        ),
    ],
)
@pytest.mark.parametrize("name", ["request-transformer", "response-transformer"])
def test_header_edits_of_both_transformers(make, exchange_of, name, config, after) -> None:
    plugin = make(name, {word: {"headers": edits} for word, edits in config.items()})
    exchange = exchange_of(headers=BEFORE, answer=BEFORE)
    if name == "request-transformer":
        plugin.access(exchange)
        assert exchange.headers == after
    else:
        plugin.response(exchange)
        assert exchange.response_headers == after


@pytest.mark.parametrize("name", ["request-transformer", "response-transformer"])
@pytest.mark.parametrize(
    ("word", "edit"),
    [
        *(("set", f"{field}:x") for field in ("Connection", "transfer-encoding", "Content-Length", "TE", "Upgrade")),
        ("remove", "Connection"),
        ("remove", "Host"),
        ("rename", "Host:X-Host"),
        ("rename", "X-Host:Host"),
        ("add", "Host:x"),
        ("set", "no-colon"),
        ("rename", "no-colon"),
        ("set", ":x"),
        ("set", "na me:x"),
        ("set", "näme:x"),
        ("set", "name\r\n:x"),
        ("set", "name:x\r\nevil: y"),
        ("set", "name:x\n"),
        ("set", "name:\x00"),
        ("remove", ""),
    ],
)
def test_what_could_break_a_message_is_refused_by_field(registry, name, word, edit) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate(name, {word: {"headers": ["fine" if word == "remove" else "fine:x", edit]}})
    assert [problem[0] for problem in caught.value.problems] == [f"{word}.headers.1"]


@pytest.mark.parametrize("name", ["request-transformer", "response-transformer"])
def test_an_empty_setting_is_refused(registry, name) -> None:
    with pytest.raises(ConfigProblems, match="Nothing to do"):
        registry.validate(name, {"remove": {"headers": []}})
