"""What the admin API reads and answers about the configuration. The fields are those of `routes.document`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, model_validator

from routes.document import ONE_PLACE, PluginEntry, PluginFields, RouteEntry, RouteFields, RouteUpstreamEntry
from routes.parts import Part
from routes.upstreams import TargetFields, UpstreamEntry, UpstreamFields

#: Fields of answers that mean nothing in a request: they may stand there, so that what was read can be sent back.
READ_ONLY = frozenset({"id", "address", "created_at", "updated_at"})


def writable(value: Any) -> Any:
    """What was read, without its read-only fields, those of nested rows included."""
    if not isinstance(value, dict):
        return value
    kept = {name: part for name, part in value.items() if name not in READ_ONLY}
    if isinstance(targets := kept.get("targets"), list):
        kept["targets"] = [writable(target) for target in targets]
    return kept


class Body(Part):
    """Of a request. Read-only fields are skipped."""

    @model_validator(mode="before")
    @classmethod
    def _skip_read_only(cls, value: Any) -> Any:
        return writable(value)


class TargetWrite(TargetFields, Body):
    pass


class TargetRead(TargetFields):
    id: int
    address: str
    """`host:port`, `[::1]:port` or `unix:/path`."""


class UpstreamWrite(UpstreamFields, Body):
    targets: list[TargetWrite] = Field([], max_length=1000)


class UpstreamRead(UpstreamFields):
    id: int
    targets: list[TargetRead]
    created_at: datetime
    updated_at: datetime


class FoundTarget(Part):
    address: str
    weight: int
    priority: int
    """Of SRV records: others get nothing while one of the lowest is well."""
    state: Literal["up", "draining", "drained", "down", "ejected", "unknown"]


class DiscoveryRead(Part):
    """What the nodes found, by the one that sees it worst."""

    type: Literal["none", "dns", "srv", "http"]
    source: str
    state: Literal["none", "waiting", "fresh", "stale", "failed", "unknown"]
    """`stale`: the last look failed, the targets known before are used. `failed`: there was never a good answer."""
    error: str
    """Of the last look; empty: it was good."""
    refreshed_at: datetime | None
    """The last good answer."""
    nodes: int
    """So many nodes report it."""
    targets: list[FoundTarget]


class BranchWrite(RouteUpstreamEntry):
    """An upstream of a route, with its share of the traffic."""


class RouteWrite(RouteFields, Body):
    upstreams: list[BranchWrite] = Field([], max_length=200)


class RouteRead(RouteFields):
    id: int
    upstreams: list[RouteUpstreamEntry]
    created_at: datetime
    updated_at: datetime


class SettingWrite(PluginFields, Body):
    """A plugin's config and the scope it is for: `route` or `upstream` or neither, with or without `consumer`."""

    model_config = ConfigDict(json_schema_extra=ONE_PLACE)

    route: str = Field("", max_length=100)
    upstream: str = Field("", max_length=100)
    consumer: str = Field("", max_length=100)

    @model_validator(mode="after")
    def _one_place(self) -> SettingWrite:
        if self.route and self.upstream:
            raise ValueError("A setting is for a route or for an upstream, not for both.")
        return self


class SettingRead(PluginFields):
    id: int
    route: str
    upstream: str
    consumer: str
    created_at: datetime
    updated_at: datetime


# --- many at once -----------------------------------------------------------------------------------------------------


class Operation(Part):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"op": {"const": "create"}, "ref": {"const": ""}}},
                {
                    "properties": {"op": {"enum": ["update", "delete"]}, "ref": {"minLength": 1}},
                    "required": ["ref"],
                },
            ]
        }
    )

    op: Literal["create", "update", "delete"]
    resource: Literal["upstreams", "routes", "plugin-settings"]
    ref: str = Field("", max_length=100)
    """Name or id of the row to update or delete."""
    value: dict[str, JsonValue] = {}
    """What to create, or the fields to change."""
    if_match: str = Field("", max_length=100)
    """The ETag of what was read."""

    @model_validator(mode="after")
    def _names_a_row(self) -> Operation:
        if (self.op == "create") == bool(self.ref):
            raise ValueError("`ref` names the row to update or delete; a create has none.")
        return self


class Bulk(Part):
    operations: list[Operation] = Field(min_length=1, max_length=1000)
    comment: str = Field("", max_length=1000)
    """Why, for the history."""


class OperationDone(Part):
    op: str
    resource: str
    id: int
    name: str


class BulkDone(Part):
    results: list[OperationDone]


# --- versions and explain ---------------------------------------------------------------------------------------------


class Comment(Part):
    comment: str = Field("", max_length=1000)
    """Why, for the history."""


class VersionSummary(Part):
    number: int
    live: bool
    digest: str
    author: str
    source: str
    comment: str
    parent: int | None
    created_at: datetime


class Version(VersionSummary):
    document: dict[str, Any]


class RowChange(Part):
    section: str
    name: str
    change: Literal["added", "removed", "changed"]
    fields: dict[str, Any]
    """Each field that differs: `{before, after}`."""


class Diff(Part):
    number: int | None
    """None: the draft."""
    against: int | None
    """None: nothing was before."""
    lines: list[str]
    changes: list[RowChange]


class Replaced(Part):
    version: int | None
    """None: a dry run."""
    differences: list[str]


class ConfigFile(Part):
    """The whole configuration; what is left out of an entry is at its default (docs/configuration.md)."""

    format: Literal[1]
    upstreams: list[UpstreamEntry] = []
    routes: list[RouteEntry] = []
    plugins: list[PluginEntry] = []


class PluginRead(Part):
    name: str
    description: str
    phases: list[str]
    identifies: bool
    """Finds out who the consumer is."""
    position: int
    """In the order plugins run; 0 is first."""
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema of its config."""


class PluginList(Part):
    items: list[PluginRead]


class ExplainWrite(Part):
    method: str = Field("GET", pattern=r"^[A-Za-z]{1,32}$")
    host: str = Field("", max_length=260)
    path: str = Field("/", min_length=1, max_length=8000, pattern="^/")
    """As the client sends it, with its query string if it has one."""
    headers: dict[str, str] = Field({}, max_length=100)
    query: dict[str, str | list[str]] = Field({}, max_length=100)
    consumer: str = Field("", max_length=100)
    """As whom. Empty: as nobody in particular."""
    client_ip: Annotated[str, Field(max_length=45, pattern=r"^[0-9A-Fa-f:.]*$")] = ""
    """From where. Empty: not said."""


class ExplainedPlugin(Part):
    name: str
    setting: int
    scope: str
    phases: list[str]
    config: dict[str, Any]
    when: dict[str, Any]
    """Which requests it is for. Empty: every one."""
    applies: bool | None
    """Whether it is for this request. null: that depends on `client_ip`, which was not given."""
    dry_run: bool
    """It refuses nobody."""


class ExplainedTarget(Part):
    id: int
    address: str
    weight: int


class ExplainedBranch(Part):
    upstream: str
    weight: int
    protocol: str
    upstream_path: str
    plugins: list[ExplainedPlugin]
    targets: list[ExplainedTarget]


class NearMiss(Part):
    route: str
    reason: str


class Explained(Part):
    version: int
    normalised_path: str | None
    route: str | None
    route_id: int | None
    params: dict[str, str]
    branches: list[ExplainedBranch]
    error: str
    """The code the client would get; empty if a route matches."""
    detail: str
    near_misses: list[NearMiss]
    """Routes that would match if one thing about the request were different."""


Url = Annotated[str, StringConstraints(max_length=8000, pattern=r"^(https?://[!\"$-.0->@-~]+)?/[!-\"$-~]*$")]
Tag = Annotated[str, StringConstraints(max_length=256, pattern="^[!-~]+$")]


class PurgeWrite(Part):
    urls: list[Url] = Field([], max_length=1000)
    """Exactly as clients ask for them, with the query: `https://host/path?query`, or from the path on for all hosts."""
    prefixes: list[Url] = Field([], max_length=1000)
    """All URLs that begin so."""
    tags: list[Tag] = Field([], max_length=1000)
    """Words of the `Surrogate-Key` of answers."""
    everything: bool = False
    route: str = Field("", max_length=100)
    """Only what this route keeps. Empty: what any does."""

    @model_validator(mode="after")
    def _says_what(self) -> PurgeWrite:
        if not (self.urls or self.prefixes or self.tags or self.everything):
            raise ValueError("Say what is to be purged: urls, prefixes, tags or everything.")
        return self


class PurgeDone(Part):
    purged: int
    """How many purges were told to the workers."""
