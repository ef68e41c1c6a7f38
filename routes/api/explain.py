"""`POST /explain`: what would become of a request, by the live configuration and the very index the workers match with.

Nothing is sent, counted or recorded. Plugins are named in the order they would run, not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.problems import Conflict, Fault
from gateway.plugins.registry import Registry
from gateway.proxy.conditions import judge
from gateway.proxy.downstream import host_name
from gateway.proxy.errors import BadRequest, NoRoute
from gateway.proxy.exchange import Consumer as Caller
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Pairs
from gateway.proxy.match import Index, Match
from gateway.proxy.paths import is_plain, normalise
from gateway.proxy.patterns import rewrite_path
from gateway.proxy.snapshot import PluginSpec, RouteSpec, Snapshot, When
from gateway.proxy.table import Settings
from keys.models import Consumer
from routes import masking, selectors
from routes.api import examples
from routes.api.shapes import Explained, ExplainWrite
from routes.api.views import ConfigView
from routes.catalogue import registry
from routes.compile import compile as compile_document


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the pipeline sees it."""

    method: str
    host: str
    raw_path: bytes
    headers: Pairs
    query: bytes
    client_ip: str = ""

    @classmethod
    def of(cls, wanted: ExplainWrite) -> Asked:
        path, _, query = wanted.path.partition("?")
        more = urlencode(wanted.query, doseq=True)
        return cls(
            method=wanted.method.upper(),
            host=host_name(wanted.host.encode("latin-1", "replace")),
            raw_path=path.encode(),
            headers=[
                (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                for name, value in wanted.headers.items()
            ],
            query="&".join(part for part in (query, more) if part).encode(),
            client_ip=wanted.client_ip,
        )

    def exchange(self, groups: frozenset[str]) -> Exchange:
        """As conditions of plugins see it."""
        made = Exchange(
            method=self.method, raw_path=self.raw_path, query=self.query, headers=self.headers, scheme="http",
            peer_ip=self.client_ip, port=80, started_s=0.0, wall_s=0.0,
        )  # fmt: skip
        made.path, made.plain = normalise(self.raw_path), is_plain(self.raw_path)
        made.consumer = Caller(1, "", groups=groups)
        return made

    def find(self, index: Index[RouteSpec]) -> Match[RouteSpec] | None:
        """Raises BadRequest."""
        path = normalise(self.raw_path)
        odd = b"" if is_plain(self.raw_path) else self.raw_path
        return index.match(self.host, path, odd, self.method, self.headers, self.query)


class Live:
    """The live configuration, made ready to be asked."""

    def __init__(self, snapshot: Snapshot, plugins: Registry) -> None:
        self.snapshot = snapshot
        self.plugins = plugins
        self.index = Index((route, route) for route in snapshot.routes)
        self.settings = Settings(snapshot.plugins, plugins.names)


_ready: Live | None = None  # the last one made; replaced whole


def live() -> Live:
    global _ready
    number, digest = selectors.live_version()
    plugins = registry()
    current = _ready
    wanted = number, digest, plugins
    if current is None or (current.snapshot.version, current.snapshot.digest, current.plugins) != wanted:
        snapshot = Snapshot(version=0, digest="")
        if number:
            snapshot = compile_document(selectors.document_of(number), plugins, version=number)
        current = _ready = Live(snapshot, plugins)
    return current


def explain(current: Live, asked: Asked, consumer_id: int, groups: frozenset[str] = frozenset()) -> dict[str, Any]:
    said: dict[str, Any] = {
        "version": current.snapshot.version,
        "normalised_path": None,
        "route": None,
        "route_id": None,
        "params": {},
        "branches": [],
        "error": "",
        "detail": "",
        "near_misses": [],
    }
    try:
        said["normalised_path"] = normalise(asked.raw_path)
        match = asked.find(current.index)
        if match is None:
            raise NoRoute()
    except (BadRequest, NoRoute) as error:
        misses = [{"route": route, "reason": reason} for route, reason in _near_misses(current, asked)]
        return said | {"error": error.code, "detail": error.detail, "near_misses": misses}
    branches = list(_branches(current, match, asked, consumer_id, groups))
    params = {name: value.encode(errors="replace").decode() for name, value in match.params.items()}
    return said | {"route": match.route.name, "route_id": match.route.id, "params": params, "branches": branches}


def _branches(
    current: Live, match: Match[RouteSpec], asked: Asked, consumer_id: int, groups: frozenset[str]
) -> Iterator[dict[str, Any]]:
    route = match.route
    for link in route.upstreams:
        upstream = current.snapshot.upstreams[link.upstream]
        chosen = current.settings.chosen(current.settings.applying(route.name, upstream.name), consumer_id)
        yield {
            "upstream": upstream.name,
            "weight": link.weight,
            "protocol": upstream.protocol,
            "upstream_path": _upstream_path(match, asked),
            "plugins": [_plugin(current, setting, asked, groups) for setting in chosen],
            "targets": [
                {"id": target.id, "address": target.address, "weight": target.weight} for target in upstream.targets
            ],
        }


def _plugin(current: Live, setting: PluginSpec, asked: Asked, groups: frozenset[str]) -> dict[str, Any]:
    return {
        "name": setting.name,
        "setting": setting.id,
        "scope": setting.scope,
        "phases": list(current.plugins[setting.name].hooks()),
        "config": masking.shown(setting.config),
        "when": shown_when(setting.when),
        "applies": _applies(setting.when, asked, groups),
        "dry_run": setting.dry_run,
    }


def _applies(when: When | None, asked: Asked, groups: frozenset[str]) -> bool | None:
    """None: it depends on an address that was not given."""
    if when is None:
        return True
    judged = replace(when, networks=when.networks if asked.client_ip else ())
    try:
        holds = judge(judged, asked.exchange(groups))
    except BadRequest:  # another reading of the path would be judged otherwise: the request would be refused
        return False
    return None if holds and when.networks and not asked.client_ip else holds


def shown_when(when: When | None) -> dict[str, Any]:
    """As a configuration has it; empty: for every request."""
    if when is None:
        return {}
    said = {
        "methods": sorted(when.methods), "headers": dict(when.headers), "groups": sorted(when.groups),
        "networks": list(when.networks), "paths": list(when.paths),
    }  # fmt: skip
    return {kind: value for kind, value in said.items() if value}


def _upstream_path(match: Match[RouteSpec], asked: Asked) -> str:
    """What goes upstream if no plugin says otherwise."""
    if match.route.path_rewrite:
        return rewrite_path(match.route.path_rewrite, match.params, match.tail)
    if match.route.strip_path:
        return match.tail or "/"
    return asked.raw_path.decode()


def _near_misses(current: Live, asked: Asked) -> Iterator[tuple[str, str]]:
    """The route that would match if one thing were different, for each thing."""
    relaxed: list[tuple[str, dict[str, Any]]] = [
        ("the method: it takes {0.methods}", {"methods": frozenset()}),
        ("the host: it takes {0.hosts}", {"hosts": ()}),
        ("a header: it wants {0.headers}", {"headers": ()}),
        ("the query: it wants {0.query}", {"query": ()}),
    ]
    by_id = {route.id: route for route in current.snapshot.routes}
    for reason, change in relaxed:
        index = Index((route, route) for route in (replace(route, **change) for route in by_id.values()))
        try:
            match = asked.find(index)
        except BadRequest:
            return
        if match is not None:
            yield match.route.name, f"It differs in {reason.format(_Words(by_id[match.route.id]))}."


class _Words:
    def __init__(self, route: RouteSpec) -> None:
        self.methods = ", ".join(sorted(route.methods))
        self.hosts = ", ".join(route.hosts)
        self.headers = "; ".join(map(_condition, route.headers))
        self.query = "; ".join(map(_condition, route.query))


def _condition(condition: Any) -> str:
    return f"{condition.name}: {' or '.join(condition.values)}" if condition.values else condition.name


class Explain(ConfigView):
    permissions = {"POST": ("routes.view_route", "routes.view_upstream", "routes.view_pluginsetting")}
    scopes = {"POST": "read"}

    @extend_schema(
        summary="Which route a request would take, and what happens on the way",
        request=ExplainWrite,
        responses=Explained,
        examples=[OpenApiExample("a request", examples.EXPLAIN, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        wanted = ExplainWrite.model_validate(request.data)
        consumer = Consumer.objects.filter(username=wanted.consumer).first() if wanted.consumer else None
        if wanted.consumer and consumer is None:
            raise Conflict(errors=[Fault(f"There is no consumer '{wanted.consumer}'.", "/consumer")])
        groups = frozenset(consumer.groups) if consumer else frozenset[str]()
        return Response(explain(live(), Asked.of(wanted), consumer.pk if consumer else 0, groups))
