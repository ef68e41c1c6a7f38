"""level: the answers used last, in a worker's own memory, within so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from gateway.plugins import freshness
from gateway.plugins.freshness import Terms
from gateway.proxy.exchange import Answer
from gateway.proxy.headers import Pairs

MAX_VARIANTS = 50  # of a key
OVERHEAD_BYTES = 2000  # of an entry, besides its bytes: half of it once it was used


@dataclass(frozen=True, slots=True)
class Ready:
    """What a kept answer is sent as for less than a second: `owner` has made it, and it holds from `from_s` on."""

    owner: object
    from_s: float
    until_s: float
    answer: Answer


@dataclass(slots=True, eq=False)
class Entry:
    """A whole answer. Not changed but for `cleared` and `ready`: what replaces it is another."""

    status: int
    fields: Pairs
    body: bytes
    terms: Terms
    requested_s: float
    received_s: float
    age_s: float  # when it was received
    varied: tuple[bytes, ...] = ()
    selected: tuple[bytes | None, ...] = ()  # what its request said in these fields
    authority: str = ""
    target: str = ""
    tags: frozenset[str] = frozenset()
    route: int = 0
    cleared: int = -1
    ready: Ready | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        head = sum(2 * len(name) + 2 * len(value) + 100 for name, value in self.fields)  # once more as it is sent
        self.size = OVERHEAD_BYTES + len(self.body) + len(self.target) + head

    def age(self, now_s: float) -> float:
        return self.age_s + max(0.0, now_s - self.received_s)


class Level:
    """The answers used last, by key and variant, within so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._slots: OrderedDict[bytes, Slot] = OrderedDict()
        self.size = 0

    def get(self, key: bytes, request: Pairs) -> Entry | None:
        slot = self._slots.get(key)
        if slot is None:
            return None
        self._slots.move_to_end(key)
        return slot.entries.get(freshness.selecting(slot.varied, request) if slot.varied else ())

    def varied(self, key: bytes) -> tuple[bytes, ...]:
        slot = self._slots.get(key)
        return slot.varied if slot is not None else ()

    def put(self, key: bytes, entry: Entry) -> None:
        """One that would take more than an eighth of the room is left out."""
        if entry.size + len(key) > self._max_bytes // 8:
            self.drop(key)
            return
        slot = self._slots.get(key)
        if slot is None or slot.varied != entry.varied:
            self.drop(key)
            slot = self._slots[key] = Slot(entry.varied)
            self.size += len(key)
        before = slot.entries.pop(entry.selected, None)
        self.size += entry.size - (before.size if before is not None else 0)
        slot.entries[entry.selected] = entry
        self._slots.move_to_end(key)
        if len(slot.entries) > MAX_VARIANTS:
            self.size -= slot.entries.pop(next(iter(slot.entries))).size
        while self.size > self._max_bytes:
            self.drop(next(iter(self._slots)))

    def drop(self, key: bytes) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self.size -= len(key) + sum(entry.size for entry in slot.entries.values())


class Slot:
    __slots__ = ("entries", "varied")

    def __init__(self, varied: tuple[bytes, ...]) -> None:
        self.varied = varied
        self.entries: dict[tuple[bytes | None, ...], Entry] = {}
