"""Discovery: targets of an upstream that are learnt, not written down. One follower per upstream and process.

    dns    the addresses of a name, all with one port      again when its TTL is over
    srv    the services of a name, weights and priorities  again when the least TTL is over
    http   a JSON list of {host, port, weight}             again after `interval_s`

The last good answer counts until there is a better one: a source that is away, answers nonsense, says that there is no
such name or gives an empty list changes nothing but `state` and `error`; it is asked again with growing pauses. The
recorder keeps the last good answers on disk, and a worker begins with those.

Learnt targets stand in the upstream beside those of the configuration, which win where an address is there twice. One
where no upstream may be (`fence.py`) is left out.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from random import random
from time import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from gateway.plugins.endpoints import Caller, Endpoint
from gateway.proxy.errors import GatewayError
from gateway.proxy.fence import Fence, is_host
from gateway.proxy.snapshot import DiscoveryPolicy, TargetSpec, UpstreamSpec
from gateway.proxy.tasks import ended

logger = logging.getLogger(__name__)

State = Literal["waiting", "fresh", "stale", "failed"]
#: Whatever a TTL says.
LEAST_S, MOST_S = 1.0, 3600.0
#: Pauses after failures: the first, and the longest.
PAUSE_S, PAUSE_MAX_S = 1.0, 30.0
#: For one look, all its questions together.
LOOK_S = 10.0
HTTP_TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
MAX_TARGETS = 1000
_NAMES = "gateway.proxy.names"  # dnspython is loaded with the first upstream that needs it
_FIELDS = [(b"accept", b"application/json"), (b"user-agent", b"hydragate-discovery")]

Look = tuple[list[TargetSpec], float]


class _Item(BaseModel):
    """Of a JSON list; further fields are for others."""

    model_config = ConfigDict(strict=True, frozen=True)

    host: Annotated[str, StringConstraints(max_length=253)]
    port: int = Field(ge=1, le=65535)
    weight: int = Field(100, ge=0, le=65535)


_ITEMS = TypeAdapter(list[_Item])


class Unusable(Exception):
    """What a source says cannot be used; for people."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """Of one upstream, for status pages and for the disk. Times are seconds since the epoch."""

    upstream: str
    kind: str
    source: str  # name or URL, for people
    state: State  # waiting: not asked yet; failed: never a good answer; stale: the last good one counts
    error: str  # of the last look; empty: it was good
    refreshed_s: float  # the last good answer; 0: none yet
    targets: tuple[tuple[str, int, int, str, int], ...]  # host, port, weight, name, priority


@dataclass(slots=True)
class _Source:
    policy: DiscoveryPolicy
    targets: tuple[TargetSpec, ...] = ()
    error: str = ""
    refreshed_s: float = 0.0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        if self.error:
            return "stale" if self.refreshed_s else "failed"
        return ("fresh" if self.asked.is_set() else "stale") if self.refreshed_s else "waiting"


class Discovery:
    """`changed`: called when an upstream's targets have."""

    def __init__(self, caller: Caller, fence: Fence, changed: Callable[[], None] = lambda: None) -> None:
        self._caller, self._fence, self._changed = caller, fence, changed
        self._sources: dict[str, _Source] = {}
        self._kept: dict[str, Discovered] = {}

    def recall(self, kept: Iterable[Discovered]) -> None:
        """What was good when this node ran before. Before `aim`."""
        self._kept = {one.upstream: one for one in kept}

    def aim(self, upstreams: Iterable[UpstreamSpec]) -> None:
        """Follow the sources of these from now on; goes on where nothing about one has changed."""
        wanted = {upstream.name: upstream.discovery for upstream in upstreams if upstream.discovery is not None}
        for name in self._sources.keys() - wanted.keys():
            self._stop(name)
        for name, policy in wanted.items():
            before = self._sources.get(name)
            if before is not None and before.policy == policy:
                continue
            self._stop(name)
            source = self._sources[name] = self._recalled(name, policy)
            source.task = asyncio.create_task(self._follow(name, source), name=f"discovery {name}")

    def _stop(self, name: str) -> None:
        source = self._sources.pop(name, None)
        if source is not None and source.task is not None:
            source.task.cancel()

    def _recalled(self, name: str, policy: DiscoveryPolicy) -> _Source:
        kept = self._kept.pop(name, None)
        if kept is None or (kept.kind, kept.source) != (policy.kind, policy.source):
            return _Source(policy)
        targets = tuple(TargetSpec(0, *one, discovered=True) for one in kept.targets)
        return _Source(policy, targets, refreshed_s=kept.refreshed_s)

    async def settle(self, timeout_s: float) -> None:
        """Until each source without targets was asked once, or the time is over."""
        waiting = [source.asked.wait() for source in self._sources.values() if not source.targets]
        if waiting:
            tasks = [asyncio.ensure_future(one) for one in waiting]
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    def applied(self, upstream: UpstreamSpec) -> UpstreamSpec:
        """With what is known now beside what is configured; the same object if nothing differs."""
        source = self._sources.get(upstream.name)
        if source is None or source.policy != upstream.discovery:
            return upstream
        own = tuple(target for target in upstream.targets if not target.discovered)
        taken = {target.address for target in own}
        targets = (*own, *(target for target in source.targets if target.address not in taken))
        return upstream if targets == upstream.targets else replace(upstream, targets=targets)

    def shown(self) -> Iterator[Discovered]:
        for name, source in list(self._sources.items()):
            targets = tuple((one.host, one.port, one.weight, one.name, one.priority) for one in source.targets)
            policy = source.policy
            yield Discovered(name, policy.kind, policy.source, source.state, source.error, source.refreshed_s, targets)

    async def aclose(self) -> None:
        await ended(source.task for source in self._sources.values() if source.task is not None)
        self._sources.clear()

    # --- one source

    async def _follow(self, name: str, source: _Source) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    targets, pause_s = await self._look(source.policy)
            except Exception as error:  # protects the loop: whatever a source makes us stumble over, it is asked again
                self._failed(name, source, error)
                pause_s = min(PAUSE_MAX_S, PAUSE_S * 2**failures) * (0.75 + random() / 4)  # noqa: S311 (not a secret)
                failures = min(failures + 1, 10)
            else:
                failures = 0
                self._found(name, source, targets)
            source.asked.set()
            await asyncio.sleep(pause_s)

    async def _look(self, policy: DiscoveryPolicy) -> tuple[tuple[TargetSpec, ...], float]:
        """What may be used of what the source says, in one order; never nothing."""
        if policy.kind == "http":
            said, counts_s = await self._fetched(policy)
        else:
            names = await asyncio.to_thread(importlib.import_module, _NAMES)
            said, counts_s = await names.look(policy, self._fence)
        unique = list({target.address: target for target in said}.values())
        if len(unique) > MAX_TARGETS:
            raise Unusable(f"It names {len(unique)} targets, more than {MAX_TARGETS}.")
        faults = [self._fence.fault(target.host, target.port) for target in unique]
        sound = [target for target, fault in zip(unique, faults, strict=True) if not fault]
        if not sound:
            raise Unusable(faults[0] if faults else "It names no target.")
        sound.sort(key=lambda target: (target.priority, target.address))
        return tuple(sound), min(MOST_S, max(LEAST_S, counts_s))

    async def _fetched(self, policy: DiscoveryPolicy) -> Look:
        endpoint = Endpoint.of(policy.url, HTTP_TIMEOUT_S)
        reply = await self._caller.call(endpoint, "GET", _FIELDS, max_bytes=MAX_BYTES)
        if reply.status != 200:
            raise Unusable(f"It answered {reply.status}.")
        return listed(reply.body), policy.interval_s

    def _found(self, name: str, source: _Source, targets: tuple[TargetSpec, ...]) -> None:
        if source.error:
            logger.info("discovery of upstream %s works again", name)
        source.error, source.refreshed_s = "", time()
        if targets != source.targets:
            source.targets = targets
            self._changed()

    def _failed(self, name: str, source: _Source, error: Exception) -> None:
        words = said(error)
        if words != source.error:
            kept = f"the {len(source.targets)} targets known before are used" if source.targets else "it has no targets"
            logger.warning("discovery of upstream %s failed, %s: %s", name, kept, words)
        source.error = words


def listed(body: bytes) -> list[TargetSpec]:
    """Of a JSON document. Raises Unusable."""
    try:
        items = _ITEMS.validate_python(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(map(str, first["loc"]))
        raise Unusable(
            f"It is no list of {{host, port, weight}}: {place and f'at {place}: '}{first['msg']}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise Unusable("It is not JSON.") from error
    for number, item in enumerate(items):
        if not is_host(item.host):
            raise Unusable(f"At {number}/host: '{item.host[:100]}' is neither an address nor a host name.")
    return [TargetSpec(0, item.host.lower(), item.port, item.weight, discovered=True) for item in items]


def said(error: Exception) -> str:
    """What went wrong, for people."""
    if isinstance(error, TimeoutError):
        return f"No answer within {LOOK_S:.0f} s."
    if isinstance(error, GatewayError):
        return error.detail
    return " ".join(str(error).split())[:500] or type(error).__name__


def row_of(discovered: Discovered) -> dict[str, Any]:
    """As JSON has it."""
    return asdict(discovered)


def from_row(row: dict[str, Any]) -> Discovered:
    return Discovered(**{**row, "targets": tuple((*one,) for one in row["targets"])})
