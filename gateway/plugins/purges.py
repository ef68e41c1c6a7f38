"""purges: what was declared void, and when. Kept answers are held against it when they are used, so nothing is searched
for and an answer that was under way at that moment is void as well.

A purge is of a URL, of all URLs that begin alike, of a tag, or of everything; of one route, or of all.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["url", "prefix", "tag", "all"]

#: Remembered; of more than that the oldest are forgotten, and all answers from before them with them.
MAX_PURGES = 10_000
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Purge:
    """`value`: of a URL the path with its query, of a prefix its beginning, or a tag. `authority` "": any; of a tag
    always. `route` 0: any."""

    kind: Kind
    value: str = ""
    authority: str = ""
    route: int = 0

    @classmethod
    def of_url(cls, target: str, authority: str = "", route: int = 0) -> Purge:
        """A long one by its digest: clients choose their URLs, and thousands of purges are remembered."""
        return cls("url", target if len(target) <= MAX_TEXT else _digest(target), authority, route)

    def text(self) -> str:
        """The same purge is the same text: a repeated one takes the place of the one before."""
        return json.dumps([self.kind, self.value, self.authority, self.route], separators=(",", ":"))

    @classmethod
    def read(cls, text: bytes | str) -> Purge:
        """Raises ValueError."""
        kind, value, authority, route = json.loads(text)
        if kind not in ("url", "prefix", "tag", "all") or not isinstance(route, int):
            raise ValueError(f"no purge: {text!r}")
        return cls(kind, str(value), str(authority), route)


class Purgeable(Protocol):
    """`cleared`: how many purges there were when it was last found to be none of theirs."""

    authority: str
    target: str
    tags: frozenset[str]
    route: int
    requested_s: float
    cleared: int


class Purges:
    def __init__(self) -> None:
        self.latest_s = 0.0  # of the newest
        self.count = 0  # ever added
        self._floor_s = 0.0
        self._at_s: OrderedDict[Purge, float] = OrderedDict()
        self._prefixes: dict[Purge, float] = {}

    def add(self, purge: Purge, at_s: float) -> None:
        """Harmless when done twice, or out of order."""
        if at_s <= self._at_s.get(purge, 0.0):
            return
        self.count += 1
        self.latest_s = max(self.latest_s, at_s)
        self._at_s[purge] = at_s
        self._at_s.move_to_end(purge)
        if purge.kind == "prefix":
            self._prefixes[purge] = at_s
        if len(self._at_s) > MAX_PURGES:
            forgotten, forgotten_s = self._at_s.popitem(last=False)
            self._prefixes.pop(forgotten, None)
            self._floor_s = max(self._floor_s, forgotten_s)

    def void(self, answer: Purgeable) -> bool:
        """Whether an answer was asked for before a purge that concerns it."""
        if answer.cleared == self.count:
            return False
        if answer.requested_s <= self.latest_s and (answer.requested_s <= self._floor_s or self._concern(answer)):
            return True
        answer.cleared = self.count
        return False

    def _concern(self, answer: Purgeable) -> bool:
        since_s, target = answer.requested_s, answer.target
        for route in (0, answer.route):
            for authority in ("", answer.authority):
                for purge in (Purge.of_url(target, authority, route), Purge("all", "", authority, route)):
                    if self._at_s.get(purge, 0.0) >= since_s:
                        return True
            if any(self._at_s.get(Purge("tag", tag, "", route), 0.0) >= since_s for tag in answer.tags):
                return True
        return any(
            at_s >= since_s
            and purge.route in (0, answer.route)
            and purge.authority in ("", answer.authority)
            and target.startswith(purge.value)
            for purge, at_s in self._prefixes.items()
        )


def _digest(target: str) -> str:
    return "#" + hashlib.sha256(target.encode("utf-8", "surrogatepass")).hexdigest()


def place(secret: str) -> str:
    """The channel on which purges are told, and how all names in Redis begin. It goes by the secret, for one Redis may
    serve several installations."""
    return "hg:cache:" + hashlib.blake2b(secret.encode(), digest_size=8, person=b"hg:cache name").hexdigest()


def log(place: str) -> str:
    """Where purges are kept for those who were not listening."""
    return f"{place}:purges"
