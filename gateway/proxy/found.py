"""What a look for a credential finds, when the database was looked at, and what has changed since.

One rule keeps every copy of an answer honest, in a worker's memory, in Redis, or still on its way from a slow read:

    an answer counts only if the moment it was read at includes the moment of every change known about it.

A Moment is PostgreSQL's own snapshot (`pg_current_snapshot()`): exactly which transactions a read could see. Clocks
and sequence numbers cannot say that, for transactions become visible in another order than they began in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from gateway.plugins.base import Refusal
from gateway.proxy.exchange import Consumer, Credential

#: Goes into the signing key: another shape of entry needs another number, then no version reads the other's.
FORMAT = b"hydragate credential in redis, format 1"


#: What is asked: the digest of a key, or of a consumer its field and value (`username:anna`), or a username that has a
#: password (`login:anna`). Two types, so that no key
#: a client makes up can ever be taken for a name.
Question = bytes | str


@dataclass(frozen=True, slots=True)
class Moment:
    """`xmin:xmax:running`: transactions from xmax on, and those running, could not be seen; all others were."""

    xmax: int
    running: frozenset[int]
    text: str

    @classmethod
    def parse(cls, text: str) -> Moment:
        _, xmax, running = text.split(":")
        return cls(int(xmax), frozenset(map(int, running.split(","))) if running else frozenset(), text)

    def includes(self, other: Moment) -> bool:
        """Whether a read at this moment saw everything that a read at the other one did."""
        return other.xmax <= self.xmax and all(xid >= other.xmax or xid in other.running for xid in self.running)


@dataclass(frozen=True, slots=True)
class Found:
    """`expires_at_s` (seconds since the epoch) is judged at each use, so an answer needs no timer.

    `consumer_id` is 0 where no such key or consumer exists.
    """

    answer: Credential | Refusal
    consumer_id: int
    expires_at_s: float | None
    moment: Moment


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed up to `moment`. `everything`: the list would be too long or incomplete, so trust nothing older."""

    moment: Moment
    digests: frozenset[bytes] = frozenset()
    consumers: frozenset[int] = frozenset()
    everything: bool = False


class Seal:
    """Found ↔ the bytes kept in Redis, signed: whoever can write to Redis still cannot grant access.

    The signature covers the question (an entry cannot be moved to another one) and the time of writing (an old entry
    cannot be brought back once the changes after it are forgotten).
    """

    def __init__(self, secret: str, max_age_s: float) -> None:
        if not secret:
            raise ValueError("Credentials cannot be kept in Redis without a SECRET_KEY to sign them.")
        self._key = hmac.digest(secret.encode(), FORMAT, "sha256")
        self._max_age_s = max_age_s

    def write(self, question: Question, found: Found, wall_s: float) -> bytes:
        body = json.dumps([wall_s, found.moment.text, found.consumer_id, found.expires_at_s, _pack(found.answer)])
        return self._sign(question, body.encode()) + body.encode()

    def read(self, question: Question, sealed: bytes, wall_s: float) -> Found | None:
        """None for anything that is not ours, not for this question, or too old."""
        signature, body = sealed[: hashlib.sha256().digest_size], sealed[hashlib.sha256().digest_size :]
        if not hmac.compare_digest(signature, self._sign(question, body)):
            return None
        written_s, moment, consumer_id, expires_at_s, answer = json.loads(body)
        if abs(wall_s - written_s) > self._max_age_s:
            return None
        return Found(_unpack(answer, question), consumer_id, expires_at_s, Moment.parse(moment))

    def _sign(self, question: Question, body: bytes) -> bytes:
        named = question if isinstance(question, bytes) else b"consumer" + hashlib.sha256(question.encode()).digest()
        return hmac.digest(self._key, named + body, "sha256")


def _pack(answer: Credential | Refusal) -> list[Any]:
    if isinstance(answer, Refusal):
        return [answer.code]
    who = answer.consumer
    caller = [who.id, who.username, who.custom_id, sorted(who.groups)]
    return [answer.kind, answer.id, answer.hint, caller, sorted(answer.scopes)]


def _unpack(packed: list[Any], question: Question) -> Credential | Refusal:
    if len(packed) == 1:
        return Refusal(packed[0])
    kind, key_id, hint, (consumer_id, username, custom_id, groups), scopes = packed
    consumer = Consumer(consumer_id, username, custom_id, frozenset(groups))
    return Credential(kind, key_id, hint, consumer, frozenset(scopes), asked=question)
