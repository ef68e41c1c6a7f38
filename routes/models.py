"""The working copy (Upstream, Target, Route, PluginSetting), its published versions, and who applied which.

Edit the working copy inside `services.change`. Bounds, defaults and texts of its fields come from the shapes in
`routes.document`; the database checks them once more.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from gateway.proxy.snapshot import BLAMES
from routes import catalogue, document
from routes.compile import config_problems, discovery_problems, tls_problems
from routes.document import PluginFields, RouteFields, RouteUpstreamEntry
from routes.problems import Row
from routes.reading import address
from routes.rows import ConfigRow, bounded, default, field_errors, named, words
from routes.sealing import SealedConfig, SealedDocument, SealedText
from routes.upstreams import TargetFields, UpstreamFields


def _blames() -> list[str]:
    return list(BLAMES)


class Upstream(ConfigRow):
    shape = UpstreamFields

    class Protocol(models.TextChoices):
        HTTP = "http", "HTTP"
        HTTPS = "https", "HTTPS"

    class Balancing(models.TextChoices):
        ROUND_ROBIN = "round-robin", "Round robin"
        LEAST_CONNECTIONS = "least-connections", "Least connections"
        EWMA = "ewma", "EWMA: the quickest"
        CONSISTENT_HASHING = "consistent-hashing", "Consistent hashing"

    class HashOn(models.TextChoices):
        IP = "ip", "Client address"
        HEADER = "header", "Header"
        COOKIE = "cookie", "Cookie"
        PATH = "path", "Path"
        CONSUMER = "consumer", "Consumer"

    class SameSite(models.TextChoices):
        UNSET = "", "Unset"
        LAX = "lax", "Lax"
        STRICT = "strict", "Strict"
        NONE = "none", "None"

    class Transport(models.TextChoices):
        NATIVE = "native", "Native: HTTP/1.1"
        HTTPX = "httpx", "httpx: HTTP/1.1, HTTP/2"

    class Discovery(models.TextChoices):
        NONE = "none", "None"
        DNS = "dns", "DNS: addresses of a name"
        SRV = "srv", "DNS: SRV records"
        HTTP = "http", "HTTP: a JSON list"

    class Probe(models.TextChoices):
        NONE = "none", "None"
        HTTP = "http", "HTTP: a GET"
        TCP = "tcp", "TCP: a connection"

    name = models.CharField(max_length=100)
    protocol = models.CharField(max_length=10, choices=Protocol, default=Protocol.HTTP)
    balancing = models.CharField(max_length=30, choices=Balancing, default=Balancing.ROUND_ROBIN)
    hash_on = models.CharField(max_length=10, choices=HashOn, default=HashOn.IP)
    hash_on_header = models.CharField(max_length=100, blank=True, default="")
    hash_on_cookie = models.CharField(max_length=100, blank=True, default="")
    sticky_cookie = models.CharField(max_length=100, blank=True, default="")
    sticky_max_age_s = models.IntegerField(default=default(UpstreamFields, "sticky_max_age_s"))
    sticky_path = models.CharField(max_length=200, default=default(UpstreamFields, "sticky_path"))
    sticky_secure = models.BooleanField("sticky: Secure", default=False)
    sticky_http_only = models.BooleanField("sticky: HttpOnly", default=True)
    sticky_same_site = models.CharField(
        "sticky: SameSite", max_length=10, choices=SameSite, blank=True, default=SameSite.UNSET
    )
    slow_start_ms = models.IntegerField(default=default(UpstreamFields, "slow_start_ms"))
    connect_timeout_ms = models.IntegerField(default=default(UpstreamFields, "connect_timeout_ms"))
    first_byte_timeout_ms = models.IntegerField(default=default(UpstreamFields, "first_byte_timeout_ms"))
    idle_timeout_ms = models.IntegerField(default=default(UpstreamFields, "idle_timeout_ms"))
    total_timeout_ms = models.IntegerField(default=default(UpstreamFields, "total_timeout_ms"))
    retries = models.IntegerField(default=default(UpstreamFields, "retries"))
    max_connections = models.IntegerField(default=default(UpstreamFields, "max_connections"))
    transport = models.CharField(max_length=10, choices=Transport, default=Transport.NATIVE)
    http2 = models.BooleanField("HTTP/2", default=False)
    tls_verify = models.BooleanField("TLS: verify", default=True)
    tls_server_name = models.CharField("TLS: server name", max_length=253, blank=True, default="")
    tls_ca = models.TextField("TLS: authorities", blank=True, default="")
    tls_client_certificate = models.TextField("TLS: client certificate", blank=True, default="")
    tls_client_key = SealedText("TLS: client key", blank=True, default="")
    probe = models.CharField("probes", max_length=10, choices=Probe, default=Probe.NONE)
    probe_path = models.CharField(max_length=1000, default=default(UpstreamFields, "probe_path"))
    probe_host = models.CharField(max_length=260, blank=True, default="")
    probe_interval_ms = models.IntegerField(default=default(UpstreamFields, "probe_interval_ms"))
    probe_down_interval_ms = models.IntegerField(default=default(UpstreamFields, "probe_down_interval_ms"))
    probe_timeout_ms = models.IntegerField(default=default(UpstreamFields, "probe_timeout_ms"))
    probe_healthy_after = models.IntegerField(default=default(UpstreamFields, "probe_healthy_after"))
    probe_unhealthy_after = models.IntegerField(default=default(UpstreamFields, "probe_unhealthy_after"))
    probe_statuses = models.CharField(max_length=100, default=default(UpstreamFields, "probe_statuses"))
    probe_body = models.CharField(max_length=200, blank=True, default="")
    eject_after = models.IntegerField(default=default(UpstreamFields, "eject_after"))
    eject_on = ArrayField(models.CharField(max_length=10), default=_blames, blank=True)
    eject_statuses = models.CharField(max_length=100, default=default(UpstreamFields, "eject_statuses"))
    eject_base_ms = models.IntegerField(default=default(UpstreamFields, "eject_base_ms"))
    eject_max_ms = models.IntegerField(default=default(UpstreamFields, "eject_max_ms"))
    eject_max_percent = models.IntegerField(default=default(UpstreamFields, "eject_max_percent"))
    breaker_error_percent = models.IntegerField(default=default(UpstreamFields, "breaker_error_percent"))
    breaker_slow_ms = models.IntegerField(default=default(UpstreamFields, "breaker_slow_ms"))
    breaker_slow_percent = models.IntegerField(default=default(UpstreamFields, "breaker_slow_percent"))
    breaker_min_requests = models.IntegerField(default=default(UpstreamFields, "breaker_min_requests"))
    breaker_window_ms = models.IntegerField(default=default(UpstreamFields, "breaker_window_ms"))
    breaker_open_ms = models.IntegerField(default=default(UpstreamFields, "breaker_open_ms"))
    max_concurrency = models.IntegerField(default=default(UpstreamFields, "max_concurrency"))
    max_queue = models.IntegerField(default=default(UpstreamFields, "max_queue"))
    queue_timeout_ms = models.IntegerField(default=default(UpstreamFields, "queue_timeout_ms"))
    retry_statuses = ArrayField(models.IntegerField(), default=list, blank=True)
    retry_on_timeout = models.BooleanField(default=False)
    retry_all_methods = models.BooleanField(default=False)
    retry_backoff_ms = models.IntegerField(default=default(UpstreamFields, "retry_backoff_ms"))
    retry_body_bytes = models.IntegerField(default=default(UpstreamFields, "retry_body_bytes"))
    retry_budget_percent = models.IntegerField(default=default(UpstreamFields, "retry_budget_percent"))
    hedge_after_ms = models.IntegerField(default=default(UpstreamFields, "hedge_after_ms"))
    discovery = models.CharField(max_length=10, choices=Discovery, default=Discovery.NONE)
    discovery_name = models.CharField(max_length=253, blank=True, default="")
    discovery_port = models.IntegerField(default=default(UpstreamFields, "discovery_port"))
    discovery_url = models.CharField("discovery URL", max_length=2048, blank=True, default="")
    discovery_interval_ms = models.IntegerField(default=default(UpstreamFields, "discovery_interval_ms"))
    discovery_resolver = models.CharField(max_length=260, blank=True, default="")
    tags = words(64)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            *named("upstream"),
            *bounded("upstream", UpstreamFields),
            models.CheckConstraint(condition=Q(protocol__in=["http", "https"]), name="upstream_protocol_known"),
            models.CheckConstraint(
                condition=Q(balancing__in=["round-robin", "least-connections", "ewma", "consistent-hashing"]),
                name="upstream_balancing_known",
            ),
            models.CheckConstraint(
                condition=Q(hash_on__in=["ip", "header", "cookie", "path", "consumer"]), name="upstream_hash_on_known"
            ),
            models.CheckConstraint(
                condition=Q(sticky_same_site__in=["", "lax", "strict", "none"]), name="upstream_sticky_same_site_known"
            ),
            models.CheckConstraint(condition=Q(eject_on__contained_by=list(BLAMES)), name="upstream_eject_on_known"),
            models.CheckConstraint(condition=Q(transport__in=["native", "httpx"]), name="upstream_transport_known"),
            models.CheckConstraint(condition=Q(probe__in=["none", "http", "tcp"]), name="upstream_probe_known"),
            models.CheckConstraint(
                condition=Q(discovery__in=["none", "dns", "srv", "http"]), name="upstream_discovery_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        faults = tls_problems(self.tls_ca, self.tls_client_certificate, self.tls_client_key)
        faults += discovery_problems(self.discovery_url, self.discovery_resolver, catalogue.fence())
        if faults:
            raise field_errors(faults)

    @property
    def row(self) -> Row:
        return ("upstreams", self.name)


class Target(ConfigRow):
    shape = TargetFields

    upstream = models.ForeignKey(Upstream, models.CASCADE, related_name="targets")
    host = models.CharField(max_length=253)
    port = models.IntegerField(default=0)
    weight = models.IntegerField(default=default(TargetFields, "weight"))
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["upstream", "host", "port"]
        constraints = [
            models.UniqueConstraint(
                fields=["upstream", "host", "port"],
                name="target_address_unique",
                deferrable=models.Deferrable.IMMEDIATE,
                violation_error_message="The upstream has this target already.",
            ),
            *bounded("target", TargetFields),
            models.CheckConstraint(
                condition=Q(host__startswith="unix:", port=0) | (~Q(host__startswith="unix:") & Q(port__gt=0)),
                name="target_port_fits_host",
                violation_error_message="A unix socket has port 0, everything else one from 1 to 65535.",
            ),
        ]

    def __str__(self) -> str:
        return address(self.host, self.port)

    def clean(self) -> None:
        super().clean()
        if fault := catalogue.fence().fault(self.host, self.port):
            raise field_errors([(("host",), fault)])

    @property
    def row(self) -> Row:
        return (*self.upstream.row, "targets", str(self))


class Route(ConfigRow):
    shape = RouteFields

    name = models.CharField(max_length=100)
    enabled = models.BooleanField(default=True)
    hosts = words()
    paths = words(1000)
    methods = words(32)
    header_conditions = models.JSONField(default=dict, blank=True)
    query_conditions = models.JSONField(default=dict, blank=True)
    strip_path = models.BooleanField(default=False)
    preserve_host = models.BooleanField(default=False)
    path_rewrite = models.CharField(max_length=1000, blank=True, default="")
    priority = models.IntegerField(default=default(RouteFields, "priority"))
    max_body_bytes = models.BigIntegerField(default=default(RouteFields, "max_body_bytes"))
    tags = words(64)
    upstreams = models.ManyToManyField(Upstream, through="RouteUpstream", related_name="routes")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [*named("route"), *bounded("route", RouteFields)]

    def __str__(self) -> str:
        return self.name

    @property
    def row(self) -> Row:
        return ("routes", self.name)


class RouteUpstream(models.Model):
    """An upstream that a route leads to. It protects the upstream: no route is left leading nowhere by accident."""

    route = models.ForeignKey(Route, models.CASCADE, related_name="branches")
    upstream = models.ForeignKey(Upstream, models.PROTECT, related_name="branches")
    weight = models.IntegerField(default=default(RouteUpstreamEntry, "weight"))

    class Meta:
        verbose_name = "upstream of the route"
        verbose_name_plural = "upstreams of the route"
        ordering = ["route", "upstream"]
        constraints = [
            models.UniqueConstraint(
                fields=["route", "upstream"],
                name="routeupstream_unique",
                violation_error_message="The route leads to this upstream already.",
            ),
            *bounded("routeupstream", RouteUpstreamEntry),
        ]

    def __str__(self) -> str:
        return f"{self.route} → {self.upstream}"

    @property
    def row(self) -> Row:
        return (*self.route.row, "upstreams", self.upstream.name)


class PluginSetting(ConfigRow):
    """A plugin's config and the scope it is for. No route, upstream or consumer: everywhere."""

    shape = PluginFields

    name = models.CharField("plugin", max_length=100)
    enabled = models.BooleanField(default=True)
    config = SealedConfig(default=dict, blank=True)
    when = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()), blank=True)
    dry_run = models.BooleanField("dry run", default=False, db_default=False)
    route = models.ForeignKey(Route, models.CASCADE, null=True, blank=True, related_name="plugin_settings")
    upstream = models.ForeignKey(Upstream, models.CASCADE, null=True, blank=True, related_name="plugin_settings")
    consumer = models.ForeignKey("keys.Consumer", models.CASCADE, null=True, blank=True, related_name="plugin_settings")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["name", "route", "upstream", "consumer"],
                name="pluginsetting_scope_unique",
                nulls_distinct=False,
                deferrable=models.Deferrable.IMMEDIATE,
                violation_error_message="This plugin has a setting of this scope already.",
            ),
            models.CheckConstraint(
                condition=Q(route__isnull=True) | Q(upstream__isnull=True),
                name="pluginsetting_one_place",
                violation_error_message="A setting is for a route or for an upstream, not for both.",
            ),
        ]

    def __str__(self) -> str:
        return document.setting_key(self.name, *(str(part) if part else "" for part in self.scope))

    def clean(self) -> None:
        super().clean()
        if self.enabled and (
            faults := config_problems(self.name, self.config, catalogue.registry(), catalogue.references())
        ):
            raise field_errors(faults)

    @property
    def scope(self) -> tuple[Route | None, Upstream | None, models.Model | None]:
        return self.route, self.upstream, self.consumer

    @property
    def row(self) -> Row:
        return ("plugins", str(self))


class ConfigVersion(models.Model):
    """A published configuration. Made by `services.publish` only; triggers keep it as it is (migration 0002).

    Numbers rise without gaps; the newest version is the live one. Versions that are not live may be deleted.
    """

    number = models.IntegerField(unique=True)
    document = SealedDocument()
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    source = models.CharField(max_length=30, help_text="admin, api, command, import, rollback, demo …")
    comment = models.TextField(blank=True, default="")
    parent = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="children")
    live = models.BooleanField(default=False)
    created_at = models.DateTimeField(
        db_default=models.Func(function="clock_timestamp", output_field=models.DateTimeField())
    )

    class Meta:
        ordering = ["-number"]
        permissions = [("publish_config", "Can publish and roll back the configuration")]
        constraints = [
            models.UniqueConstraint(fields=["live"], condition=Q(live=True), name="configversion_one_live"),
            models.CheckConstraint(condition=Q(number__gte=1), name="configversion_number_positive"),
        ]

    def __str__(self) -> str:
        return f"version {self.number}"


class WorkerReport(models.Model):
    """What one worker serves, by its own word. `version` 0: none yet."""

    node = models.CharField(max_length=64)
    worker = models.IntegerField()
    pid = models.IntegerField()
    role = models.CharField(max_length=10)
    version = models.IntegerField(default=0)
    applied_at = models.DateTimeField(help_text="When it began to serve that version.")
    apply_ms = models.FloatField(default=0, help_text="Loading, compiling and swapping took this long.")
    seen_at = models.DateTimeField()
    error = models.TextField(blank=True, default="", help_text="Why it does not serve the live version.")

    class Meta:
        ordering = ["node", "worker"]
        constraints = [models.UniqueConstraint(fields=["node", "worker"], name="workerreport_unique")]

    def __str__(self) -> str:
        return f"{self.node}/{self.worker}"


class TargetReport(models.Model):
    """What one node knows of the targets: a row per node, written by its recorder (see `routes.health`)."""

    node = models.CharField(max_length=64, unique=True)
    targets = models.JSONField(help_text="A list of `gateway.proxy.sightings.Sighting`, as plain values.")
    discovered = models.JSONField(
        default=list,
        db_default=models.Value([], models.JSONField()),
        help_text="A list of `gateway.proxy.discovery.Discovered`, as plain values.",
    )
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["node"]

    def __str__(self) -> str:
        return self.node
