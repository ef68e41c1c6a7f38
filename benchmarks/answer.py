"""An answer as it comes in, and what many of them amount to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import httptools


class Answer:
    """Feed its `parser`."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.size = 0
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.size += len(body)

    def on_message_complete(self) -> None:
        self.complete = True


@dataclass(frozen=True, slots=True)
class Loaded:
    """`errors`: answers that are not 2xx or 3xx, and connections that broke."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float


def loaded(times_s: Iterable[float], seconds: float, errors: int) -> Loaded:
    ordered = sorted(times_s)
    if not ordered:
        raise RuntimeError("no answer came at all")
    middle_s, late_s = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return Loaded(len(ordered), seconds, errors, middle_s * 1e3, late_s * 1e3)
