"""What is said again and again is put together once: the wire gets the same bytes as without that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.proxy.downstream import Downstream
from gateway.proxy.exchange import Exchange
from gateway.proxy.forward import request_headers
from gateway.proxy.headers import Given, Grown, Lasting, Pairs, put, remove, without
from gateway.proxy.messages import lines_of
from gateway.proxy.transport import request_head
from gateway.server.cycle import _write, _written
from tests.proxy.exchanges import route

Change = Callable[[Pairs], Any]
CHANGES: dict[str, Change] = {
    "none": lambda pairs: None,
    "one more": lambda pairs: pairs.append((b"x-consumer-id", b"5")),
    "put": lambda pairs: put(pairs, b"x-request-id", b"7"),
    "one less": lambda pairs: remove(pairs, b"accept"),
    "another value": lambda pairs: put(pairs, b"accept", b"text/plain"),
    "in front": lambda pairs: pairs.insert(0, (b"a", b"b")),
    "host": lambda pairs: pairs.append((b"host", b"b.test")),
    "via": lambda pairs: pairs.append((b"via", b"1.1 plugin")),
    "all gone": lambda pairs: pairs.clear(),
    "other order": lambda pairs: pairs.reverse(),
}
CLIENT = [(b"host", b"a.test"), (b"accept", b"*/*"), (b"user-agent", b"wrk"), (b"connection", b"keep-alive")]


def exchange(headers: Pairs, **attributes: Any) -> Exchange:
    made = Exchange(
        method="GET", raw_path=b"/orders/1", query=b"", headers=headers, scheme="http", peer_ip="192.0.2.1", port=80,
        started_s=0.0, wall_s=0.0,
    )  # fmt: skip
    made.path, made.path_tail = "/orders/1", "/1"
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("more", [[], [(b"via", b"1.0 proxy")]], ids=["", "via"])
@pytest.mark.parametrize("strip", [False, True])
def test_lines_known_are_the_lines_of_the_fields(change: Change, more: Pairs, strip: bool) -> None:
    there = replace(route(), strip_path=strip)
    given = Given([*CLIENT, *more])
    for _ in range(3):  # of one connection
        told, plain = exchange(given), exchange([*CLIENT, *more])
        for one in (told, plain):
            Downstream().read(one)
        assert type(told.headers) is Grown
        plain.headers = [*plain.headers]  # nothing is known of these
        for one in (told, plain):
            change(one.headers)
        host, pairs, lines = request_headers(told, there)
        assert (host, sorted(pairs)) == (request_headers(plain, there)[0], sorted(request_headers(plain, there)[1]))
        assert lines in (b"", lines_of(pairs))
        whole = [(b"host", host), *pairs]
        assert request_head("GET", b"/", whole, lines) == request_head("GET", b"/", whole)
    assert given == [*CLIENT, *more]


@pytest.mark.parametrize("client", [CLIENT, CLIENT[:1]], ids=["", "host alone"])
@pytest.mark.parametrize("name", CHANGES)
def test_lines_are_known_unless_a_via_is_continued(name: str, client: Pairs) -> None:
    one = exchange(Given(client))
    Downstream().read(one)
    CHANGES[name](one.headers)
    assert bool(request_headers(one, route())[2]) is (name != "via")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_names_left_out_are_left_out_of_what_was_added_too(change: Change) -> None:
    names = frozenset({b"accept", b"x-request-id"})
    base = Lasting(CLIENT)
    for _ in range(2):
        pairs = base.grow()
        change(pairs)
        left = without(pairs, names)
        assert left == [pair for pair in pairs if pair[0] not in names]
        assert left == without([*pairs], names)
        left.append((b"more", b""))
    assert base == CLIENT
    assert without(base.grow(), names).base is without(base.grow(), names).base  # type: ignore[attr-defined]


ANSWER = [(b"date", b"today"), (b"accept", b"a"), (b"content-length", b"2"), (b"x", b"1"), (b"x", b"2")]
ANSWERS: dict[str, Change] = {
    **CHANGES,
    "same length": lambda pairs: pairs.append((b"Content-Length", b"2")),
    "another date": lambda pairs: pairs.append((b"date", b"tomorrow")),
    "closes": lambda pairs: pairs.append((b"connection", b"close")),
    "chunked": lambda pairs: pairs.append((b"transfer-encoding", b"chunked")),
    "no length": lambda pairs: remove(pairs, b"content-length"),
}


@pytest.mark.parametrize("change", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_grew_is_written_as_any_other(change: Change) -> None:
    base = Lasting(ANSWER)
    for _ in range(2):
        grown = base.grow()
        change(grown)
        assert _written(grown) == _write([*grown])
    assert base == ANSWER


@pytest.mark.parametrize(
    "pair", [(b"content-length", b"3"), (b"content-length", b"x"), (b"x", b"a\r\nb: c"), (b"x", b"\0")]
)
def test_what_must_not_be_said_is_refused_behind_lasting_fields_too(pair: tuple[bytes, bytes]) -> None:
    base = Lasting(ANSWER)
    grown = base.grow()
    grown.append(pair)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"header|content-length"):
            _written(grown)
