"""Django admin pages of whatever has a secret: keys of consumers, tokens of the admin API.

A secret leaves the server in exactly one response: the page rendered straight from the POST that made it. It never
passes the session, a message, the history (LogEntry) or a URL, and that page is not cached.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from keys.models import Issued, in_state
from keys.trail import Audited, Author

STATE_COLOURS = {"live": "success", "expired": "warning", "revoked": "danger"}


class RevokeForm(forms.Form):
    reason = forms.CharField(max_length=150, required=False, widget=UnfoldAdminTextInputWidget)


class StateFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in STATE_COLOURS]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        state = self.value()
        return queryset.filter(in_state(state, timezone.now())) if state in STATE_COLOURS else queryset


class SuperuserDeletes:
    """Deleting rewrites history: usage rows would name ids that are gone. Disabling and revoking are for everyone."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_active and request.user.is_superuser)


class IssuedAdmin(Audited, SuperuserDeletes, ModelAdmin):
    """Subclasses say `entered`, `owner`, `issue`, `end` and `end_warning`, and have a template of how to use it."""

    entered: ClassVar[tuple[str, ...]]  # fields of the form
    owner: ClassVar[str]  # the field that says whose it is, fixed once it is made
    usage_template: ClassVar[str]
    end_warning: ClassVar[str]
    facts: tuple[str, ...] = (
        "hint",
        "state_label",
        "created_at",
        "created_by",
        "last_used_at",
        "revoked_at",
        "revoked_reason",
    )
    actions = ("revoke_selected",)
    list_per_page = 50

    def issue(self, row: Any, by: Author) -> str:
        """Saves a new row and returns its secret."""
        raise NotImplementedError

    def end(self, row: Any, by: Author, reason: str) -> None:
        raise NotImplementedError

    def get_fields(self, request: HttpRequest, obj: Issued | None = None) -> tuple[str, ...]:
        return (*self.entered, *(self.facts if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: Issued | None = None) -> tuple[str, ...]:
        return (self.owner, *self.facts) if obj else ()

    @display(ordering="prefix")
    def hint(self, row: Issued) -> str:
        return str(row)

    @display(description="state", label=STATE_COLOURS)
    def state_label(self, row: Issued) -> str:
        return row.state

    # --- adding: the one page with the secret ------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: Issued, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            request.issued_secret = self.issue(obj, request.user)  # type: ignore[attr-defined]

    def log_addition(self, request: HttpRequest, obj: Issued, message: Any) -> None:
        """`issue` did."""

    def response_add(self, request: HttpRequest, obj: Issued, post_url_continue: str | None = None) -> HttpResponse:
        return self.secret_page(request, obj, request.issued_secret)  # type: ignore[attr-defined]

    def secret_page(self, request: HttpRequest, row: Issued, secret: str) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{self._kind.capitalize()} {row} for {getattr(row, self.owner)}",
            "heading": f"Copy the {self._kind} now",
            "kind": self._kind,
            "usage": self.usage_template,
            "list": self._url("changelist"),
            "secret": secret,
            "row": row,
        }
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return TemplateResponse(request, "keys/secret.html", context, headers=headers)

    # --- actions -----------------------------------------------------------------------------------------

    @action(description="Revoke", icon="block", permissions=["change"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row_of(request, object_id)
        form = RevokeForm(request.POST or None)
        if request.method != "POST" or not form.is_valid():
            text = f"{self.end_warning} It cannot be undone."
            return self.ask(request, form, f"Revoke {row} of {getattr(row, self.owner)}", text, "Revoke")
        self._end(request, [row], form.cleaned_data["reason"])
        return HttpResponseRedirect(self._url("change", row.pk))

    @admin.action(description="Revoke", permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        confirmed = "confirmed" in request.POST
        form = RevokeForm(request.POST if confirmed else None)
        if not form.is_valid():
            chosen = [("action", "revoke_selected"), ("confirmed", "yes")]
            chosen += [(ACTION_CHECKBOX_NAME, str(row.pk)) for row in queryset]
            things = [f"{row} {row.name} ({getattr(row, self.owner)})" for row in queryset]
            text = f"{self.end_warning} It cannot be undone."
            return self.ask(request, form, f"Revoke {len(things)} {self._kind}s", text, "Revoke", chosen, things)
        self._end(request, list(queryset), form.cleaned_data["reason"])
        return None

    def _end(self, request: HttpRequest, rows: list[Any], reason: str) -> None:
        for row in rows:
            self.end(row, request.user, reason)
        self.message_user(request, f"Revoked: {', '.join(map(str, rows[:10]))}", messages.SUCCESS)

    def row_of(self, request: HttpRequest, object_id: str) -> Any:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404(f"There is no such {self._kind}.")
        if not self.has_change_permission(request, row):
            raise PermissionDenied
        return row

    def ask(
        self,
        request: HttpRequest,
        form: forms.Form,
        title: str,
        text: str,
        verb: str,
        hidden: list[tuple[str, str]] | None = None,
        things: list[str] | None = None,
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "text": text,
            "verb": verb,
            "form": form,
            "hidden": hidden or [],
            "things": things or [],
        }
        return TemplateResponse(request, "keys/ask.html", context)

    @property
    def _kind(self) -> str:
        return str(self.opts.verbose_name).split()[-1]

    def _url(self, page: str, *args: Any) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{page}", args=args)
