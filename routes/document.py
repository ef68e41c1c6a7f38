"""The configuration as one plain document: what a ConfigVersion keeps, a worker loads and the YAML file says.

    format: 1
    upstreams: [{name: users, targets: [{host: 10.0.0.1, port: 80}]}]
    routes:    [{name: users, paths: ["/users/*"], upstreams: [{name: users}]}]
    plugins:   [{name: key-auth, route: users}]

The shapes below are the one list of fields, bounds and defaults: database constraints, forms and docs are made from
them. Rows are named, not numbered, so that a file moves between machines; documents inside the gateway carry the rows'
ids too (0: none yet), because usage rows name them. A changed default means a new `format`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway.proxy.patterns import Pattern, check_rewrite
from gateway.proxy.snapshot import BLAMES, Blame, TargetSpec
from routes import syntax

FORMAT = 1
SECTIONS = ("upstreams", "routes", "plugins")

Name = Annotated[str, AfterValidator(syntax.name), WithJsonSchema(syntax.NAME_SCHEMA)]
Tag = Annotated[str, AfterValidator(syntax.tag), WithJsonSchema(syntax.TAG_SCHEMA)]
Tags = Annotated[list[Tag], Field(max_length=50)]
TargetHost = Annotated[str, AfterValidator(syntax.target_host), WithJsonSchema(syntax.TARGET_HOST_SCHEMA)]
ServerName = Annotated[str, AfterValidator(syntax.server_name), WithJsonSchema(syntax.SERVER_NAME_SCHEMA)]
RouteHost = Annotated[str, AfterValidator(syntax.route_host), WithJsonSchema(syntax.ROUTE_HOST_SCHEMA)]
PathPattern = Annotated[str, AfterValidator(syntax.path), WithJsonSchema(syntax.PATH_SCHEMA)]
Method = Annotated[str, AfterValidator(syntax.method), WithJsonSchema(syntax.METHOD_SCHEMA)]
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
Conditions = dict[str, list[str]]


class Part(BaseModel):
    """Types are exact: the text "5" is not the number 5. Unknown fields are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if not syntax.is_storable(value):
            raise ValueError("A text holds a NUL character or half a surrogate pair, which cannot be stored.")
        return value


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


class RouteUpstreamEntry(Part):
    name: Name
    """The upstream's."""
    weight: int = Field(100, ge=0, le=65535)
    """Share of the route's traffic. 0: none."""


class RouteFields(Part):
    name: Name
    """Unique. Letters, digits and . _ -"""
    enabled: bool = True
    """Off: as if it were not there."""
    hosts: Annotated[list[RouteHost], Field(max_length=200)] = []
    """`api.example.com` or `*.example.com`. None: any host."""
    paths: Annotated[list[PathPattern], Field(max_length=200)] = []
    """`/users` exactly, `/users/*` and below, `/users/{id}`, `~^/v[0-9]+/` (RE2). None: any path."""
    methods: Annotated[list[Method], Field(max_length=40)] = []
    """None: any method."""
    header_conditions: Annotated[
        Conditions, AfterValidator(syntax.header_conditions), WithJsonSchema(syntax.HEADER_CONDITIONS_SCHEMA)
    ] = {}
    """Header → values, one of which it must have; no values: it must be there."""
    query_conditions: Annotated[
        Conditions, AfterValidator(syntax.query_conditions), WithJsonSchema(syntax.QUERY_CONDITIONS_SCHEMA)
    ] = {}
    """Query parameter → values, one of which it must have; no values: it must be there."""
    strip_path: bool = False
    """Send upstream only what the `*` of the path stands for."""
    preserve_host: bool = False
    """Send the client's own Host upstream instead of the target's."""
    path_rewrite: str = Field("", max_length=1000, json_schema_extra=syntax.REWRITE_SCHEMA)
    """The path to send upstream, such as `/v2/{id}/*`. Empty: the client's own."""
    priority: int = Field(0, ge=-1_000_000, le=1_000_000)
    """Of all routes that match, the highest wins; among equals the most specific."""
    max_body_bytes: int = Field(0, ge=0, le=2**50)
    """Above it 413. 0: the gateway's own limit."""
    tags: Tags = []
    """For finding things; no effect on traffic."""

    @field_validator("path_rewrite")
    @classmethod
    def _fits_paths(cls, rewrite: str, info: ValidationInfo) -> str:
        if rewrite and info.data.get("strip_path"):
            raise ValueError("Strip the path or rewrite it, not both.")
        if rewrite and "paths" in info.data:
            check_rewrite(rewrite, [Pattern.parse(path) for path in info.data["paths"]])
        return rewrite


class RouteEntry(RouteFields):
    id: int = 0
    upstreams: list[RouteUpstreamEntry] = []


#: JSON Schema: not both.
ONE_PLACE: dict[str, Any] = {
    "anyOf": [{"properties": {"route": {"const": ""}}}, {"properties": {"upstream": {"const": ""}}}]
}


class When(Part):
    """Which requests a setting is for: all that is given has to hold, and of a list any."""

    methods: Annotated[list[Method], Field(max_length=40)] = []
    headers: Annotated[
        dict[str, Annotated[str, Field(max_length=500)]], AfterValidator(syntax.header_patterns), Field(max_length=20)
    ] = {}
    groups: Annotated[list[Annotated[str, AfterValidator(syntax.group)]], Field(max_length=100)] = []
    networks: Annotated[list[Annotated[str, AfterValidator(syntax.network)]], Field(max_length=200)] = []
    paths: Annotated[list[PathPattern], Field(max_length=50)] = []

    @classmethod
    def normal(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Plain values without what says nothing. Raises ValueError: the sentences, each with its place."""
        try:
            return cls.model_validate(value).model_dump(exclude_defaults=True)
        except ValidationError as error:
            faults = []
            for fault in error.errors():
                reason = fault.get("ctx", {}).get("error")
                place = ".".join(map(str, fault["loc"]))
                faults.append(f"{place}: {reason if isinstance(reason, ValueError) else fault['msg']}")
            raise ValueError(" ".join(faults)) from None


Conditional = Annotated[dict[str, JsonValue], AfterValidator(When.normal), WithJsonSchema(syntax.WHEN_SCHEMA)]


class PluginFields(Part):
    name: str = Field(min_length=1, max_length=100)
    """The plugin's."""
    enabled: bool = True
    """Off: as if it were not there; not checked either."""
    config: Annotated[dict[str, JsonValue], AfterValidator(syntax.config)] = {}
    """The plugin's own settings; left out: its defaults."""
    when: Conditional = {}
    """Requests it is for: `methods`, `headers` (name → RE2 pattern), the caller's `groups`, `networks`, `paths`. All
    that is given has to hold, of a list any. Empty: for every request."""
    dry_run: bool = False
    """Refuse nobody: answers say in `X-Dry-Run` what would have been refused, and usage rows in their detail."""


class PluginEntry(PluginFields):
    """One setting. Its scope: `route` or `upstream` or neither, with or without `consumer`."""

    model_config = ConfigDict(json_schema_extra=ONE_PLACE)

    id: int = 0
    route: str = ""
    upstream: str = ""
    consumer: str = ""
    consumer_id: int = 0

    @field_validator("upstream")
    @classmethod
    def _one_place(cls, upstream: str, info: ValidationInfo) -> str:
        if upstream and info.data.get("route"):
            raise ValueError("A setting is for a route or for an upstream, not for both.")
        return upstream

    @property
    def key(self) -> str:
        return setting_key(self.name, self.route, self.upstream, self.consumer)


def setting_key(name: str, route: str, upstream: str, consumer: str) -> str:
    """What a setting is called: its plugin and its scope, `rate-limiting route=users consumer=alice`."""
    scope = {"route": route, "upstream": upstream, "consumer": consumer}
    return " ".join([name, *(f"{kind}={value}" for kind, value in scope.items() if value)])


def canonical(document: Mapping[str, Any]) -> bytes:
    """The same bytes for equal documents, whatever the order of keys."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical form, ids included: a route deleted and made anew is another one to usage rows."""
    return hashlib.sha256(canonical(document)).hexdigest()


def bounds(shape: type[Part]) -> dict[str, tuple[int, int]]:
    """Lowest and highest value of every number in a shape."""
    found = {}
    for name, field in shape.model_fields.items():
        low = [limit.ge for limit in field.metadata if isinstance(limit, Ge)]
        high = [limit.le for limit in field.metadata if isinstance(limit, Le)]
        if low and high:
            found[name] = (int(str(low[0])), int(str(high[0])))
    return found
