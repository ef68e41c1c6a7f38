"""Sticky sessions: a cookie leads a client back to the target it had before.

The cookie's value is a keyed hash of the target: it tells nobody an address, nobody can make one up, it is the same in
all workers and on all nodes, and nothing has to be stored. One that names no target that takes requests is as none.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Container, Sequence
from hashlib import blake2b

from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Pair, cookie
from gateway.proxy.snapshot import UpstreamSpec
from gateway.proxy.targets import TargetState


class Stickiness:
    """Of one upstream's targets. `secret`: the same on all nodes."""

    __slots__ = ("_by_token", "_fields", "_name")

    def __init__(self, upstream: UpstreamSpec, members: Sequence[TargetState], secret: bytes) -> None:
        policy = upstream.sticky
        assert policy is not None
        self._name = policy.cookie
        tokens = {_token(upstream.name, state.target.address, secret): state for state in members}
        self._by_token = tokens
        attributes = [b"Path=" + policy.path.encode("ascii")]
        if policy.max_age_s:
            attributes.append(b"Max-Age=%d" % policy.max_age_s)
        if policy.secure:
            attributes.append(b"Secure")
        if policy.http_only:
            attributes.append(b"HttpOnly")
        if policy.same_site:
            attributes.append(b"SameSite=" + policy.same_site.capitalize().encode())
        end = b"; " + b"; ".join(attributes)
        self._fields: dict[TargetState, Pair] = {
            state: (b"set-cookie", self._name + b"=" + token + end) for token, state in tokens.items()
        }

    def named(self, usable: Container[TargetState], exchange: Exchange) -> TargetState | None:
        state = self._by_token.get(cookie(exchange.headers, self._name) or b"")
        return state if state in usable else None

    def field(self, state: TargetState, exchange: Exchange) -> Pair | None:
        """The Set-Cookie for a client that was answered by this target; None if it has that cookie."""
        had = self._by_token.get(cookie(exchange.headers, self._name) or b"")
        return None if had is state else self._fields.get(state)


def _token(upstream: str, address: str, secret: bytes) -> bytes:
    named = f"{upstream}\0{address}".encode()
    return urlsafe_b64encode(blake2b(named, key=secret[:64], digest_size=15, person=b"hydragate-sticky").digest())
