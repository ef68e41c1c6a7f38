"""The shape of an upstream and of its targets in a document: fields, bounds, defaults. See `routes.document`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from gateway.proxy.snapshot import BLAMES, Blame, TargetSpec
from routes import syntax
from routes.parts import Name, Part, Tags

TargetHost = Annotated[str, AfterValidator(syntax.target_host), WithJsonSchema(syntax.TARGET_HOST_SCHEMA)]
ServerName = Annotated[str, AfterValidator(syntax.server_name), WithJsonSchema(syntax.SERVER_NAME_SCHEMA)]
Pem = Annotated[str, AfterValidator(syntax.lines), Field(max_length=200_000)]
ProbePath = Annotated[str, AfterValidator(syntax.probe_path), WithJsonSchema(syntax.PROBE_PATH_SCHEMA)]
ProbeHost = Annotated[str, AfterValidator(syntax.probe_host), WithJsonSchema(syntax.PROBE_HOST_SCHEMA)]
Statuses = Annotated[str, AfterValidator(syntax.statuses), WithJsonSchema(syntax.STATUSES_SCHEMA)]
HashHeader = Annotated[str, AfterValidator(syntax.hash_header), WithJsonSchema(syntax.HASH_HEADER_SCHEMA)]
CookieName = Annotated[str, AfterValidator(syntax.cookie_name), WithJsonSchema(syntax.COOKIE_NAME_SCHEMA)]
CookiePath = Annotated[str, AfterValidator(syntax.cookie_path), WithJsonSchema(syntax.COOKIE_PATH_SCHEMA)]
EjectStatuses = Annotated[str, AfterValidator(syntax.eject_statuses), WithJsonSchema(syntax.EJECT_STATUSES_SCHEMA)]
EjectOn = Annotated[list[Blame], AfterValidator(syntax.in_order), Field(max_length=len(BLAMES))]
DiscoveryName = Annotated[str, AfterValidator(syntax.discovery_name), WithJsonSchema(syntax.SERVER_NAME_SCHEMA)]
DiscoveryUrl = Annotated[str, AfterValidator(syntax.discovery_url), WithJsonSchema(syntax.DISCOVERY_URL_SCHEMA)]
DiscoveryResolver = Annotated[str, AfterValidator(syntax.discovery_resolver), WithJsonSchema(syntax.PROBE_HOST_SCHEMA)]


class TargetFields(Part):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"host": {"pattern": "^unix:"}, "port": {"const": 0}}},
                {"properties": {"host": {"pattern": "^(?!unix:)"}, "port": {"minimum": 1}}, "required": ["port"]},
            ]
        }
    )

    host: TargetHost
    """Name, IPv4 or IPv6 address, or `unix:/path/of/socket`."""
    port: int = Field(0, ge=0, le=65535, validate_default=True)
    """0 for a unix socket."""
    weight: int = Field(100, ge=0, le=65535)
    """Share of the traffic among the upstream's targets. 0: drained."""
    enabled: bool = True
    """Off: as if it were not there."""

    @field_validator("port")
    @classmethod
    def _fits_host(cls, port: int, info: ValidationInfo) -> int:
        if "host" in info.data and info.data["host"].startswith("unix:") != (port == 0):
            raise ValueError("A unix socket has port 0." if port else "A port from 1 to 65535 is needed.")
        return port


class TargetEntry(TargetFields):
    id: int = 0

    @property
    def address(self) -> str:
        return TargetSpec(self.id, self.host, self.port, self.weight).address


class UpstreamFields(Part):
    name: Name
    """Unique. Letters, digits and . _ -"""
    protocol: Literal["http", "https"] = "http"
    """How to speak to the targets."""
    balancing: Literal["round-robin", "least-connections", "ewma", "consistent-hashing"] = "round-robin"
    """Which target is next: in turn by weight, the fewest requests in flight, the quickest, or by a hash."""
    hash_on: Literal["ip", "header", "cookie", "path", "consumer"] = "ip"
    """What a request's hash is made of (consistent-hashing). Where it has none of that: the client's address."""
    hash_on_header: HashHeader = Field("", validate_default=True)
    """The header's name (hash_on header)."""
    hash_on_cookie: CookieName = Field("", validate_default=True)
    """The cookie's name (hash_on cookie)."""
    sticky_cookie: CookieName = ""
    """Name of the cookie that leads a client back to the target it had. Empty: no sticky sessions."""
    sticky_max_age_s: int = Field(0, ge=0, le=31_536_000)
    """How long the cookie lives. 0: until the browser is closed."""
    sticky_path: CookiePath = "/"
    """Path the cookie is for."""
    sticky_secure: bool = False
    """Send it over HTTPS only."""
    sticky_http_only: bool = True
    """Hide it from scripts."""
    sticky_same_site: Literal["", "lax", "strict", "none"] = Field("", validate_default=True)
    """Whether other sites' requests carry it. Empty: as the browser likes."""
    slow_start_ms: int = Field(0, ge=0, le=3_600_000)
    """A target that comes up, is restored or new gets its full share only after so long. 0: at once."""
    connect_timeout_ms: int = Field(5_000, ge=1, le=600_000)
    """For a new connection, TLS included."""
    first_byte_timeout_ms: int = Field(60_000, ge=1, le=86_400_000)
    """From the request sent to the first byte of the answer."""
    idle_timeout_ms: int = Field(60_000, ge=1, le=86_400_000)
    """Between two pieces of a body, either way."""
    total_timeout_ms: int = Field(0, ge=0, le=86_400_000)
    """For the whole exchange. 0: no limit."""
    retries: int = Field(1, ge=0, le=10)
    """Further attempts after a failure that was safe to repeat."""
    max_connections: int = Field(256, ge=1, le=65_535)
    """Open at once, per target and worker; with http2, requests under way."""
    transport: Literal["native", "httpx"] = "native"
    """Who speaks to the targets: our own HTTP/1.1, or httpx, which is slower and knows HTTP/2."""
    http2: bool = False
    """Offer HTTP/2 (https); without TLS, speak nothing else (http). Needs the transport httpx."""
    tls_verify: bool = True
    """Check the target's certificate (https)."""
    tls_server_name: ServerName = ""
    """Name to ask for and to check (https). Empty: the target's host."""
    tls_ca: Pem = ""
    """Certificates to trust instead of the system's, in PEM (https)."""
    tls_client_certificate: Pem = ""
    """Our own, for targets that ask for one, in PEM with its chain behind it (https)."""
    tls_client_key: Pem = ""
    """Its private key, in PEM without a passphrase. Secret: shown as a stand-in."""
    probe: Literal["none", "http", "tcp"] = "none"
    """Ask each target whether it is well, once per node: with a GET, or by connecting."""
    probe_path: ProbePath = "/"
    """What to GET, query string and all (http)."""
    probe_host: ProbeHost = ""
    """Host to ask for (http). Empty: the target's."""
    probe_interval_ms: int = Field(5_000, ge=100, le=3_600_000)
    """From one probe to the next."""
    probe_down_interval_ms: int = Field(0, ge=0, le=3_600_000)
    """The same for a target that is down. 0: as for the others."""
    probe_timeout_ms: int = Field(2_000, ge=1, le=600_000)
    """For the whole probe."""
    probe_healthy_after: int = Field(2, ge=1, le=1_000)
    """Good probes in a row until a target that is down is up again."""
    probe_unhealthy_after: int = Field(3, ge=1, le=1_000)
    """Bad probes in a row until a target is down."""
    probe_statuses: Statuses = Field("200-399", max_length=100)
    """Statuses that are good, such as `200-299,401` (http)."""
    probe_body: str = Field("", max_length=200)
    """A text the first 64 KiB of the body must hold (http). Empty: any body."""
    eject_after: int = Field(5, ge=0, le=1_000)
    """Leave a target out after so many failures in a row, counted by all workers of a node together. 0: never."""
    eject_on: EjectOn = list(BLAMES)
    """What is a failure: a `status` of eject_statuses, `connect`, `timeout`, or an answer that is `broken` (off)."""
    eject_statuses: EjectStatuses = Field("500,502-504,506-599", max_length=100)
    """Statuses that are failures. 501 and 505 speak of the request rather than of the target."""
    eject_base_ms: int = Field(10_000, ge=100, le=3_600_000)
    """For how long at first; each further time twice as long."""
    eject_max_ms: int = Field(300_000, ge=100, le=86_400_000, validate_default=True)
    """For how long at most."""
    eject_max_percent: int = Field(50, ge=0, le=100)
    """Most of the targets to leave out at once. One may always be, but never the last."""
    breaker_error_percent: int = Field(0, ge=0, le=100)
    """Leave the upstream alone when so many of the answers fail (5xx, no connection, no answer in time). 0: never."""
    breaker_slow_ms: int = Field(0, ge=0, le=3_600_000)
    """An answer that begins so late is slow. 0: none is."""
    breaker_slow_percent: int = Field(50, ge=1, le=100)
    """Leave the upstream alone when so many of the answers are slow."""
    breaker_min_requests: int = Field(20, ge=1, le=100_000)
    """Fewer answers in the window tell nothing."""
    breaker_window_ms: int = Field(10_000, ge=100, le=3_600_000)
    """How far back is looked."""
    breaker_open_ms: int = Field(10_000, ge=10, le=3_600_000)
    """How long it is left alone; then one request tries it."""
    max_concurrency: int = Field(0, ge=0, le=1_000_000)
    """Requests under way at once, per worker. 0: as many as come."""
    max_queue: int = Field(0, ge=0, le=1_000_000)
    """Above that, so many wait for their turn; further ones get 503."""
    queue_timeout_ms: int = Field(1_000, ge=1, le=600_000)
    """How long they wait at most."""
    retry_statuses: Annotated[list[Annotated[int, Field(ge=400, le=599)]], Field(max_length=50)] = []
    """Answers after which to try again, such as 502 and 503."""
    retry_on_timeout: bool = False
    """Try again when no answer came within first_byte_timeout_ms."""
    retry_all_methods: bool = False
    """Repeat POST and PATCH, too: the upstream can tell a repeated request."""
    retry_backoff_ms: int = Field(25, ge=0, le=60_000)
    """Before a target is asked again: a random time up to this, twice as long each time."""
    retry_body_bytes: int = Field(0, ge=0, le=16_777_216)
    """Keep so much of a request's body to send it again. A longer one is sent once."""
    retry_budget_percent: int = Field(20, ge=0, le=100)
    """Further attempts and hedges as a share of the requests, besides ten a second."""
    hedge_after_ms: int = Field(0, ge=0, le=600_000)
    """A GET that is not answered for so long goes to another target, too; the first answer counts. 0: never."""
    discovery: Literal["none", "dns", "srv", "http"] = "none"
    """Learn further targets: from a name's addresses, from SRV records, or from a JSON list of host, port, weight."""
    discovery_name: DiscoveryName = Field("", validate_default=True)
    """The name to ask for (dns, srv). Its TTL says how often."""
    discovery_port: int = Field(0, ge=0, le=65535, validate_default=True)
    """Port of all its addresses (dns)."""
    discovery_url: DiscoveryUrl = Field("", max_length=2048, validate_default=True)
    """Where to GET the list (http)."""
    discovery_interval_ms: int = Field(10_000, ge=1_000, le=3_600_000)
    """How often (http)."""
    discovery_resolver: DiscoveryResolver = ""
    """DNS server to ask, such as `127.0.0.1:8600` (dns, srv). Empty: the system's."""
    tags: Tags = []
    """For finding things; no effect on traffic."""

    @field_validator("discovery_name", "discovery_port", "discovery_url")
    @classmethod
    def _discovered(cls, value: str | int, info: ValidationInfo) -> str | int:
        kind, part = info.data.get("discovery"), (info.field_name or "").removeprefix("discovery_")
        if not value and kind in {"name": ("dns", "srv"), "port": ("dns",), "url": ("http",)}[part]:
            raise ValueError(f"discovery is {kind}: give the {part.replace('url', 'URL')}, too.")
        return value

    @field_validator("retry_statuses")
    @classmethod
    def _each_once(cls, statuses: list[int]) -> list[int]:
        return sorted(set(statuses))

    @field_validator("max_queue")
    @classmethod
    def _before_a_ceiling(cls, queue: int, info: ValidationInfo) -> int:
        if queue and not info.data.get("max_concurrency", 1):
            raise ValueError("Nobody waits without a ceiling: set max_concurrency, too.")
        return queue

    @field_validator("http2")
    @classmethod
    def _spoken(cls, http2: bool, info: ValidationInfo) -> bool:
        if http2 and info.data.get("transport") == "native":
            raise ValueError("The native transport speaks HTTP/1.1 only. Choose the transport httpx.")
        return http2

    @field_validator("hash_on_header", "hash_on_cookie")
    @classmethod
    def _hashed(cls, name: str, info: ValidationInfo) -> str:
        kind = (info.field_name or "").removeprefix("hash_on_")
        if not name and info.data.get("hash_on") == kind and info.data.get("balancing") == "consistent-hashing":
            raise ValueError(f"hash_on is {kind}: name the {kind}.")
        return name

    @field_validator("sticky_same_site")
    @classmethod
    def _accepted(cls, same_site: str, info: ValidationInfo) -> str:
        if same_site == "none" and not info.data.get("sticky_secure"):
            raise ValueError("Browsers take SameSite=None with Secure only: set sticky_secure.")
        return same_site

    @field_validator("eject_max_ms")
    @classmethod
    def _not_below_base(cls, longest_ms: int, info: ValidationInfo) -> int:
        if longest_ms < info.data.get("eject_base_ms", 0):
            raise ValueError("At most is less than at first: raise it, or lower eject_base_ms.")
        return longest_ms


class UpstreamEntry(UpstreamFields):
    id: int = 0
    targets: list[TargetEntry] = []
