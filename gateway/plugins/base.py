"""What a plugin is: a name, a Config, hooks in phases.

| phase    | when                                  | may                                  | an exception means      |
|----------|---------------------------------------|--------------------------------------|-------------------------|
| access   | route known, nothing sent             | raise Reject, return an Answer,      | 500, not forwarded:     |
|          |                                       | change the upstream request          | fail closed             |
| forward  | all hooks have agreed; goes around    | call what it was given, or not;      | 500, or the upstream's  |
|          | the sending of the request            | change what came of it               | own error               |
| response | head known, nothing sent; also for    | change status and headers            | 500 if unsent           |
|          | answers and errors made here          |                                      |                         |
| body     | head known, then chunks pass          | give the chunks back, to leave this  | connection aborted,     |
|          |                                       | answer alone; transform, count, stop | never a second answer   |
| log      | after the last byte, or the client    | record; never wait                   | logged                  |
|          | left                                  |                                      |                         |
| batch    | a while later, for many at once       | send, write; wait                    | logged, records lost    |

`access`, `response` may be sync or async (the table knows which and awaits only the async ones); `body` is an async
generator, or gives one; `forward` is async, `log` sync; `batch` may be either, and one call of a setting is made at a
time (`gateway.plugins.batches`). Only hooks a plugin overrides are compiled into a route. `access` and `log` run in the
order of GATEWAY_PLUGINS, `response` and `body` in the reverse order, and the `forward` of the first goes around the
others'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from gateway.plugins.batches import Batches
from gateway.plugins.endpoints import Caller
from gateway.plugins.kept import Kept
from gateway.plugins.passwords import Passwords
from gateway.plugins.store import Store
from gateway.proxy.exchange import Answer, Credential, Exchange
from gateway.proxy.fence import FENCE, Fence
from gateway.proxy.limits import Limit, LimitState
from gateway.proxy.record import Record
from gateway.proxy.snapshot import UpstreamSpec

HOOKS = ("access", "forward", "response", "body", "log", "batch")
Forward = Callable[[Exchange], Awaitable[None]]
ConsumerField = Literal["username", "custom_id"]


class PluginConfig(BaseModel):
    """Base of every Config: frozen, refuses unknown fields. Each field has type, bound, default and description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True,
        defer_build=True,  # validators are made with the first setting: a worker holds only those it needs
    )  # fmt: skip

    def upstreams_named(self) -> Sequence[tuple[tuple[str | int, ...], str]]:
        """Upstreams that a setting leads to, each with the path of the field that names it. They must exist."""
        return ()


class Limiter(Protocol):
    """Counters shared by all workers and nodes."""

    def check(self, limits: Sequence[tuple[str, Limit]], cost: int = 1) -> Awaitable[list[LimitState]]:
        """Test and take `cost` units from every (key, limit) as one atomic step: if one refuses, none is taken.

        States come in the order asked. Raises RedisUnavailable within tens of milliseconds.
        """
        ...

    def check_local(self, limits: Sequence[tuple[str, Limit]], cost: int = 1) -> list[LimitState]:
        """The same against this worker's own memory, for `on_error: local`."""
        ...


class CredentialLookup(Protocol):
    def find_key(self, digest: bytes) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        """The credential for the SHA-256 of a secret. Returned directly when this worker remembers it.

        Raises CredentialsUnavailable.
        """
        ...

    def find_consumer(self, by: ConsumerField, value: str) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        """Likewise the consumer of exactly this name, for whoever has proved it in another way than by a key."""
        ...

    def find_login(self, username: str) -> Credential | Refusal | Awaitable[Credential | Refusal]:
        """Likewise a username that has a password, which `proof` is for: the caller has yet to check it."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a credential does not count: code is one of key_invalid, key_expired, key_revoked, consumer_disabled, and of
    a consumer or login consumer_unknown. `proof` as in Credential: who does not know the password learns of none."""

    code: str
    proof: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ShadowBounds:
    """Of what one setting may have under way in a worker."""

    timeout_s: float  # for one request, its answer included
    concurrency: int
    queue: int  # further ones that wait; more are dropped


class Shadow(Protocol):
    """Sends copies of requests to where nobody waits for the answer."""

    def copied(self, exchange: Exchange) -> Any:
        """The request as it would go upstream now, without its body. Raises AmbiguousPath, as forwarding would."""
        ...

    def send(
        self, setting_id: int, copy: Any, upstream: UpstreamSpec, body: bytes | None, bounds: ShadowBounds
    ) -> None:
        """Returns at once, whatever happens to it. `body` None: it was too large, which is counted and nothing sent."""
        ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What the runtime lends to plugins. Everything that waits has a deadline of its own."""

    limiter: Limiter
    credentials: CredentialLookup
    caller: Caller
    clock: Callable[[], float]  # monotonic seconds
    wall: Callable[[], float]  # seconds since the epoch
    shadow: Shadow | None = None
    passwords: Passwords = field(default_factory=Passwords)
    batches: Batches = field(default_factory=Batches)
    kept: Kept = field(default_factory=Kept)
    fence: Fence = FENCE  # for connections that a plugin makes by itself
    node: str = ""
    log_dir: Path = Path("logs")  # where plugins may write files
    under_way: dict[str, int] = field(default_factory=dict)  # requests, by a plugin's own keys; outlives a reload
    store: Store = field(default_factory=Store)  # kept answers; likewise


class Plugin:
    """Base class. Override only the hooks you need; any other public method is refused at import as a misspelt hook."""

    name: ClassVar[str]
    Config: ClassVar[type[PluginConfig]]
    #: True for authentication: sets exchange.consumer. Settings scoped to a consumer apply after the last of these.
    identifies: ClassVar[bool] = False
    #: False: whatever its access hook does is no refusal, so a setting of it cannot have a dry run.
    refuses: ClassVar[bool] = True
    #: Refuse nobody (`gateway.plugins.dryruns`); set before any hook. What the access hook raises is caught by others.
    dry_run: bool = False
    #: Fields that only this plugin may set, with `-` for `_` and `.`: in a dry run the client's own go in any case.
    owned: frozenset[bytes] = frozenset()
    #: Of `batch`: so many records at most in one call, and how long the first of them waits for others.
    batch_max: int = 1000
    batch_delay_s: float = 0.2

    def __init__(self, config: Any, resources: Resources, setting_id: int = 0) -> None:
        """May derive (parse, compile) from the config; no I/O.

        `setting_id` is the PluginSetting's primary key: it survives an edit, so state kept elsewhere can carry it.
        """
        self.config = config
        self.resources = resources
        self.setting_id = setting_id
        #: All upstreams by name, as discovery has them now, for plugins whose config names some; set before any hook.
        self.upstreams: Mapping[str, UpstreamSpec] = {}

    def access(self, exchange: Exchange) -> Answer | Awaitable[Answer | None] | None:
        return None

    async def forward(self, exchange: Exchange, forward: Forward) -> None:
        await forward(exchange)

    def response(self, exchange: Exchange) -> Awaitable[None] | None:
        return None

    def body(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return chunks

    def log(self, exchange: Exchange) -> None:
        return None

    def batch(self, records: Sequence[Record]) -> Awaitable[None] | None:
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for attribute in ("name", "Config"):
            if not hasattr(cls, attribute):
                raise TypeError(f"{cls.__qualname__} has no `{attribute}`: every plugin declares a name and a Config.")
        for name, value in vars(cls).items():
            hook_like = callable(value) and not isinstance(value, type)
            if hook_like and not name.startswith("_") and name not in HOOKS:
                raise TypeError(
                    f"{cls.__qualname__}.{name} is not a hook (hooks are {', '.join(HOOKS)}). "
                    "Name helper methods with a leading underscore."
                )

    @classmethod
    def hooks(cls) -> tuple[str, ...]:
        """The phases this plugin takes part in."""
        return tuple(hook for hook in HOOKS if getattr(cls, hook) is not getattr(Plugin, hook))

    @classmethod
    def may_refuse(cls) -> bool:
        return cls.refuses and cls.access is not Plugin.access
