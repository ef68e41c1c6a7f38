"""Every setting of the gateway, read from environment variables and nothing else.

One place for names, types, bounds, defaults and descriptions: `docs/settings.md` is generated from it, and a wrong
value stops the start with every problem named at once.
"""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.plugins.references import References, check_names
from gateway.proxy.fence import Fence, place

Role = Literal["all", "proxy", "admin"]
Words = Annotated[list[str], NoDecode]
ROOT = Path(__file__).resolve().parent.parent

#: Variables that may name a file instead (`SECRET_KEY_FILE=/run/secrets/key`), as container platforms do.
FROM_FILE = ("SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL", "REDIS_URL")

PLUGINS = [
    "gateway.plugins.request_id.RequestId",
    "gateway.plugins.opentelemetry.Opentelemetry",
    "gateway.plugins.bandwidth_limiting.BandwidthLimiting",
    "gateway.plugins.compression.Compression",
    "gateway.plugins.security_headers.SecurityHeaders",
    "gateway.plugins.cors.Cors",
    "gateway.plugins.bot_detection.BotDetection",
    "gateway.plugins.redirect.Redirect",
    "gateway.plugins.key_auth.KeyAuth",
    "gateway.plugins.basic_auth.BasicAuth",
    "gateway.plugins.jwt.Jwt",
    "gateway.plugins.oauth2_introspection.Oauth2Introspection",
    "gateway.plugins.mtls_auth.MtlsAuth",
    "gateway.plugins.openid_connect.OpenidConnect",
    "gateway.plugins.hmac_auth.HmacAuth",
    "gateway.plugins.forward_auth.ForwardAuth",
    "gateway.plugins.ip_restriction.IpRestriction",
    "gateway.plugins.request_size_limiting.RequestSizeLimiting",
    "gateway.plugins.acl.Acl",
    "gateway.plugins.websocket_limits.WebsocketLimits",
    "gateway.plugins.opa.Opa",
    "gateway.plugins.concurrency_limiting.ConcurrencyLimiting",
    "gateway.plugins.rate_limiting.RateLimiting",
    "gateway.plugins.quota.Quota",
    "gateway.plugins.request_validation.RequestValidation",
    "gateway.plugins.fault_injection.FaultInjection",
    "gateway.plugins.response_cache.ResponseCache",
    "gateway.plugins.request_transformer.RequestTransformer",
    "gateway.plugins.body_transformer.BodyTransformer",
    "gateway.plugins.request_termination.RequestTermination",
    "gateway.plugins.traffic_split.TrafficSplit",
    "gateway.plugins.upstream_timeout.UpstreamTimeout",
    "gateway.plugins.upstream_retry.UpstreamRetry",
    "gateway.plugins.mirror.Mirror",
    "gateway.plugins.response_transformer.ResponseTransformer",
    "gateway.plugins.http_log.HttpLog",
    "gateway.plugins.file_log.FileLog",
    "gateway.plugins.syslog.Syslog",
    "gateway.plugins.kafka_log.KafkaLog",
]


class Environment(BaseSettings):
    """Names are `GATEWAY_<FIELD>` unless an alias says otherwise. Lists are separated by commas."""

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_", frozen=True, use_attribute_docstrings=True, env_ignore_empty=True
    )

    database_url: str = Field("", validation_alias="DATABASE_URL")
    """PostgreSQL as a URL, `postgres://user:password@host:5432/name`. Empty: the embedded server of `manage.py up`."""
    redis_url: str = Field("", validation_alias="REDIS_URL")
    """Valkey or Redis as a URL, `redis://host:6379/0` or `unix:///path`. Empty: the embedded one of `manage.py up`."""
    secret_key: str = Field("", validation_alias="SECRET_KEY")
    """Signs sessions and cookies. Empty: the file `secrets/secret-key` in the data directory."""
    secret_key_fallbacks: Words = Field(default_factory=list, validation_alias="SECRET_KEY_FALLBACKS")
    """Other keys, with commas: what was signed or stored under them is good, too. See [operations](operations.md)."""
    data_dir: Path = ROOT / "var"
    """What must survive a restart lies here: embedded servers, secrets, usage spool, last good configuration."""

    role: Role = "all"
    """What a worker serves: `proxy` only traffic, `admin` only the control plane, `all` both on one port."""
    port: int = Field(8080, ge=1, le=65535, validation_alias="PORT")
    """Port of the `all` and `proxy` roles."""
    tls_port: int = Field(0, ge=0, le=65535)
    """Port of the `all` and `proxy` roles on which the same is served over TLS (1.2 and 1.3). 0: none."""
    tls_certificates: Words = []
    """Files, each with a certificate, those that lead to its authority, and its private key, all in PEM. With several,
    a client gets the one for the name it asks for, or the first. Read by workers as they start: SIGHUP renews them."""
    tls_client_ca: Path | None = None
    """Authorities in PEM whose certificates clients may show on `GATEWAY_TLS_PORT`, for the plugin mtls-auth. Nobody
    has to show one."""
    admin_port: int = Field(8081, ge=1, le=65535)
    """Port of the `admin` role."""
    status_port: int = Field(8082, ge=0, le=65535)
    """Loopback port of a `proxy` node for `/metrics` and `/status`. 0: none."""
    bind: str = ""
    """Address to listen on. Empty: 0.0.0.0 for `proxy`, 127.0.0.1 for `all` and `admin`."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    """Worker processes. One per core is right."""
    node: str = Field(default_factory=socket.gethostname, min_length=1, max_length=64)
    """This machine's name among the nodes that share the database."""
    drain_timeout_s: float = Field(30.0, gt=0, le=3600)
    """After SIGTERM: how long requests in flight may take to finish."""
    drain_delay_s: float = Field(0.0, ge=0, le=300)
    """After SIGTERM: how long `/ready` says 503 before the port closes. For load balancers that ask now and then."""
    recycle_requests: int = Field(0, ge=0)
    """Replace a worker after this many requests, give or take a tenth, so that not all come due at once. 0: never."""
    recycle_mb: int = Field(0, ge=0, le=1_048_576)
    """Replace a worker whose resident memory is above this. 0: never. Linux; elsewhere its peak counts."""
    uvloop: bool = True
    """Run workers on uvloop where it is installed. Off: asyncio's own loop."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of log lines on standard error."""

    allowed_hosts: Words = ["localhost", "127.0.0.1", "[::1]"]
    """Host names the control plane answers to. Traffic of routes is not touched by it."""
    csrf_trusted_origins: Words = []
    """Origins (`https://gateway.example.com`) the dashboard is served from behind a TLS proxy."""
    trusted_proxies: Annotated[list[IPv4Network | IPv6Network], NoDecode] = []
    """Networks whose `X-Forwarded-*` fields are believed, `10.0.0.0/8,fd00::/8`. Others' are dropped."""

    upstream_allow: Words = []
    """Networks and host names (`169.254.20.10`, `*.example.com`) that upstreams may be at although a wider network of
    `GATEWAY_UPSTREAM_DENY` or a [built-in one](discovery.md#where-upstreams-may-be) says otherwise."""
    upstream_deny: Words = []
    """Networks and host names that no upstream, and nothing a plugin calls, may be at, besides the built-in ones.
    `0.0.0.0/0,::/0`: nowhere but at what `GATEWAY_UPSTREAM_ALLOW` names."""

    plugins: Words = PLUGINS
    """Plugin classes in the order they run, as dotted paths."""
    plugin_dir: Path | None = None
    """A directory with plugin modules of your own."""
    secrets_env: Words = ["PLUGIN_*"]
    """Variables that configs of plugins may name as `${env:PLUGIN_TOKEN}`. One that ends in `*` begins names. Whoever
    may change the configuration can read what they hold."""
    secrets_dir: Path | None = None
    """Directory with files that configs of plugins may name as `${file:token}`. Empty: none."""
    log_dir: Path | None = None
    """Directory of the files that `file-log` writes. Empty: `logs` in the data directory."""
    autopublish: bool = True
    """Publish every committed change at once. Off: changes gather as a draft until someone publishes."""

    max_head_bytes: int = Field(32_768, ge=1024, le=1_048_576)
    """Largest request head (request line and header fields); above it 431."""
    max_headers: int = Field(100, ge=10, le=1000)
    """Most header fields of a request; above it 431."""
    max_line_bytes: int = Field(8_192, ge=256, le=65_536)
    """Longest request line; above it 414."""
    max_body_bytes: int = Field(1_073_741_824, ge=0)
    """Largest request body; above it 413. 0: no limit. A route may set a lower one."""
    max_trailer_bytes: int = Field(8_192, ge=256, le=1_048_576)
    """Largest trailer section of a chunked request body; above it 400. Trailers are checked, then dropped."""
    max_connections: int = Field(10_000, ge=10)
    """Open client connections of one worker; above it 503."""
    max_connections_per_address: int = Field(5_000, ge=0)
    """Open connections of one worker from one address (of IPv6, one /64); above it 429. `GATEWAY_TRUSTED_PROXIES` are
    not counted. 0: no limit."""
    head_timeout_s: float = Field(10.0, ge=0.1, le=600)
    """From the first byte of a request head, or from connecting, to the head's end; after it 408."""
    keepalive_timeout_s: float = Field(75.0, ge=0.1, le=3600)
    """How long a connection may stay open without a request."""
    body_timeout_s: float = Field(20.0, ge=0.1, le=3600)
    """How long a request body may make no progress; after it 408."""
    min_body_bytes_per_s: int = Field(240, ge=0, le=1_048_576)
    """Below this a request body makes no progress, `GATEWAY_BODY_TIMEOUT_S` is the grace. 0: any byte is progress."""
    write_timeout_s: float = Field(25.0, ge=0.1, le=3600)
    """How long a client may take nothing of an answer that waits for it; then the connection is reset."""
    min_answer_bytes_per_s: int = Field(240, ge=0, le=1_048_576)
    """Below this a client takes nothing, `GATEWAY_WRITE_TIMEOUT_S` is the grace. 0: any byte counts."""
    linger_timeout_s: float = Field(5.0, ge=0.1, le=60)
    """After refusing a request: how long what the client still sends is read away, so that it sees the answer."""

    redis_timeout_ms: int = Field(50, ge=5, le=5000)
    """How long a request may wait for Redis before its policy's `on_error` decides."""
    cache_worker_mb: int = Field(16, ge=1, le=4096)
    """Memory of each worker for the answers that [response-cache](plugins/response-cache.md) keeps; Redis has more."""
    usage_spool_max_mb: int = Field(1024, ge=16)
    """Disk for usage rows that PostgreSQL has not taken yet. When full, new rows are dropped and counted."""
    access_log: str = Field("", pattern=r"^(stdout|/.+|)$")
    """Where each request leaves a line: `stdout`, or the absolute path of a file. Empty: nowhere."""
    access_log_format: Literal["json", "common"] = "json"
    """`json`: one object a line, in the words of usage rows. `common`: NCSA's Common Log Format."""
    access_log_max_mb: int = Field(100, ge=0, le=100_000)
    """Size at which a file is rotated, to `.1`, `.2` and so on. 0: never, something else does."""
    access_log_keep: int = Field(5, ge=0, le=100)
    """Rotated files that are kept."""
    usage_retention_days: int = Field(30, ge=1, le=3650)
    """Days of raw usage rows kept. Rollups stay longer: minutes this long, hours a year, days for ever."""

    debug: bool = False
    """Django's debug pages on the control plane. Never in production."""

    @field_validator(
        "allowed_hosts", "csrf_trusted_origins", "trusted_proxies", "upstream_allow", "upstream_deny", "plugins",
        "tls_certificates", "secrets_env", "secret_key_fallbacks",
        mode="before", check_fields=True,
    )  # fmt: skip
    @classmethod
    def _split(cls, value: object) -> object:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("upstream_allow", "upstream_deny")
    @classmethod
    def _places(cls, words: list[str]) -> list[str]:
        for word in words:
            place(word)
        return words

    @field_validator("secrets_env")
    @classmethod
    def _variables(cls, words: list[str]) -> list[str]:
        check_names(words)
        return words

    @property
    def references(self) -> References:
        """What configs of plugins may refer to, as set here."""
        return References(os.environ, self.secrets_env, self.secrets_dir)

    @property
    def fence(self) -> Fence:
        """Where upstreams may be, as set here."""
        own = {self.port, self.tls_port}
        own |= set() if self.role == "all" else {self.admin_port, self.status_port}
        return Fence(self.upstream_allow, self.upstream_deny, own - {0}, self.bind)


class BadEnvironment(SystemExit):
    """Ends the process with every wrong variable named; not an exception trace, for it is read by people."""


def load() -> Environment:
    from_files = {}
    for name in FROM_FILE:
        if path := os.environ.get(f"{name}_FILE"):
            try:
                from_files[name] = Path(path).read_text().strip()
            except OSError as error:
                raise BadEnvironment(f"{name}_FILE: cannot read {path}: {error.strerror}") from error
    try:
        return Environment(**from_files)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"  {variable(problem['loc'][0])}: {problem['msg']}" for problem in error.errors()]
        raise BadEnvironment("Settings that cannot be used:\n" + "\n".join(lines)) from error


def variable(field: str | int) -> str:
    """The environment variable of a field (or of an alias, which is a variable already)."""
    name = str(field)
    return name if name.isupper() else f"GATEWAY_{name.upper()}"
