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
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from gateway.proxy.patterns import Pattern, check_rewrite
from routes import syntax
from routes.parts import Name, Part, Tags

FORMAT = 1
SECTIONS = ("upstreams", "routes", "plugins")

RouteHost = Annotated[str, AfterValidator(syntax.route_host), WithJsonSchema(syntax.ROUTE_HOST_SCHEMA)]
PathPattern = Annotated[str, AfterValidator(syntax.path), WithJsonSchema(syntax.PATH_SCHEMA)]
Method = Annotated[str, AfterValidator(syntax.method), WithJsonSchema(syntax.METHOD_SCHEMA)]
Conditions = dict[str, list[str]]


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
