"""Consistent hashing: the same key, the same target, in every worker and on every node.

    key ──BLAKE2──► one of 8,192 buckets ──weighted rendezvous──► the targets in the order they are asked

Each bucket ranks the targets by itself (Thaler and Ravishankar's rendezvous hashing; weights by the logarithm, as in
draft-ietf-bess-weighted-hrw), so a target that goes takes only its own keys with it, a new one takes only its share,
and the keys of one that is down spread over all others. A ranking is made when its bucket is first asked for, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from hashlib import blake2b
from heapq import nlargest
from math import log

from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import cookie, get
from gateway.proxy.snapshot import HashPolicy
from gateway.proxy.targets import TargetState

BUCKETS = 1 << 13
#: Kept of each ranking; more is worked out when all of these are away.
KEPT = 4
_MASK = (1 << 64) - 1

Key = Callable[[Exchange], bytes]


class Hashing:
    """Of one upstream's targets, with the weights they are configured with."""

    __slots__ = ("_key", "_members", "_rankings", "_seeds")

    def __init__(self, policy: HashPolicy, members: Sequence[TargetState]) -> None:
        self._key = key_of(policy)
        self._members = members
        self._seeds = [_hash(state.target.address.encode()) for state in members]
        self._rankings: list[tuple[TargetState, ...] | None] = [None] * BUCKETS

    def choose(self, usable: Sequence[TargetState], exchange: Exchange | None) -> TargetState:
        key = _hash(self._key(exchange) if exchange is not None else b"")
        bucket = key % BUCKETS
        ranking = self._rankings[bucket]
        if ranking is None:
            ranking = self._rankings[bucket] = tuple(self._rank(bucket, KEPT))
        if usable is self._members:
            return ranking[0]
        found = self._first(ranking, usable, key)
        return found or self._first(self._rank(bucket, len(self._members)), usable, key) or usable[0]

    def _first(self, ranking: Sequence[TargetState], usable: Container[TargetState], key: int) -> TargetState | None:
        """A target that starts slowly takes a part of its keys, always the same ones, and more and more of them."""
        waiting = None
        for state in ranking:
            if state not in usable:
                continue
            full = state.target.weight
            if state.weight >= full or (key >> 32) % 1000 < 1000 * state.weight / full:
                return state
            waiting = waiting or state
        return waiting

    def _rank(self, bucket: int, most: int) -> list[TargetState]:
        scored = zip(self._members, self._seeds, strict=True)
        best = nlargest(most, ((_score(bucket, seed, state.target.weight), seed, state) for state, seed in scored), _by)
        return [state for _, _, state in best]


def _by(scored: tuple[float, int, TargetState]) -> tuple[float, int]:
    return scored[:2]


def _score(bucket: int, seed: int, weight: int) -> float:
    point = (_mixed(seed ^ (bucket * 0x9E3779B97F4A7C15)) + 0.5) / (1 << 64)
    return -weight / log(point) if point < 1 else float("inf")


def _mixed(value: int) -> int:
    """splitmix64's finaliser."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest())


def key_of(policy: HashPolicy) -> Key:
    """Falls back on the client's address where a request does not have it."""
    name = policy.name

    def ip(exchange: Exchange) -> bytes:
        return exchange.client_ip.encode()

    def header(exchange: Exchange) -> bytes:
        return get(exchange.headers, name) or ip(exchange)

    def from_cookie(exchange: Exchange) -> bytes:
        return cookie(exchange.headers, name) or ip(exchange)

    def path(exchange: Exchange) -> bytes:
        return exchange.path.encode()

    def consumer(exchange: Exchange) -> bytes:
        who = exchange.consumer
        return (b"%d %b" % (who.id, who.username.encode())) if who is not None else ip(exchange)

    return {"ip": ip, "header": header, "cookie": from_cookie, "path": path, "consumer": consumer}[policy.on]
