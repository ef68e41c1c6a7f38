"""Reference pages made from code, so that they cannot be wrong: settings and metrics."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from pydantic.fields import FieldInfo

from gateway.environment import FROM_FILE, Environment, variable
from gateway.proxy import metrics

COMPUTED = {"workers": "number of cores", "node": "this machine's name", "data_dir": "`var` in the project"}


def settings_page() -> str:
    """`docs/settings.md`."""
    return "\n".join([
        "# Settings",
        "",
        "Environment variables, and nothing else. Values that cannot be used stop the start, all named at once.",
        f"{', '.join(f'`{name}`' for name in FROM_FILE)} may come from a file: `SECRET_KEY_FILE=/run/secrets/key`.",
        "",
        "| variable | type | default | what it does |",
        "|---|---|---|---|",
        *(_setting(name, field) for name, field in Environment.model_fields.items()),
        "",
    ])  # fmt: skip


def _setting(name: str, field: FieldInfo) -> str:
    text = (field.description or "").replace("\n", " ")
    return f"| `{variable(str(field.validation_alias or name))}` | {_type(field)} | {_default(name, field)} | {text} |"


def _type(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    bounds = [f"{sign} {value:,}" for sign, value in _bounds(field)]
    names = {str: "text", int: "whole number", float: "number", bool: "`on`, `off`", list: "list"}
    name = names.get(get_origin(kind) or kind, "path")
    return " ".join([name, *bounds])


def _bounds(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    for sign, attribute in ((">", "gt"), ("≥", "ge"), ("≤", "le")):
        for rule in field.metadata:
            if (value := getattr(rule, attribute, None)) is not None:
                yield sign, value


def _default(name: str, field: FieldInfo) -> str:
    if name in COMPUTED:
        return COMPUTED[name]
    value = field.default
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    if isinstance(value, list):
        return "<br>".join(f"`{part}`" for part in value) or "none"
    return f"`{value}`" if value not in ("", None) else "none"


def metrics_page() -> str:
    """`docs/metrics.md`."""
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    found.append(metrics._config_version())
    return "\n".join([
        "# Metrics",
        "",
        "`/metrics` in Prometheus' text format, for all processes of a node: on the admin role, on a proxy node's",
        "loopback status port, on the one port of `up`. Labels come from configuration, never from a request.",
        "",
        "| metric | kind | labels | what it counts |",
        "|---|---|---|---|",
        *(_metric(metric) for metric in found),
        "",
        "The control plane's own requests are measured by django-prometheus (`django_http_*`).",
        "",
    ])  # fmt: skip


def _metric(metric: MetricWrapperBase) -> str:
    kind = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}[type(metric)]
    name = metric._name + ("_total" if kind == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "none"
    return f"| `{name}` | {kind} | {labels} | {metric._documentation} |"


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}
