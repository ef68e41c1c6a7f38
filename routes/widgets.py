"""The form of one plugin's config: a widget for each of its fields, or the whole as JSON; one of them at a time.

The browser holds no second copy to keep in step: to change the tab, the plugin or the number of rows, it posts what
stands in the form and gets the form drawn anew (`PluginSettingAdmin.config_view`, `plugin_config.js`). In the form data
`<name>.<path>` are the fields, `<name>` is the JSON, `<name>~plugin` whose fields they are, `<name>~as` which counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from django import forms
from django.template.loader import render_to_string
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from unfold.widgets import BASE_INPUT_CLASSES, SELECT_CLASSES, SWITCH_CLASSES

from routes import catalogue, masking
from routes.compile import config_problems
from routes.fields import Field, can_say, config_of, fields_of, shown, texts_of

CLASSES = {
    "input": " ".join(BASE_INPUT_CLASSES),
    "select": " ".join(name for name in SELECT_CLASSES if name != "max-w-2xl"),
    "switch": " ".join(SWITCH_CLASSES),
}
Errors = Mapping[str, list[str]]


class ConfigWidget(forms.Widget):
    """The form sets `plugin`, `errors` (path → sentences) and `mode`: "fields", "json", or "" for fields if they can
    say it.
    """

    plugin = ""
    mode = ""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__(attrs)
        self.errors: Errors = {}

    class Media:
        css = {"all": ["routes/plugin_config.css"]}
        js = ["routes/plugin_config.js"]

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> Any:
        self.mode = data.get(f"{name}~as", "")
        if self.mode != "fields":
            return data.get(name)
        inside = {key.removeprefix(f"{name}."): data[key] for key in data if key.startswith(f"{name}.")}
        return config_of(fields_for(data.get(f"{name}~plugin", "")), inside)

    def value_omitted_from_data(self, data: Mapping[str, Any], files: Any, name: str) -> bool:
        return name not in data and f"{name}~as" not in data

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        config = read(value or "{}")
        fields = fields_for(self.plugin)
        as_fields = self.mode != "json" and self.plugin in catalogue.registry() and can_say(fields, config)
        text = value if isinstance(config, str) else json.dumps(config, indent=2, ensure_ascii=False)
        shapes = {field.name: field for field in fields}
        context = {
            "name": name,
            "id": (attrs or {}).get("id") or f"id_{name}",
            "plugin": self.plugin,
            "known": self.plugin in catalogue.registry(),
            "mode": "fields" if as_fields else "json",
            "refused": self.mode != "json" and bool(fields) and not as_fields,
            "text": "" if text == "{}" and not self.mode else text,
            "fields": _drawn(fields, texts_of(fields, config), name, "", self.errors) if as_fields else [],
            "errors": [] if as_fields or not shapes else sorted(self.errors.items()),
            "classes": CLASSES,
        }
        return render_to_string("routes/config/form.html", context)


def redrawn(posted: Mapping[str, Any]) -> str:
    """The form again after `action`: another "plugin", the tab "fields" or "json", a row to "add" or "remove".

    `field` is its name in the form, `plugin` the one to draw it for, `path` where rows are.
    """
    name, action, widget = posted.get("field", ""), posted.get("action", ""), ConfigWidget()
    text = widget.value_from_datadict(posted, {}, name) or "{}"
    config = read(text)
    widget.plugin = posted.get("plugin", "")
    if action == "plugin":
        config, widget.mode = {}, ""
    elif not isinstance(config, dict):
        said = "The config must be an object with fields." if text != config else "This is not valid JSON."
        widget.mode, widget.errors = "json", {"": [said]}
    elif action in ("add", "remove"):
        _change_rows(config, posted.get("path", ""), action)
    else:
        widget.mode = action
        if config and action == "fields":
            texts = texts_of(fields_for(widget.plugin), config)
            errors = placed_errors(widget.plugin, config)
            # Only the secret itself can be right or wrong, and a stand-in is all there is of it here.
            widget.errors = {path: said for path, said in errors.items() if not masking.is_stand_in(texts.get(path))}
    return widget.render(name, text if isinstance(config, str) else json.dumps(config))


def placed_errors(plugin: str, config: Any) -> Errors:
    """What is wrong with a config, at its fields."""
    errors: dict[str, list[str]] = {}
    for (_, *path), message in config_problems(plugin, config, catalogue.registry(), catalogue.references()):
        errors.setdefault(placed(fields_for(plugin), tuple(path)), []).append(message)
    return errors


def _change_rows(config: dict[str, Any], path: str, action: str) -> None:
    *parents, last = path.split(".")
    rows: Any = config
    for part in parents if action == "remove" else [*parents, last]:
        if isinstance(rows, list):
            rows = rows[int(part)] if part.isdecimal() and int(part) < len(rows) else {}
        else:
            rows = rows.setdefault(part, [] if part == path.split(".")[-1] or action == "remove" else {})
    if not isinstance(rows, list):
        return
    if action == "add":
        rows.append({})
    elif last.isdecimal() and int(last) < len(rows):
        del rows[int(last)]


def fields_for(plugin: str) -> tuple[Field, ...]:
    """None of a plugin that is not there."""
    registry = catalogue.registry()
    return fields_of(registry[plugin].Config) if plugin in registry else ()


def read(text: Any) -> Any:
    """A config; a text that is no JSON as it is."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def placed(fields: tuple[Field, ...], path: tuple[str | int, ...]) -> str:
    """The dotted path of the deepest field on the way; "": none of them."""
    place: list[str] = []
    for position, part in enumerate(path):
        found = next((field for field in fields if field.name == part), None)
        if found is None:
            break
        place.append(found.name)
        if found.kind == "rows" and len(path) > position + 2 and isinstance(path[position + 1], int):
            inner = placed(found.fields, path[position + 2 :])
            return ".".join([*place, str(path[position + 1]), inner]) if inner else ".".join(place)
        fields = found.fields
    return ".".join(place)


def _drawn(fields: tuple[Field, ...], texts: Mapping[str, str], name: str, path: str, errors: Errors) -> list[Any]:
    """What the template needs of each field, nested as they are."""
    drawn = []
    for field in fields:
        place = path + field.name
        text = texts.get(place, "")
        one: dict[str, Any] = {
            "field": field, "path": place, "name": f"{name}.{place}", "id": f"id_{name}.{place}", "text": text,
            "on": place in texts, "said": texts.get(f"{place}~said"), "errors": errors.get(place, []),
            "help": _help(field), "placeholder": _placeholder(field), "numeric": not text or _is_number(text),
            "choices": [(shown(choice), shown(choice) == text) for choice in field.choices],
        }  # fmt: skip
        if field.kind == "group":
            one["fields"] = _drawn(field.fields, texts, name, f"{place}.", errors)
        if field.kind == "rows":
            count = sum(re.fullmatch(re.escape(place) + r"\.\d+", key) is not None for key in texts)
            one["rows"] = [_drawn(field.fields, texts, name, f"{place}.{row}.", errors) for row in range(count)]
        drawn.append(one)
    return drawn


def _placeholder(field: Field) -> str:
    """The default, as it would stand in the field."""
    if field.default in (None, "", []):
        return ""
    return "\n".join(map(shown, field.default)) if isinstance(field.default, list) else shown(field.default)


def _help(field: Field) -> SafeString:
    """Help text and bounds."""
    parts = [field.help]
    if field.low is not None and field.high is not None:
        parts.append(f"{field.low:,} to {field.high:,}.")
    if field.kind == "lines":
        parts.append("One per line" + (f": {', '.join(map(shown, field.choices))}." if field.choices else "."))
    return prose(" ".join(filter(None, parts)))


def prose(text: str) -> SafeString:
    """As HTML; what stands in backticks is code."""
    return mark_safe(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))  # noqa: S308 (escaped)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
