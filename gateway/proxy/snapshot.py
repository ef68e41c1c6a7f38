"""The whole configuration as frozen values: what `routes.compile` makes of a document, and the table is built from.

Pure data: comparable, hashable where it matters, no live parts. Times are seconds (float); the document and the
database carry milliseconds. Ids are the rows' primary keys, kept so that usage rows can name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Scope = Literal["global", "upstream", "route", "consumer", "route_consumer", "upstream_consumer"]


@dataclass(frozen=True, slots=True)
class TargetSpec:
    id: int
    host: str  # a name, an IPv4 or IPv6 address without brackets, or `unix:/path`
    port: int  # 0 for a unix socket
    weight: int  # share of traffic; 0 is drained: in the table, gets nothing
    name: str = ""  # to ask for, in Host and over TLS, where `host` is an address that was looked up; empty: the host
    priority: int = 0  # others get nothing while one of the lowest is well
    discovered: bool = False  # learnt, not configured

    address: str = field(init=False)  # `host:port`, `[::1]:port` or `unix:/path`: the target's identity
    authority: bytes = field(init=False)  # for the Host field: without a default port, `localhost` for a unix socket

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        local = self.host.startswith("unix:")
        address = self.host if local else f"{host}:{self.port}"
        called = self.name or host
        authority = "localhost" if local else called if self.port in (80, 443) else f"{called}:{self.port}"
        object.__setattr__(self, "address", address)
        object.__setattr__(self, "authority", authority.encode("ascii" if authority.isascii() else "idna"))


Blame = Literal["status", "connect", "timeout", "broken"]
BLAMES: tuple[Blame, ...] = ("broken", "connect", "status", "timeout")


@dataclass(frozen=True, slots=True)
class EjectPolicy:
    """When a target that fails is left out. Judged from the traffic of all workers of a node."""

    after: int = 5  # failures in a row; 0: never
    base_s: float = 10.0  # the first time; each further time in a row twice as long
    max_s: float = 300.0
    max_share: float = 0.5  # of the upstream's targets; one may always go, but for the last
    on: frozenset[Blame] = frozenset(BLAMES)  # what counts
    # 501 Not Implemented and 505 HTTP Version Not Supported speak of the request, not of the target.
    statuses: frozenset[int] = frozenset(range(500, 600)) - {501, 505}


@dataclass(frozen=True, slots=True)
class HashPolicy:
    """What consistent hashing goes by. Where a request does not have it: the client's address."""

    on: Literal["ip", "header", "cookie", "path", "consumer"] = "ip"
    name: bytes = b""  # of the header, in lower case, or of the cookie


@dataclass(frozen=True, slots=True)
class StickyPolicy:
    """The cookie that leads a client to the target it had before."""

    cookie: bytes
    max_age_s: int = 0  # 0: until the browser is closed
    path: str = "/"
    secure: bool = False
    http_only: bool = True
    same_site: Literal["", "lax", "strict", "none"] = ""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a worker stops asking an upstream for a while."""

    error_share: float  # of the answers in the window; 0: errors do not open it
    slow_s: float  # an answer's head that takes as long is slow; 0: slowness does not open it
    slow_share: float
    min_requests: int  # fewer in the window tell nothing
    window_s: float
    open_s: float


@dataclass(frozen=True, slots=True)
class CarePolicy:
    """What an upstream asks for beyond a second try when nothing was sent. Of each worker."""

    breaker: BreakerPolicy | None = None
    max_concurrency: int = 0  # requests under way; 0: no ceiling
    max_queue: int = 0
    queue_timeout_s: float = 1.0
    retry_statuses: frozenset[int] = frozenset()
    retry_on_timeout: bool = False
    retry_all: bool = False  # methods that are not idempotent, too
    backoff_s: float = 0.025
    body_bytes: int = 0  # of a body that are kept to send it again
    budget_share: float = 0.2  # further attempts for each request
    budget_per_s: float = 10.0
    hedge_s: float = 0.0  # a GET without an answer for so long is sent to another target, too; 0: never


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """How a node asks each target by itself whether it is well."""

    kind: Literal["http", "tcp"]  # tcp: a connection can be made
    path: str
    host: str  # for the Host field; empty: the target's
    interval_s: float
    timeout_s: float
    healthy_after: int  # good answers in a row until a target that is down is up
    unhealthy_after: int  # bad ones until one that is up is down
    statuses: tuple[tuple[int, int], ...]  # ranges, both ends included
    body: bytes  # must be in the answer's body; empty: anything will do
    down_interval_s: float = 0.0  # between probes of a target that is down; 0: the same


@dataclass(frozen=True, slots=True)
class DiscoveryPolicy:
    """Where an upstream's further targets are learnt from (`discovery.py`)."""

    kind: Literal["dns", "srv", "http"]
    name: str = ""  # dns, srv
    port: int = 0  # dns
    url: str = ""  # http
    interval_s: float = 10.0  # http
    resolver: str = ""  # `host:port`; empty: the system's

    @property
    def source(self) -> str:
        """For people."""
        at = f" at {self.resolver}" if self.resolver else ""
        return self.url or f"{self.name}{f':{self.port}' if self.port else ''}{at}"


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """For `https`. PEM texts; what is empty is not there."""

    verify: bool = True
    server_name: str = ""  # to ask for and to check; empty: the target's host
    ca: str = ""  # whom to trust instead of the system's authorities
    certificate: str = ""  # our own, its chain behind it
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    id: int
    name: str
    protocol: Literal["http", "https"]
    balancing: Literal["round-robin", "least-connections", "ewma", "consistent-hashing"]
    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float  # between two chunks, either way
    total_timeout_s: float  # 0: no limit
    retries: int  # further attempts after a failure that was safe to retry
    max_connections: int  # per target and worker
    targets: tuple[TargetSpec, ...]
    tls: TlsSpec = TlsSpec()
    transport: Literal["native", "httpx"] = "native"
    http2: bool = False  # with httpx: offered over TLS, taken for granted without
    eject: EjectPolicy = EjectPolicy()
    probe: ProbePolicy | None = None
    hashing: HashPolicy = HashPolicy()  # with consistent-hashing
    sticky: StickyPolicy | None = None
    slow_start_s: float = 0.0  # how long a target that comes up, or is new, takes to its full weight
    care: CarePolicy | None = None
    discovery: DiscoveryPolicy | None = None
    base: UpstreamSpec | None = None  # the configured one, where a route asks for other terms; `care` is then set


@dataclass(frozen=True, slots=True)
class FieldCondition:
    """One condition on a header (name lower-cased) or query parameter.

    `values` empty: must be present with any value; otherwise one of its values must equal one of these.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WeightedUpstream:
    upstream: str  # name
    weight: int


@dataclass(frozen=True, slots=True)
class RouteSpec:
    id: int
    name: str
    hosts: tuple[str, ...]  # lower case; `*.example.com` matches one or more labels; empty: any
    paths: tuple[str, ...]  # patterns, see gateway.proxy.patterns; empty: any
    methods: frozenset[str]  # upper case; empty: any
    headers: tuple[FieldCondition, ...]
    query: tuple[FieldCondition, ...]
    upstreams: tuple[WeightedUpstream, ...]
    priority: int = 0
    strip_path: bool = False
    preserve_host: bool = False
    path_rewrite: str = ""  # template, see gateway.proxy.patterns; empty: none
    max_body_bytes: int = 0  # 0: the gateway's own limit
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class When:
    """Which requests a setting is for; see `gateway.proxy.conditions`. What is empty says nothing."""

    methods: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()  # (name in lower case, RE2 pattern)
    groups: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """One plugin setting. `config` is the validated `Plugin.Config` instance (frozen pydantic)."""

    id: int
    name: str
    scope: Scope
    route: str  # names, empty where the scope has none
    upstream: str
    consumer_id: int  # 0 where the scope has none
    config: Any
    when: When | None = None  # None: always
    dry_run: bool = False  # refuses nobody


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: int
    digest: str
    upstreams: Mapping[str, UpstreamSpec] = field(default_factory=dict)
    routes: tuple[RouteSpec, ...] = ()
    plugins: tuple[PluginSpec, ...] = ()
