from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy import query

WIRE = st.text(alphabet="ab=&+%4162/é;", max_size=30).map(lambda text: text.encode())
NAME = st.text(min_size=1, max_size=4).map(lambda text: text.encode())


def pairs(wire: bytes) -> list[tuple[str, str]]:
    return parse_qsl(wire.decode("latin-1"), keep_blank_values=True, encoding="latin-1", separator="&")


@given(wire=WIRE, name=NAME)
def test_without_takes_that_name_only(wire: bytes, name: bytes) -> None:
    after = query.without(wire, (name,))
    assert not query.has(after, name)
    assert pairs(after) == [pair for pair in pairs(wire) if pair[0].encode("latin-1") != name]


@given(wire=WIRE, name=NAME, value=NAME)
def test_put_leaves_one_value_as_an_upstream_reads_it(wire: bytes, name: bytes, value: bytes) -> None:
    after = query.put(wire, name, value)
    assert query.get_all(after, name) == [value]
    assert pairs(after)[:-1] == pairs(query.without(wire, (name,)))


@given(wire=WIRE, name=NAME)
def test_without_a_match_nothing_changes(wire: bytes, name: bytes) -> None:
    if not query.has(wire, name):
        assert query.without(wire, (name,)) == wire
        assert query.rename(wire, name, b"new") == wire


@given(wire=WIRE, name=NAME)
def test_rename_keeps_values(wire: bytes, name: bytes) -> None:
    if query.has(wire, name):
        assert query.get_all(query.rename(wire, name, b"new name"), b"new name") == query.get_all(wire, name)
