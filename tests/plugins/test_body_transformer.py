from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.plugins.kept import Kept
from gateway.plugins.registry import ConfigProblems
from gateway.proxy import headers
from gateway.proxy.errors import BodyTooLarge, Reject, UpstreamBroke

JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"application/x-www-form-urlencoded")


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(body: Any) -> bytes:
    return body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])


async def sent(make, exchange_of, edits: dict[str, Any], body: bytes, *fields, **more: Any):
    exchange = exchange_of(
        "POST", headers=[*(fields or (JSON,)), (b"content-length", b"%d" % len(body))],
        body=stream(body[:3], body[3:]), content_length=len(body), **more,
    )  # fmt: skip
    await make("body-transformer", {"request": edits}).access(exchange)
    return exchange, await whole(exchange.body)


async def answered(
    make, exchange_of, edits: dict[str, Any], body: Any, *fields, method: str = "GET", status: int = 200
):
    exchange = exchange_of(method, answer=list(fields or (JSON,)), answer_body=body, status=status)
    await make("body-transformer", {"response": edits, "max_body_bytes": 100}).response(exchange)
    return exchange, await whole(exchange.answer_body)


@pytest.mark.parametrize(("edits", "before", "after"), [
    ({"remove": ["/a", "/none", "/l/0", "/t/x"]}, {"a": 1, "l": [1, 2], "t": "x"}, {"l": [2], "t": "x"}),
    ({"move": [{"from": "/a", "to": "/b/c"}]}, {"a": 1}, {"b": {"c": 1}}),
    ({"move": [{"from": "/none", "to": "/b"}]}, {"b": 1}, {"b": 1}),
    ({"move": [{"from": "/a", "to": "/b"}]}, {"a": 1, "b": 2}, {"b": 1}),
    ({"replace": [{"at": "/a", "value": "2"}, {"at": "/b", "value": "2"}]}, {"a": 1}, {"a": 2}),
    ({"set": [{"at": "/a/b", "value": "null"}, {"at": "/l/0", "value": "x"}]},
     {"l": [1]}, {"a": {"b": None}, "l": ["x"]}),
    ({"set": [{"at": "/l/1", "value": "9"}, {"at": "/l/-", "value": "10"}, {"at": "/l/7", "value": "0"}]},
     {"l": [1]}, {"l": [1, 9, 10]}),
    ({"set": [{"at": "/t/a", "value": "1"}]}, {"t": "text"}, {"t": "text"}),
    ({"add": [{"at": "/a", "value": "9"}, {"at": "/b", "value": '{"c": ["$(request.method)"]}'}]},
     {"a": 1}, {"a": 1, "b": {"c": ["POST"]}}),
    ({"append": [{"at": "/l", "value": "2"}, {"at": "/m", "value": "x"}, {"at": "/n", "value": "b"}]},
     {"l": [1], "n": "a"}, {"l": [1, 2], "m": ["x"], "n": ["a", "b"]}),
    ({"set": [{"at": "/~1~0", "value": "1"}, {"at": "/", "value": "2"}]}, {}, {"/~": 1, "": 2}),
    ({"remove": ["/0"]}, [1, 2], [2]),
    ({"remove": ["/00", "/-1", "/1"]}, [1], [1]),
    ({"set": [{"at": "/a", "value": "1"}]}, 7, 7),
])  # fmt: skip
async def test_what_each_word_does(make, exchange_of, edits, before, after) -> None:
    _, body = await sent(make, exchange_of, edits, json.dumps(before).encode())
    assert json.loads(body) == after


async def test_values_come_from_the_request_and_never_from_another(make, exchange_of, alice) -> None:
    plugin = make("body-transformer", {"request": {
        "set": [{"at": "/by", "value": "$(consumer.username)"}, {"at": "/list", "value": "[]"}],
        "append": [{"at": "/list", "value": 'q $(query_params.q or "none")'}],
    }})  # fmt: skip
    for query, consumer, expected in (
        (b"q=%22a", alice.consumer, {"by": "alice", "list": ['q "a']}),
        (b"", None, {"list": ["q none"]}),
    ):
        exchange = exchange_of("POST", query=query, headers=[JSON], body=stream(b"{}"), consumer=consumer)
        await plugin.access(exchange)
        assert json.loads(await whole(exchange.body)) == expected


async def test_the_fields_say_what_is_sent(make, exchange_of) -> None:
    edits = {"set": [{"at": "/a", "value": "ä"}]}
    packed = gzip.compress(b'{"a": 1}')
    exchange, body = await sent(
        make, exchange_of, edits, packed, JSON, (b"content-encoding", b"gzip"), (b"digest", b"x")
    )
    assert body == '{"a":"ä"}'.encode()
    assert sorted(exchange.headers) == [(b"content-length", b"10"), JSON]
    assert exchange.content_length == 10


async def test_other_bodies_and_none_are_left_alone(make, exchange_of) -> None:
    edits = {"set": [{"at": "/a", "value": "1"}]}
    exchange, body = await sent(make, exchange_of, edits, b"a=b", FORM)
    assert (body, exchange.content_length) == (b"a=b", 3)
    exchange, body = await sent(make, exchange_of, edits, b"")
    assert body == b""


@pytest.mark.parametrize(("edits", "body", "field"), [
    ({"remove": ["/a"]}, b"{", JSON),
    ({"remove": ["/a"]}, b'{"a": NaN}', JSON),
    ({"remove": ["/a"]}, b"\xff", JSON),
    ({"convert": "json_to_form"}, b"[1]", JSON),
    ({"convert": "json_to_form"}, b'{"a": {"b": 1}}', JSON),
    ({"convert": "json_to_form"}, b'{"a": "\\ud800"}', JSON),
    ({"convert": "form_to_json"}, b"a=%ff", FORM),
    ({"convert": "form_to_json"}, b"&".join([b"a=1"] * 10_001), FORM),
])  # fmt: skip
async def test_what_cannot_be_read_is_refused(make, exchange_of, edits, body, field) -> None:
    with pytest.raises(Reject) as caught:
        await sent(make, exchange_of, edits, body, field)
    assert (caught.value.status, caught.value.code) == (400, "body_unreadable")


async def test_a_request_over_the_limit_is_refused(make, exchange_of) -> None:
    plugin = make("body-transformer", {"request": {"remove": ["/a"]}, "max_body_bytes": 10})
    for body in (b'{"a": "0123456789"}', gzip.compress(b" " * 1000)):
        with pytest.raises(BodyTooLarge):
            await plugin.access(exchange_of("POST", headers=[JSON, (b"content-encoding", b"gzip")], body=stream(body)))


async def test_forms_become_json_and_json_forms(make, exchange_of) -> None:
    exchange, body = await sent(make, exchange_of, {"convert": "form_to_json"}, b"a=1&a=%C3%A4&b=", FORM)
    assert json.loads(body) == {"a": ["1", "ä"], "b": ""}
    assert headers.get_all(exchange.headers, b"content-type") == [JSON[1]]
    exchange, body = await sent(
        make,
        exchange_of,
        {"convert": "json_to_form", "set": [{"at": "/c", "value": "&"}]},
        b'{"a": [1, "\xc3\xa4"], "b": true}',
    )
    assert body == b"a=1&a=%C3%A4&b=true&c=%26"
    assert headers.get_all(exchange.headers, b"content-type") == [FORM[1]]


async def test_an_answer_is_changed_whatever_pieces_it_comes_in(make, exchange_of) -> None:
    edits = {"set": [{"at": "/a", "value": "$(response_headers.x-a)"}]}
    fields = (JSON, (b"x-a", b"A"), (b"etag", b'"e"'), (b"content-length", b"2"), (b"accept-ranges", b"bytes"))
    for body in (b"{}", stream(b"{", b"}")):
        exchange, made = await answered(make, exchange_of, edits, body, *fields)
        assert made == b'{"a":"A"}'
        assert exchange.response_headers == [JSON, (b"x-a", b"A"), (b"etag", b'W/"e"'), (b"content-length", b"9")]


@pytest.mark.parametrize(("body", "fields", "status"), [
    (b"{", (JSON,), 200),
    (b"", (JSON,), 200),
    (b"{}", ((b"content-type", b"text/event-stream"),), 200),
    (b"{}", (JSON, (b"content-encoding", b"br")), 200),
    (b"{}", (JSON,), 206),
    (b"[" + b" " * 200 + b"]", (JSON,), 200),
    (b"[" + b" " * 200 + b"]", (JSON, (b"content-length", b"202")), 200),
])  # fmt: skip
async def test_what_cannot_be_changed_passes_as_it_came(make, exchange_of, body, fields, status) -> None:
    edits = {"convert": "json_to_form"} if body == b"{}" else {"set": [{"at": "/a", "value": "1"}]}
    exchange, made = await answered(make, exchange_of, edits, stream(body[:1], body[1:]), *fields, status=status)
    assert (made, exchange.response_headers) == (body, list(fields))
    assert bool(exchange.detail) == (body not in (b"", b"{}"))


async def test_a_stream_that_is_left_alone_is_not_waited_for(make, exchange_of) -> None:
    chunks = stream(b"data: 1\n\n")
    exchange = exchange_of(answer=[(b"content-type", b"text/event-stream")], answer_body=chunks, status=200)
    await make("body-transformer", {"response": {"remove": ["/a"]}}).response(exchange)
    assert exchange.answer_body is chunks


async def test_a_head_tells_the_type_and_no_length(make, exchange_of) -> None:
    exchange, made = await answered(
        make, exchange_of, {"convert": "json_to_form"}, b"", JSON, (b"content-length", b"2"), method="HEAD"
    )
    assert (made, exchange.response_headers) == (b"", [FORM])


async def test_the_upstream_is_asked_for_plain_whole_answers_only_if_they_are_changed(make, exchange_of) -> None:
    asked = [(b"accept-encoding", b"gzip"), (b"range", b"bytes=0-1"), (b"if-range", b'"a"'), (b"accept", b"*/*")]
    exchange = exchange_of(headers=asked)
    await make("body-transformer", {"response": {"remove": ["/a"]}}).access(exchange)
    assert exchange.headers == [(b"accept", b"*/*")]
    exchange = exchange_of(headers=asked)
    await make("body-transformer", {"request": {"remove": ["/a"]}}).access(exchange)
    assert exchange.headers == asked


async def test_an_answer_that_breaks_off_is_no_answer(make, exchange_of) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b'{"a":'
        raise UpstreamBroke

    with pytest.raises(UpstreamBroke):
        await answered(make, exchange_of, {"remove": ["/a"]}, broken())


@pytest.mark.parametrize(("config", "path"), [
    ({}, ""),
    ({"request": {}}, ""),
    ({"request": {"remove": ["a"]}}, "request.remove.0"),
    ({"request": {"remove": ["/a~2"]}}, "request.remove.0"),
    ({"request": {"set": [{"at": "/a", "value": "$(nothing.x)"}]}}, "request.set.0.value"),
    ({"request": {"set": [{"at": "/a", "value": '{"b": "$(x"}'}]}}, "request.set.0.value"),
    ({"response": {"convert": "xml"}}, "response.convert"),
    ({"response": {"move": [{"from": "/a"}]}}, "response.move.0.to"),
])  # fmt: skip
def test_a_config_that_means_nothing_is_refused_at_its_place(registry, config, path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("body-transformer", config)
    assert [place for place, _ in caught.value.problems] == [path]


# --- jq


@pytest.fixture
async def jq(make):
    """`make`, with what is kept for the programs."""
    kept = Kept()

    def build(config: dict[str, Any]) -> Any:
        plugin = make("body-transformer", config)
        plugin.resources = replace(plugin.resources, kept=kept)
        return plugin

    yield build
    await kept.aclose()


async def requested(plugin, exchange_of, body: bytes, *fields):
    exchange = exchange_of(
        "POST", headers=[*(fields or (JSON,)), (b"content-length", b"%d" % len(body))],
        body=stream(body[:3], body[3:]), content_length=len(body),
    )  # fmt: skip
    await plugin.access(exchange)
    return exchange, await whole(exchange.body)


async def replied(plugin, exchange_of, body: Any):
    exchange = exchange_of(answer=[JSON, (b"etag", b'"a"')], answer_body=body, status=200)
    await plugin.response(exchange)
    return exchange, await whole(exchange.answer_body)


async def test_jq_makes_bodies_both_ways(jq, exchange_of) -> None:
    plugin = jq({"request": {"jq": "{n: (.items | length)}"}, "response": {"jq": "del(.secret)"}})
    exchange, body = await requested(plugin, exchange_of, b'{"items": [1, 2]}')
    assert json.loads(body) == {"n": 2}
    assert exchange.content_length == len(body)
    exchange, body = await replied(plugin, exchange_of, stream(b'{"a": 1, ', b'"secret": 2}'))
    assert json.loads(body) == {"a": 1}
    assert headers.get(exchange.response_headers, b"content-length") == b"%d" % len(body)
    assert headers.get(exchange.response_headers, b"etag") == b'W/"a"'


async def test_jq_comes_after_the_edits_and_between_the_forms(jq, exchange_of) -> None:
    edits = {"convert": "form_to_json", "set": [{"at": "/way", "value": "$(request.method)"}], "jq": "{way, n: .a}"}
    _, body = await requested(jq({"request": edits}), exchange_of, b"a=1&b=2", FORM)
    assert json.loads(body) == {"way": "POST", "n": "1"}
    plugin = jq({"request": {"convert": "json_to_form", "jq": ".inner"}})
    exchange, body = await requested(plugin, exchange_of, b'{"inner": {"a": [1, "x y"]}}')
    assert body == b"a=1&a=x+y"
    assert headers.get(exchange.headers, b"content-type") == FORM[1]


@pytest.mark.parametrize(("program", "body"), [(".a.b", b'{"a": 1}'), (".", b"{"), ("empty", b"1"), (".a, .b", b"{}")])
async def test_a_body_that_jq_does_not_take_is_the_clients_fault(jq, exchange_of, program: str, body: bytes) -> None:
    with pytest.raises(Reject) as caught:
        await requested(jq({"request": {"jq": program}, "on_error": "allow"}), exchange_of, body)
    assert (caught.value.status, caught.value.code) == (400, "body_unreadable")


async def test_without_an_end_the_setting_decides(jq, exchange_of) -> None:
    edits = {"jq": "def f: f; f"}
    both = {"request": edits, "response": edits, "timeout_ms": 200}
    denying, allowing = jq(both), jq({**both, "on_error": "allow"})
    for hook in (requested(denying, exchange_of, b'{"a": 1}'), replied(denying, exchange_of, b'{"a": 1}')):
        with pytest.raises(Reject) as caught:
            await hook
        assert (caught.value.status, caught.value.code) == (503, "transform_failed")
    for hook in (requested(allowing, exchange_of, b'{"a": 1}'), replied(allowing, exchange_of, b'{"a": 1}')):
        exchange, body = await hook
        assert body == b'{"a": 1}'
        assert "200 ms" in exchange.detail


async def test_an_answer_that_jq_does_not_take_is_not_shown(jq, exchange_of) -> None:
    edits = {"jq": ".a.b"}
    with pytest.raises(Reject) as caught:
        await replied(jq({"response": edits}), exchange_of, b'{"a": 1}')
    assert (caught.value.status, caught.value.code) == (502, "transform_failed")
    _, body = await replied(jq({"response": edits, "on_error": "allow"}), exchange_of, b'{"a": 1}')
    assert body == b'{"a": 1}'


async def test_what_jq_says_of_a_body_is_told_to_the_client_only(jq, exchange_of) -> None:
    plugin = jq({"request": {"jq": "error(.password)"}, "response": {"jq": "error(.password)"}})
    body = b'{"password": "hunter2"}'
    exchange = exchange_of("POST", headers=[JSON], body=stream(body))
    with pytest.raises(Reject, match="hunter2"):
        await plugin.access(exchange)
    assert "hunter2" not in exchange.detail
    exchange = exchange_of(answer=[JSON], answer_body=body, status=200)
    with pytest.raises(Reject) as caught:
        await plugin.response(exchange)
    assert "hunter2" not in exchange.detail + caught.value.detail


def test_a_bad_program_is_a_problem_of_its_field(registry) -> None:
    with pytest.raises(ConfigProblems) as caught:
        registry.validate("body-transformer", {"response": {"jq": ".a | |"}})
    [(path, text)] = caught.value.problems
    assert path == "response.jq"
    assert "syntax error, unexpected '|'" in text


def test_without_the_package_a_program_is_told_what_to_install(registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigProblems, match=r"pip install 'jq>=1\.11,<2'"):
        registry.validate("body-transformer", {"response": {"jq": ".a"}})
