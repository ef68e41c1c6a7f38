"""Form fields friendly to people, and the form that shows a configuration's problems at its own fields."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ObjectDoesNotExist
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from routes import catalogue, masking
from routes.compile import config_problems
from routes.document import When
from routes.portable import dump, from_yaml
from routes.problems import CompileError, Problem, dotted
from routes.rows import ConfigRow, field_errors
from routes.widgets import ConfigWidget, fields_for, placed, placed_errors, prose


class LinesField(forms.Field):
    """A list as lines; where no word can hold a comma, commas separate too."""

    def __init__(self, *, commas: bool, **kwargs: Any) -> None:
        super().__init__(required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}), **kwargs)
        self.commas = commas

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:
        text = value or ""
        if isinstance(text, list):
            return text
        lines = (text.replace(",", "\n") if self.commas else text).splitlines()
        return [line.strip() for line in lines if line.strip()]


class ConditionsField(forms.Field):
    """`name` (must be there) or `name: value | value` on each line. JSON where that would not do."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        plain = "\n".join(f"{name}: {' | '.join(values)}" if values else name for name, values in value.items())
        return plain if _parse_conditions(plain) == value else json.dumps(value, ensure_ascii=False)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        text = (value or "").strip()
        if not text.startswith("{"):
            return _parse_conditions(text)
        try:
            return json.loads(text)
        except ValueError as error:
            raise forms.ValidationError(f"This starts like JSON, but is not: {error}.") from error


def _parse_conditions(text: str) -> dict[str, list[str]]:
    conditions: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, values = line.partition(":")
        conditions.setdefault(name.strip(), []).extend(filter(None, map(str.strip, values.split("|"))))
    return conditions


class WhenField(forms.Field):
    """YAML, as the file of a configuration has it: `methods: [POST]` on a line, `groups: [gold]` on the next."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = {"rows": 2, "placeholder": "methods: [POST, PUT]"}
        super().__init__(required=False, widget=UnfoldAdminTextareaWidget(attrs=attrs), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            return value or ""
        kinds = list(When.model_fields)  # PostgreSQL keeps no order
        ordered = sorted(value.items(), key=lambda item: kinds.index(item[0]) if item[0] in kinds else len(kinds))
        return dump(dict(ordered), flow=None).strip()

    def to_python(self, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        try:
            found = from_yaml(value or "") or {}
        except CompileError as error:
            raise forms.ValidationError([problem.message for problem in error.problems]) from None
        if not isinstance(found, dict):
            raise forms.ValidationError("A condition on each line, such as `methods: [POST]`.")
        return found


class ConfigField(forms.JSONField):
    """Its value is JSON text or, from the fields of the form, a dict. Nothing at all is the plugin's defaults."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "required": False, "widget": ConfigWidget()})

    def bound_data(self, data: Any, initial: Any) -> Any:
        return data

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return json.dumps(value, indent=2, ensure_ascii=False)
        return value

    def to_python(self, value: Any) -> Any:
        nothing = value in self.empty_values or (isinstance(value, str) and not value.strip())
        return {} if nothing else super().to_python(value)  # to Django a dict without fields is no value: None


class PluginField(forms.ChoiceField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=_plugins, widget=UnfoldAdminSelectWidget(), **kwargs)


def _plugins() -> list[tuple[str, str]]:
    return [("", "Select a plugin"), *((name, name) for name in catalogue.registry().names)]


class ConfigForm(forms.ModelForm):
    """`problems` are those of a configuration that this very form led to: the edit was refused, and this says why.

    A problem of the form's own row stands at its field. The main form (of the page, not of an inline row) also names
    all others, so that none is lost.
    """

    problems: ClassVar[tuple[Problem, ...]] = ()
    is_main: ClassVar[bool] = False
    instance: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shape = getattr(self.instance, "shape", None)
        for name, field in self.fields.items():
            if shape is not None and name in shape.model_fields and not isinstance(field, PluginField | ConfigField):
                field.help_text = prose(shape.model_fields[name].description or "")
            if not self.is_main:  # a row of a table has its labels in the table's head, which belong to no field
                field.widget.attrs.setdefault("aria-label", field.label or name)
        for name in masking.UPSTREAM_SECRETS:
            if name in self.fields and self.instance.pk:
                self.initial[name] = masking.stand_in(getattr(self.instance, name))
        plugin = self.fields.get("name")
        if isinstance(plugin, PluginField) and self.instance.pk and self.instance.name not in catalogue.registry():
            # A setting of a plugin that is gone can still be shown, disabled and deleted.
            plugin.choices = [*_plugins(), (self.instance.name, f"{self.instance.name} (not installed)")]
        if isinstance(self.fields.get("config"), ConfigField):
            self.fields["config"].widget.plugin = (self["name"].value() or "") if plugin else self.instance.name
            if self.instance.pk:
                self.initial["config"] = masking.mask(self.instance.name, self.instance.config)

    def clean_config(self) -> Any:
        """With the secrets that the form only had stand-ins for."""
        plugin = self.cleaned_data.get("name", self.instance.name)
        stored = self.instance.config if self.instance.pk and plugin == self.instance.name else {}
        config, faults = masking.unmask(plugin, self.cleaned_data["config"], stored)
        if faults:
            raise forms.ValidationError([f"{dotted(path)}: {said}" for path, said in faults])
        return config

    def clean_tls_client_key(self) -> Any:
        stored = {"tls_client_key": self.instance.tls_client_key} if self.instance.pk else {}
        entry, faults = masking.unmask_upstream({"tls_client_key": self.cleaned_data["tls_client_key"]}, stored)
        if faults:
            raise forms.ValidationError([said for _, said in faults])
        return entry["tls_client_key"]

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound:
            return
        for problem in self.problems:
            if problem.row == self._row():
                field, *place = problem.field or (None,)
                text = f"{dotted(tuple(place))}: {problem.message}" if place else problem.message
                self.add_error(None if field is None else str(field), text)
            elif self.is_main:
                self.add_error(None, str(problem))
        config = self.fields.get("config")
        if isinstance(config, ConfigField) and self.has_error("config") and config.widget.mode == "fields":
            self._errors_to_fields(config.widget)

    def _errors_to_fields(self, widget: ConfigWidget) -> None:
        """What a field of the config can show leaves the list below them all."""
        errors = placed_errors(self.instance.name, self.instance.config)
        faults = config_problems(self.instance.name, self.instance.config, catalogue.registry(), catalogue.references())
        moved = {
            sentence
            for path, message in faults
            if placed(fields_for(self.instance.name), path[1:])
            for sentence in field_errors([(path, message)]).messages
        }
        kept = [str(sentence) for sentence in self.errors["config"] if sentence not in moved]
        widget.errors = {path: sentences for path, sentences in errors.items() if path}
        self.errors["config"] = self.error_class(kept or ["See the fields above."])

    def add_error(self, field: str | None, error: Any) -> None:
        """Fields this page does not show have their errors at the top."""
        if field is None and hasattr(error, "error_dict"):
            for name, errors in error.error_dict.items():
                super().add_error(name if name in self.fields else None, errors)
            return
        super().add_error(field if field in self.fields else None, error)

    def _row(self) -> tuple[str, ...]:
        try:
            return self.instance.row if self.is_main or self.has_changed() or self.instance.pk else ()
        except ObjectDoesNotExist:  # an inline row whose upstream was not chosen
            return ()


class ConfigFormSet(PaginationInlineFormSet):
    """Knows the parent also while it is new, and finds two settings of one scope, which the database would refuse."""

    hides: ClassVar[bool] = False  # secrets of rows that are only looked at

    def _construct_form(self, i: int, **kwargs: Any) -> Any:
        form = super()._construct_form(i, **kwargs)
        setattr(form.instance, self.fk.name, self.instance)
        if self.hides and form.instance.pk:
            form.instance.config = masking.hidden(form.instance.name, form.instance.config)
        return form

    def clean(self) -> None:
        super().clean()
        seen: set[tuple[str, ...]] = set()
        for form in self.forms:
            ignored = form.errors or (self.can_delete and self._should_delete_form(form))
            if ignored or not isinstance(form.instance, ConfigRow) or not (form.has_changed() or form.instance.pk):
                continue
            if form.instance.row in seen:
                form.add_error(None, "This is there twice.")
            seen.add(form.instance.row)
