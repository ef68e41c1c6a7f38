"""`GET /plugins`: the plugins this gateway knows, with what their settings may say."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.api.lists import check_parameters
from routes.api.shapes import PluginList, PluginRead
from routes.api.views import ConfigView
from routes.catalogue import registry

_MAY = {"GET": ("routes.view_pluginsetting",)}


def show(name: str) -> dict[str, Any]:
    plugins = registry()
    plugin = plugins[name]
    return {
        "name": name,
        "description": _description(plugin),
        "phases": list(plugin.hooks()),
        "identifies": plugin.identifies,
        "position": plugins.position(name),
        "schema": plugins.schema(name),
    }


def _description(plugin: Any) -> str:
    """The plugin's own docstring, else its module's: one plugin, one file. The first paragraph, without the name."""
    text = vars(plugin).get("__doc__") or sys.modules[plugin.__module__].__doc__ or ""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].removeprefix(f"{plugin.name}:").split())


class Plugins(ConfigView):
    permissions = _MAY

    @extend_schema(summary="List plugins in the order they run", responses=PluginList)
    def get(self, request: Request) -> Response:
        check_parameters(request, ())
        return Response({"items": [show(name) for name in registry().names]})


class PluginView(ConfigView):
    permissions = _MAY

    @extend_schema(
        summary="Show a plugin",
        parameters=[OpenApiParameter("name", str, OpenApiParameter.PATH, description="The plugin's name.")],
        responses=PluginRead,
    )
    def get(self, request: Request, name: str) -> Response:
        check_parameters(request, ())
        if name not in registry():
            raise NotFound(f"There is no plugin '{name}'. There are: {', '.join(registry().names)}.")
        return Response(show(name))
