"""Ready lines to call a route: curl, Python, JavaScript. The door they use is one this configuration really has."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from shlex import quote
from urllib.parse import quote as url_quote

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.http import HttpRequest

from gateway.plugins.key_auth import KeyAuthConfig
from routes.models import PluginSetting, Route

PLACEHOLDER = "YOUR_KEY"
_PARAMETER = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Door:
    """A request that reaches a route. `header`: where its key goes. `host`: the Host it needs; "": any."""

    route: Route | None
    method: str = "GET"
    path: str = "/"
    host: str = ""
    header: str = "apikey"


@dataclass(frozen=True, slots=True)
class Snippet:
    slug: str
    language: str
    text: str


def traffic_url(request: HttpRequest) -> str:
    """Where traffic is served, as far as this page knows: here, or on the proxy's port of the same machine."""
    if settings.ENVIRONMENT.role != "admin":
        return f"{request.scheme}://{request.get_host()}"
    name = re.sub(r":\d+$", "", request.get_host())
    return f"http://{name}:{settings.ENVIRONMENT.port}"


def door() -> Door:
    """A route that asks for a key, else any enabled one. Two queries."""
    guards = PluginSetting.objects.filter(name="key-auth", enabled=True, consumer=None)
    everywhere = guards.filter(route=None, upstream=None)
    found = (
        Route.objects.filter(enabled=True)
        .annotate(guarded=Exists(guards.filter(Q(route=OuterRef("pk")) | Q(upstream__routes=OuterRef("pk")))))
        .order_by("-guarded", "name")
        .first()
    )
    if found is None:
        return Door(None)
    own = guards.filter(Q(route=found) | Q(upstream__routes=found)) | everywhere
    setting = max(own, key=lambda guard: (bool(guard.route_id), bool(guard.upstream_id)), default=None)
    return door_of(found, setting.config if setting else {})


def door_of(route: Route, key_auth: dict[str, object]) -> Door:
    """`key_auth`: the plugin's config on that route."""
    names = key_auth.get("key_names") or KeyAuthConfig.model_fields["key_names"].default
    header = str(names[0]) if isinstance(names, list | tuple) and names else "apikey"
    method = "GET" if not route.methods or "GET" in route.methods else route.methods[0]
    return Door(route, method, _path(route.paths), route.hosts[0].replace("*", "www") if route.hosts else "", header)


def snippets(url: str, where: Door, secret: str = PLACEHOLDER) -> list[Snippet]:
    address = url + where.path
    headers = {where.header: secret} | ({"Host": where.host} if where.host else {})
    return [
        Snippet("curl", "curl", curl(address, where.method, headers)),
        Snippet("python", "Python", _python(address, where.method, headers)),
        Snippet("javascript", "JavaScript", _javascript(address, where.method, {where.header: secret})),
    ]


def curl(address: str, method: str, headers: dict[str, str]) -> str:
    words = ["curl", "-i", *(["-X", method] if method != "GET" else [])]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    return " ".join(map(quote, [*words, address]))


def _python(address: str, method: str, headers: dict[str, str]) -> str:
    return (
        "import httpx\n\n"
        f"answer = httpx.request({method!r}, {address!r}, headers={headers!r})\n"
        "print(answer.status_code, answer.text)"
    )


def _javascript(address: str, method: str, headers: dict[str, str]) -> str:
    """A browser sets Host by itself."""
    options = json.dumps({"method": method, "headers": headers})
    call = f"const answer = await fetch({json.dumps(address)}, {options});"
    return f"{call}\nconsole.log(answer.status, await answer.text());"


def _path(paths: list[str]) -> str:
    plain = next((path for path in paths if not path.startswith("~")), "/")
    example = plain.removesuffix("*") + ("hello" if plain.endswith("/*") else "")
    return url_quote(_PARAMETER.sub("1", example), safe="/%:@!$&'()*+,;=~-._")
