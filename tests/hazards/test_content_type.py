"""A Content-Type is the upstream's to read. Django's request parses it, which fails on some and remembers others."""

from __future__ import annotations

import encodings

import pytest

from gateway.handler import ProxyRequest
from gateway.views import exchange_of


def request(content_type: bytes) -> ProxyRequest:
    headers = [(b"host", b"a"), (b"content-type", content_type)]
    scope = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "scheme": "http",
        "headers": headers, "client": ("192.0.2.1", 1), "server": ("192.0.2.2", 80),
    }  # fmt: skip
    return ProxyRequest(scope)


@pytest.mark.parametrize(
    "content_type", [b"text/plain; charset*=nope'en'%41", b"text/plain; charset*=utf-8''%00", b"a" * 20_000, b"\xff;;="]
)
def test_a_content_type_nobody_can_parse_is_passed_on(content_type: bytes) -> None:
    assert (b"content-type", content_type) in exchange_of(request(content_type)).headers


def test_made_up_character_sets_are_not_remembered() -> None:
    known = len(encodings._cache)  # type: ignore[attr-defined]  # codecs keep every name they were ever asked for
    for number in range(20):
        request(b"text/plain; charset=made-up-%d" % number)
    assert len(encodings._cache) == known  # type: ignore[attr-defined]
