"""Asks targets whether they are well: one loop per target, in the recorder process, so once per node.

A probe goes the way that traffic goes (same transport, TLS and names), on a connection of its own. A target that was
never probed counts as up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from random import random
from time import monotonic, time

import httpx

from gateway.proxy.errors import GatewayError, UpstreamTimeout
from gateway.proxy.fence import FENCE, Fence
from gateway.proxy.health import Probed, probed
from gateway.proxy.sightings import Key
from gateway.proxy.snapshot import ProbePolicy, TargetSpec, UpstreamSpec
from gateway.proxy.tasks import ended
from gateway.proxy.transport import NO_BODY, Timeouts, transport_to

BODY_MAX_BYTES = 64 * 1024
#: First probes are spread over at most so long: not all targets at the same moment.
SPREAD_S = 1.0

_BASE = httpx.URL("http://target")


class Prober:
    """`probes`: what is known, replaced value by value. `known`: of an earlier run; those start where it ended.

    `changed` is called when a target goes down or comes up.
    """

    def __init__(
        self, known: Mapping[Key, Probed], changed: Callable[[], None] = lambda: None, fence: Fence = FENCE
    ) -> None:
        self.probes: dict[Key, Probed] = {}
        self._known = dict(known)
        self._changed = changed
        self._fence = fence
        self._loops: dict[Key, tuple[object, asyncio.Task[None]]] = {}

    def aim(self, upstreams: Iterable[UpstreamSpec]) -> None:
        """Probe the targets of these from now on. Loops go on where nothing about them has changed."""
        wanted = {
            (upstream.name, target.address): (upstream, target)
            for upstream in upstreams
            if upstream.probe is not None
            for target in upstream.targets
        }
        for key in self._loops.keys() - wanted.keys():
            self._loops.pop(key)[1].cancel()
            self.probes.pop(key, None)
        for key, (upstream, target) in wanted.items():
            manner = (upstream.probe, upstream.protocol, upstream.tls, upstream.transport, upstream.http2)
            known, loop = self._loops.get(key, (None, None))
            if known == manner:
                continue
            if loop is not None:
                loop.cancel()
            if key not in self.probes and key in self._known:
                self.probes[key] = self._known[key]
            self._loops[key] = manner, asyncio.create_task(self._loop(key, upstream, target), name=f"probe {key}")
        self._known.clear()

    async def _loop(self, key: Key, upstream: UpstreamSpec, target: TargetSpec) -> None:
        policy = upstream.probe
        assert policy is not None
        await asyncio.sleep(random() * min(policy.interval_s, SPREAD_S))  # noqa: S311 (not a secret)
        while True:
            begun_s = monotonic()
            fault = await probe(upstream, target, policy, self._fence)
            took_s = monotonic() - begun_s
            before = self.probes.get(key, Probed())
            after = probed(before, policy, fault=fault, at_s=time(), took_ms=round(took_s * 1000, 2))
            self.probes[key] = after
            if after.up != before.up:
                self._changed()
            interval_s = policy.interval_s if after.up else policy.down_interval_s or policy.interval_s
            await asyncio.sleep(max(0.0, interval_s - took_s))

    async def aclose(self) -> None:
        await ended(task for _, task in self._loops.values())


async def probe(upstream: UpstreamSpec, target: TargetSpec, policy: ProbePolicy, fence: Fence = FENCE) -> str:
    """What is wrong with the target, for people; empty if nothing is."""
    try:
        async with asyncio.timeout(policy.timeout_s):
            if policy.kind == "tcp":
                return await _connects(target, fence)
            return await _answers(upstream, target, policy, fence)
    except (TimeoutError, UpstreamTimeout):
        return f"No answer within {policy.timeout_s * 1000:.0f} ms."
    except GatewayError as error:
        cause = error.__cause__
        return f"{error.detail} ({_words(cause)})" if cause is not None else error.detail
    except Exception as error:  # protects the loop: whatever a target makes us stumble over, it is not well
        return _words(error)


async def _connects(target: TargetSpec, fence: Fence) -> str:
    if target.host.startswith("unix:"):
        _, writer = await asyncio.open_unix_connection(target.host.removeprefix("unix:"))
    else:
        *others, last = await fence.addresses(target.host, target.port)
        for address in others:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(address, target.port)
                break
        else:
            _, writer = await asyncio.open_connection(last, target.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def _answers(upstream: UpstreamSpec, target: TargetSpec, policy: ProbePolicy, fence: Fence) -> str:
    limit_s = policy.timeout_s
    transport = transport_to(target, upstream, Timeouts(limit_s, limit_s, limit_s, 0.0, limit_s), fence)
    host = policy.host.encode("ascii") or target.authority
    fields = [(b"host", host), (b"user-agent", b"hydragate-probe"), (b"accept", b"*/*"), (b"connection", b"close")]
    extensions = {"target": policy.path.encode("ascii")}
    request = httpx.Request("GET", _BASE, headers=fields, stream=NO_BODY, extensions=extensions)
    try:
        response = await transport.handle_async_request(request)
        try:
            return await _judge(response, policy)
        finally:
            await response.stream.aclose()  # type: ignore[union-attr]
    finally:
        await transport.aclose()


async def _judge(response: httpx.Response, policy: ProbePolicy) -> str:
    status = response.status_code
    if not any(low <= status <= high for low, high in policy.statuses):
        return f"Status {status}."
    if not policy.body:
        return ""
    body = bytearray()
    async for chunk in response.stream:  # type: ignore[union-attr]
        body += chunk
        if policy.body in body or len(body) >= BODY_MAX_BYTES:
            break
    return "" if policy.body in body[:BODY_MAX_BYTES] else f"Status {status}, but the body lacks the expected text."


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)  # names have errors of their own
    return str(error) or type(error).__name__
