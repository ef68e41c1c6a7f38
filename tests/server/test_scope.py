"""How sockets name their ends, and how the scope does."""

from __future__ import annotations

import pytest

from gateway.server.scope import address


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (("::ffff:10.0.0.8", 5, 0, 0), ("10.0.0.8", 5)),
        (("10.0.0.8", 5), ("10.0.0.8", 5)),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
        ("", None),
        ("/run/x", ("/run/x", None)),
    ],
)
def test_peers_have_one_name_each(name: object, read: object) -> None:
    """A trusted proxy must be found in 10.0.0.0/8 behind a listener on `::` too."""
    assert address(name) == read
