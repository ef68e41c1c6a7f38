"""A real Exchange, and small stand-ins for what the runtime lends to plugins."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.environment import PLUGINS
from gateway.plugins.base import Plugin, Refusal, Resources
from gateway.plugins.registry import Registry
from gateway.proxy.calls import Calls
from gateway.proxy.errors import CredentialsUnavailable, RedisUnavailable
from gateway.proxy.exchange import Consumer, Credential, Exchange
from gateway.proxy.headers import Pairs
from gateway.proxy.limits import Limit, LimitState, LocalCounters
from gateway.proxy.snapshot import RouteSpec
from tests.plugins.logins import Service
from tests.upstream import serving


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1_790_000_040.0

    def __call__(self) -> float:
        return self.now_s


class FakeLimiter:
    """Counts in memory with the real algorithms; `down` is a Redis that is away."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.down = clock, False
        self.shared, self.local = LocalCounters(), LocalCounters()
        self.keys: list[str] = []

    async def check(self, limits: Sequence[tuple[str, Limit]], cost: int = 1) -> list[LimitState]:
        if self.down:
            raise RedisUnavailable
        self.keys += [key for key, _ in limits]
        return self.shared.check(limits, int(self.clock() * 1000), cost)

    def check_local(self, limits: Sequence[tuple[str, Limit]], cost: int = 1) -> list[LimitState]:
        return self.local.check(limits, int(self.clock() * 1000), cost)


class FakeCredentials:
    """Keys by digest. `remembers`: answers directly, as a worker does that has seen the key."""

    def __init__(self) -> None:
        self.known: dict[bytes, Credential | Refusal] = {}
        self.consumers: dict[tuple[str, str], Consumer | Refusal] = {}
        self.logins: dict[str, Credential | Refusal] = {}
        self.remembers, self.down = True, False

    def find_key(self, digest: bytes) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        if self.down:
            raise CredentialsUnavailable
        found = self.known.get(digest, Refusal("key_invalid"))
        return found if self.remembers else self._later(found)

    def find_consumer(self, by: str, value: str) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        if self.down:
            raise CredentialsUnavailable
        consumer = self.consumers.get((by, value), Refusal("consumer_unknown"))
        found = Credential("consumer", 1, value, consumer) if isinstance(consumer, Consumer) else consumer
        return found if self.remembers else self._later(found)

    def find_login(self, username: str) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        if self.down:
            raise CredentialsUnavailable
        found = self.logins.get(username, Refusal("consumer_unknown"))
        return found if self.remembers else self._later(found)

    async def _later(self, found: Credential | Refusal) -> Credential | Refusal:
        return found


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.load(PLUGINS)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limiter(clock: FakeClock) -> FakeLimiter:
    return FakeLimiter(clock)


@pytest.fixture
def credentials() -> FakeCredentials:
    return FakeCredentials()


@pytest.fixture
def caller() -> Calls:
    """The real one: services that plugins call are real, too."""
    return Calls()


@pytest.fixture
def make(
    registry: Registry, limiter: FakeLimiter, credentials: FakeCredentials, caller: Calls, clock: FakeClock
) -> Callable[..., Plugin]:
    """`make("acl", {"allow": ["gold"]})`: a plugin of a validated config."""

    def build(name: str, config: dict[str, Any] | None = None, setting_id: int = 7) -> Plugin:
        resources = Resources(limiter=limiter, credentials=credentials, caller=caller, clock=clock, wall=clock)
        return registry[name](registry.validate(name, config or {}), resources, setting_id)

    return build


@pytest.fixture
def exchange_of() -> Callable[..., Exchange]:
    def build(
        method: str = "GET",
        path: str = "/",
        query: bytes = b"",
        headers: Pairs | None = None,
        answer: Pairs | None = None,
        **attributes: Any,
    ) -> Exchange:
        exchange = Exchange(
            method=method,
            raw_path=path.encode(),
            query=query,
            headers=list(headers or []),
            scheme="http",
            peer_ip="192.0.2.7",
            port=80,
            started_s=time.perf_counter(),
            wall_s=time.time(),
        )
        exchange.id, exchange.path = "fresh-id", path
        exchange.route = RouteSpec(3, "r", (), (), frozenset(), (), (), ())
        exchange.response_headers = list(answer or [])
        for name, value in attributes.items():
            setattr(exchange, name, value)
        return exchange

    return build


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with serving(service.script) as running:
        service.port = running.port
        yield service


@pytest.fixture
def alice() -> Credential:
    consumer = Consumer(11, "alice", "crm-42", frozenset({"gold", "beta"}))
    return Credential("key", 5, "hg_live_abcd", consumer)


@pytest.fixture
def bob(alice: Credential) -> Credential:
    return replace(alice, id=6, hint="hg_live_wxyz", consumer=Consumer(12, "bob"))
