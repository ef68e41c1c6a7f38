"""HTTP/1.1 as RFC 9112 and 9110 have it, over a real socket, and what comes of it at a real upstream."""

from __future__ import annotations

import pytest

from tests.hazards.conftest import Hardened
from tests.hazards.origin import RawClient
from tests.hazards.vectors import SECTIONS, Vector

VECTORS = [
    pytest.param(vector, id=f"{section}-{vector.about}") for section, vectors in SECTIONS.items() for vector in vectors
]
PROBE = b"GET /open/probe HTTP/1.1\r\nHost: a.test\r\n\r\n"


def test_there_are_enough() -> None:
    assert len(VECTORS) >= 150


@pytest.mark.parametrize("packets", ["whole", "split"])
@pytest.mark.parametrize("vector", VECTORS)
def test_each_is_answered_and_passed_on_as_specified(hardened: Hardened, vector: Vector, packets: str) -> None:
    """The status of the first answer, what reached the upstream, and whether the connection still serves a request."""
    origin, expected = hardened.origin, list(vector.reached)
    origin.take()
    with RawClient(hardened.port) as client:
        if packets == "split":  # in the middle, wherever that is; nothing may depend on it
            client.send(vector.data[: len(vector.data) // 2])
            client.send(vector.data[len(vector.data) // 2 :])
        else:
            client.send(vector.data)
        reply = client.reply()
        assert reply is not None
        assert reply.status == vector.status, (reply.head, reply.body)
        if vector.keeps:
            client.send(PROBE)
            for _ in range(vector.answers):
                again = client.reply()
                assert again is not None
                assert again.status == 200
            expected.append(("GET", "/open/probe", b""))
        else:
            client.send(PROBE)
            while (late := client.reply()) is not None:
                assert late.status in (400, 408), late.head
            assert client.ended()
    assert [(seen.method, seen.target, seen.body) for seen in origin.take()] == expected
    assert origin.broken == []


def test_the_worker_is_well_afterwards(hardened: Hardened) -> None:
    log = (hardened.gateway.directory / "serve.log").read_text()
    assert "Traceback" not in log, log
