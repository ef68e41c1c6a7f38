"""First steps: from an empty gateway to the first request in four steps, or with one form that does the first three."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path

from dashboard import latest
from dashboard.edits import SOURCE
from dashboard.models import UsageRow
from dashboard.page import Page
from dashboard.pages.requests import lines_of
from dashboard.snippets import PLACEHOLDER, door_of, snippets, traffic_url
from dashboard.timerange import RANGES, TimeRange
from keys.models import ApiKey, Consumer
from keys.services import consumer_create, key_create
from routes import services
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.problems import CompileError

WRITES = (
    "routes.add_upstream", "routes.add_target", "routes.add_route", "routes.add_routeupstream",
    "routes.add_pluginsetting", "keys.add_consumer", "keys.add_apikey",
)  # fmt: skip


class StartForm(forms.Form):
    """What an upstream, a route and a key need at least."""

    target = forms.CharField(
        label="Your service", max_length=300, help_text="Where it listens, such as http://10.0.0.5:9000."
    )
    path = forms.CharField(
        label="Path", max_length=1000, initial="/hello/*", help_text="What clients will ask for; * is everything below."
    )
    name = forms.CharField(label="Name", max_length=100, initial="hello", help_text="Of the upstream and the route.")
    key_auth = forms.BooleanField(label="Ask for an API key", required=False, initial=True)
    per_minute = forms.IntegerField(
        label="Requests per minute", required=False, min_value=1, max_value=1_000_000, help_text="Empty: no limit."
    )
    consumer = forms.CharField(
        label="Who calls", max_length=100, required=False, initial="first", help_text="The consumer the key is for."
    )

    def clean_target(self) -> tuple[str, str, int]:
        """(protocol, host, port)"""
        text = self.cleaned_data["target"].strip()
        parts = urlsplit(text if "://" in text else f"http://{text}")
        try:
            port = parts.port
        except ValueError:
            raise ValidationError("The port is a number from 1 to 65535.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValidationError("Write it like http://10.0.0.5:9000 or https://api.internal.")
        if parts.path not in ("", "/"):
            raise ValidationError("Only scheme, host and port; what goes upstream is the path of the request.")
        return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if values.get("key_auth") and not values.get("consumer"):
            self.add_error("consumer", "The key needs an owner.")
        return values


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    text: str
    done: bool
    command: str


class Start(Page):
    template_name = "dashboard/start.html"
    title, nav = "First steps", "start"
    permissions = ("routes.view_route",)
    writes = WRITES

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        route = context.pop("route", None) or _route(self.request)
        first = first_row(route, self.now) if route else None
        where = door_of(route, _key_auth(route)) if route else None
        context.setdefault("form", StartForm())
        return super().get_context_data(
            route=route,
            steps=steps(self.request, route),
            first=lines_of([first])[0] if first else None,
            snippets=snippets(traffic_url(self.request), where, context.get("secret", PLACEHOLDER)) if where else [],
            may_write=self.request.user.has_perms(WRITES),
            traffic_url=traffic_url(self.request),
            **context,
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        form = StartForm(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(form=form), status=422)
        try:
            route, secret = make(request, form.cleaned_data)
        except CompileError as error:
            for problem in error.problems:
                form.add_error(_field_of(problem.row, problem.field), problem.message)
        except ValidationError as error:
            _add_errors(form, error)
        else:
            context = self.get_context_data(route=route, **({"secret": secret} if secret else {}))
            headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
            return TemplateResponse(request, self.template_name, context, headers=headers)
        return self.render_to_response(self.get_context_data(form=form), status=422)


class First(Page):
    """The first request of a route, as a part of a page; 204 while there is none. For browsers without WebSocket."""

    template_name = "dashboard/parts/first.html"
    permissions = ("routes.view_route", "dashboard.view_usagerow")

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        route = _route(request)
        first = first_row(route, self.now) if route else None
        if first is None:
            return HttpResponse(status=204)
        return self.render_to_response(self.get_context_data(first=lines_of([first])[0], route=route))


def make(request: HttpRequest, values: dict[str, Any]) -> tuple[Route, str]:
    """All of it or nothing: rows, the version they go live with, and the key. Raises CompileError, ValidationError."""
    protocol, host, port = values["target"]
    comment = f"First steps: {values['name']}"
    with transaction.atomic():
        with services.change(author=request.user, source=SOURCE, comment=comment):
            upstream = _saved(Upstream(name=values["name"], protocol=protocol))
            _saved(Target(upstream=upstream, host=host, port=port))
            route = _saved(Route(name=values["name"], paths=[values["path"]]))
            _saved(RouteUpstream(route=route, upstream=upstream))
            if values["key_auth"]:
                _saved(PluginSetting(name="key-auth", route=route))
            if values["per_minute"]:
                _saved(PluginSetting(name="rate-limiting", route=route, config={"minute": values["per_minute"]}))
        return route, _key(request, values) if values["key_auth"] else ""


def _key(request: HttpRequest, values: dict[str, Any]) -> str:
    try:
        consumer = Consumer.objects.named(values["consumer"])
    except Consumer.DoesNotExist:
        consumer = consumer_create(values["consumer"], by=request.user)
    return key_create(consumer, name="first steps", by=request.user)[1]


def _saved(row: Any) -> Any:
    row.full_clean()
    row.save()
    return row


def first_row(route: Route, now: Any) -> UsageRow | None:
    """The newest request of the route, of the last day. One query."""
    span = TimeRange(now - RANGES["24h"][0], now)
    found = latest.page(latest.Wish(span.start, span.end, route_id=route.pk), size=1).rows
    return found[0] if found else None


def steps(request: HttpRequest, route: Route | None) -> list[Step]:
    """Each with the command that does it through the admin API. Three queries."""
    api = f"{request.scheme}://{request.get_host()}/admin/v1"
    name = route.name if route else "hello"
    upstream = route.upstreams.first() if route else None
    paths = (route.paths if route else None) or ["/hello/*"]
    return [
        Step("Upstream", "Where your service listens. It may have several targets.", Upstream.objects.exists(),
             _post(f"{api}/upstreams", {
                 "name": upstream.name if upstream else name, "targets": [{"host": "10.0.0.5", "port": 9000}]})),
        Step("Route", "Which requests go there, and through which plugins.", route is not None,
             _post(f"{api}/routes", {
                 "name": name, "paths": paths, "upstreams": [{"name": upstream.name if upstream else name}]})),
        Step("Key", "Who calls: a consumer, and a key that proves it.", ApiKey.objects.exists(),
             _post(f"{api}/keys", {"consumer": "first", "name": "first steps"})),
    ]  # fmt: skip


def _post(url: str, body: dict[str, Any]) -> str:
    return (
        f"curl -X POST {url} \\\n  -H 'Authorization: Bearer YOUR_TOKEN' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {quote(json.dumps(body))}"
    )


def _route(request: HttpRequest) -> Route | None:
    """The one asked for, else the newest."""
    wanted = request.GET.get("route", "")
    routes = Route.objects.order_by("-id")
    return (routes.filter(pk=int(wanted)) if re.fullmatch(r"\d{1,18}", wanted) else routes).first()


def _key_auth(route: Route) -> dict[str, Any]:
    setting = PluginSetting.objects.filter(name="key-auth", enabled=True, route=route, consumer=None).first()
    return setting.config if setting else {}


def _field_of(row: tuple[str, ...], field: tuple[str | int, ...]) -> str | None:
    if "targets" in row:
        return "target"
    places = {"name": "name", "paths": "path"}
    return places.get(str(field[0])) if field else None


def _add_errors(form: StartForm, error: ValidationError) -> None:
    places = {"host": "target", "port": "target", "paths": "path", "username": "consumer", "name": "name"}
    for field, faults in error.update_error_dict({}).items():
        place = None if field == NON_FIELD_ERRORS else places.get(field)
        form.add_error(place, [message for fault in faults for message in fault.messages])


urlpatterns = [
    path("start/", Start.as_view(), name="start"),
    path("start/first/", First.as_view(), name="start-first"),
]
