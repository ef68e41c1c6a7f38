"""Django admin on the working copy: what is saved is published in the same transaction, or nothing is saved.

Django's own save path is kept. The publish is its last write (`save_related`, `delete_model`, `delete_queryset`),
before any message of success; if the configuration does not compile, everything is rolled back and the same page is
built again with the problems in its forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.postgres.fields import ArrayField
from django.db.models import JSONField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold.admin import ModelAdmin, StackedInline, TabularInline

from routes import services
from routes.forms import ConditionsField, ConfigField, ConfigForm, ConfigFormSet, LinesField, PluginField, WhenField
from routes.models import PluginSetting
from routes.problems import CompileError

#: How long a page waits to say how many workers serve the new version.
APPLIED_WAIT_S = 1.0


class ConfigFields:
    """The form fields of the working copy, on pages and inline."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        label = db_field.verbose_name[:1].upper() + db_field.verbose_name[1:]
        if isinstance(db_field, ArrayField):
            return LinesField(commas=db_field.name != "paths", label=label)
        if isinstance(db_field, JSONField):
            kinds = {"config": ConfigField, "when": WhenField}
            return kinds.get(db_field.name, ConditionsField)(label=label)
        if db_field.model is PluginSetting and db_field.name == "name":
            return PluginField(label=label)
        return super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]


class ConfigAdmin(ConfigFields, ModelAdmin):
    warn_unsaved_form = True
    list_per_page = 50

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **{"form": _form(request, is_main=True), **kwargs})

    def changeform_view(
        self, request: Any, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        view = super().changeform_view
        if request.method != "POST":
            return view(request, object_id, form_url, extra_context)
        try:
            return self._change(request, lambda: view(request, object_id, form_url, extra_context))
        except CompileError as error:
            request.problems = error.problems
            return view(request, object_id, form_url, extra_context)

    def delete_view(self, request: Any, object_id: str, extra_context: Any = None) -> Any:
        view = super().delete_view
        if request.method != "POST":
            return view(request, object_id, extra_context)
        return self._change_or_refuse(request, lambda: view(request, object_id, extra_context))

    def changelist_view(self, request: Any, extra_context: Any = None) -> Any:
        view = super().changelist_view
        if request.method != "POST":
            return view(request, extra_context)
        return self._change_or_refuse(request, lambda: view(request, extra_context))

    # The last writes of Django's own save and delete paths.

    def save_related(self, request: Any, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        self.settle(request, f"{'Changed' if change else 'Added'} {self._called(form.instance)}.")

    def delete_model(self, request: Any, obj: Any) -> None:
        called = self._called(obj)
        super().delete_model(request, obj)
        self.settle(request, f"Deleted {called}.")

    def delete_queryset(self, request: Any, queryset: Any) -> None:
        called = ", ".join(self._called(row) for row in queryset)
        super().delete_queryset(request, queryset)
        self.settle(request, f"Deleted {called}.")

    # The audit trail is written by `services`, which knows what became of every row.

    def log_addition(self, request: Any, obj: Any, message: Any) -> None:
        pass

    def log_change(self, request: Any, obj: Any, message: Any) -> None:
        pass

    def log_deletions(self, request: Any, queryset: Any) -> None:
        pass

    def update_rows(self, request: Any, queryset: Any, done: str, **fields: Any) -> None:
        """A list action: sets the fields of the rows, as one version."""
        rows = list(queryset)
        queryset.model.objects.filter(pk__in=[row.pk for row in rows]).update(**fields)
        self.settle(request, f"{done} {', '.join(map(str, rows))}.")

    def settle(self, request: Any, comment: str) -> None:
        """Publish what was just written. Raises CompileError, which the view turns into problems on the page."""
        request.change.comment = comment
        request.change.settle()

    def _called(self, row: Any) -> str:
        return f"{self.opts.verbose_name} {row}"

    def _change(self, request: Any, view: Callable[[], HttpResponse]) -> HttpResponse:
        with services.change(author=request.user, source="admin") as request.change:
            response = view()
            wrote, request.change.settled = request.change.settled, True  # a refused form wrote nothing
        if wrote:
            tell(request, request.change)
        return response

    def _change_or_refuse(self, request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
        try:
            return self._change(request, view)
        except CompileError as error:
            for problem in error.problems:
                messages.error(request, f"Nothing was changed. {problem}")
            return HttpResponseRedirect(request.get_full_path())


class ConfigInline(ConfigFields):
    formset = ConfigFormSet
    extra = 0
    show_change_link = False

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        form = _form(request, is_main=False)
        return super().get_formset(request, obj, **{"form": form, **kwargs})  # type: ignore[misc]


class ConfigTabularInline(ConfigInline, TabularInline):
    pass


class ConfigStackedInline(ConfigInline, StackedInline):
    pass


def _form(request: HttpRequest, *, is_main: bool) -> type[ConfigForm]:
    return type("ConfigForm", (ConfigForm,), {"problems": getattr(request, "problems", ()), "is_main": is_main})


def tell(request: HttpRequest, change: services.Change) -> None:
    """What became of an edit, after its commit."""
    if change.version is not None:
        announce(request, change.version.number)
    elif change.remaining:
        messages.warning(request, "Saved, but not published: the configuration had problems before and still has some.")
        for problem in change.remaining:
            messages.warning(request, str(problem))
    else:
        messages.info(request, "Saved as a draft. It goes live when somebody publishes it.")


def announce(request: HttpRequest, number: int) -> None:
    report = services.wait_applied(number, APPLIED_WAIT_S)
    messages.info(request, f"Version {number}: {report}.")
    for error in report.errors:
        messages.error(request, error)
