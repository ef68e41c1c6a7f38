"""The roll call: a question to every worker of every node, and what each answers. Over Redis, and only when one asks.

    asker (`dashboard.rollcall`) ── PUBLISH hg:ask:… ──► workers ── PUBLISH to the channel the question names ──► asker

Both ways a message is signed: who can write to Redis can neither close what is open nor tell of what is not. A lost
question or answer is a worker that says nothing; the asker waits for a bounded time and says who that was.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import time
from typing import Any

from gateway.proxy.errors import RedisUnavailable

#: How far the clocks of two nodes may differ, and how long a question could be said again by somebody who overheard it.
MAX_AGE_S = 30.0
_SIGNATURE_BYTES = hashlib.sha256().digest_size

Answer = Callable[[Mapping[str, Any]], Any]
logger = logging.getLogger(__name__)


class Sealed:
    """Messages ↔ bytes that hold for `MAX_AGE_S`. `channel`: where questions are asked. It goes by the secret, for one
    Redis may serve several installations, and its databases do not part its channels."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"hydragate roll call 1", "sha256")
        self.channel = "hg:ask:" + hmac.digest(self._key, b"channel", "sha256").hex()[:16]

    def write(self, message: Mapping[str, Any], wall_s: float) -> bytes:
        body = json.dumps({**message, "at": wall_s}, separators=(",", ":")).encode()
        return hmac.digest(self._key, body, "sha256") + body

    def read(self, sealed: bytes, wall_s: float) -> dict[str, Any] | None:
        """None for anything that is not ours, or too old."""
        signature, body = sealed[:_SIGNATURE_BYTES], sealed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, hmac.digest(self._key, body, "sha256")):
            return None
        message: dict[str, Any] = json.loads(body)
        return message if abs(wall_s - message["at"]) <= MAX_AGE_S else None


class RollCall:
    """A worker's part. `command`: one Redis command, as `Batcher.command`. `answers`: by the name of the question."""

    def __init__(
        self, command: Callable[..., Awaitable[Any]], *, node: str, worker: int, secret: str,
        answers: Mapping[str, Answer],
    ) -> None:  # fmt: skip
        self._command = command
        self._who = {"node": node, "worker": worker}
        self._sealed = Sealed(secret)
        self._answers = answers
        self.channel = self._sealed.channel

    async def hear(self, data: bytes) -> None:
        """A message of `channel`. What is not signed or understood (another version, while a node is rolled) gets no
        answer; a question for another node gets None, so that the asker need not wait for us."""
        question = self._sealed.read(data, time())
        if question is None or question.get("ask") not in self._answers:
            return
        said = None
        if question.get("node") in (None, self._who["node"]):
            try:
                said = self._answers[question["ask"]](question["about"])
            except Exception:  # protects the subscription, by which configuration comes, too
                logger.exception("the question %r could not be answered", question["ask"])
                return
        try:
            await self._command("PUBLISH", question["to"], self._sealed.write({**self._who, "said": said}, time()))
        except RedisUnavailable:
            return
