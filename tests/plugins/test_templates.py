from __future__ import annotations

import pytest

from gateway.plugins.templates import REQUEST, Template
from gateway.proxy.exchange import Consumer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain $ ( text", b"plain $ ( text"),
        ("$$(headers.x)", b"$(headers.x)"),
        ("a$(headers.x-a)b", b"a1, 2b"),
        ('$( headers["X-A"] )', b"1, 2"),
        ("$(headers['x-a'])", b"1, 2"),
        ("$(headers.none)", None),
        ("a $(headers.none)", None),
        ('$(headers.none or "d")', b"d"),
        ("$(headers.none or '')", b""),
        ('$(headers.x-a or "d")', b"1, 2"),
        ("$(query_params.q)", b"a b"),
        ("$(query_params.none)", None),
        ("$(uri_captures.id)", b"7"),
        ("$(uri_captures[2])", b"\xff"),
        ("$(uri_captures[3])", None),
        ("$(consumer.id)", b"5"),
        ("$(consumer.groups)", b"a,b"),
        ("$(consumer.custom_id)", None),
        ("$(claims.sub)", b"ann"),
        ("$(claims.realm.roles)", b'["x"]'),
        ("$(claims.admin)", b"true"),
        ("$(claims.none)", None),
        ("$(claims.bad)", None),
        ("$(request.method) $(request.host)$(request.path)", b"GET a.example/p"),
        ("$(response_headers.etag)", b"v"),
    ],
)
def test_places_are_filled(exchange_of, text, value) -> None:
    exchange = exchange_of(
        path="/p", query=b"q=a+b&q=2", headers=[(b"x-a", b"1"), (b"x-a", b"2")], answer=[(b"etag", b"v")],
        host="a.example", path_params={"id": "7", "raw": "\udcff"},
        consumer=Consumer(5, "ann", groups=frozenset({"b", "a"})),
        claims={"sub": "ann", "realm": {"roles": ["x"]}, "admin": True, "bad": "\ud800"},
    )  # fmt: skip
    assert Template(text).fill(exchange) == value


def test_what_nobody_has_identified_is_none(exchange_of) -> None:
    assert Template("$(consumer.username)").fill(exchange_of()) is None
    assert Template("$(claims.sub)").fill(exchange_of()) is None


@pytest.mark.parametrize(
    "text",
    [
        "$(", "$()", "$(headers)", "$(headers.)", "$(headers.x", "$(headers.x ..'a')", "$(os.execute('x'))",
        "$(consumer.password)", "$(request.body)", "$(headers.x or y)", "$(response_headers.x)", "$(headers[x])",
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"is no template|There is no"):
        Template(text, REQUEST)
