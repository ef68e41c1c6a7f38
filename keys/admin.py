"""Consumers and API keys in the dashboard.

A secret leaves the server in exactly one response: the page rendered straight from the POST that made the key. It
never passes the session, a message, the history (LogEntry) or a URL, and that page is not cached.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from keys import services
from keys.models import ApiKey, Consumer

STATE_COLOURS = {"live": "success", "expired": "warning", "revoked": "danger"}
OVERLAPS = {0: "none: it ends now", 3600: "1 hour", 86_400: "1 day", 604_800: "1 week", 2_592_000: "30 days"}
# The message is given anew because a form replaces the model's own with a bare "did not validate:".
WORDS_AS_TEXT = {
    ArrayField: {
        "widget": UnfoldAdminTextInputWidget,
        "error_messages": {"item_invalid": "Item %(nth)s: letters, digits and _ . : / * - only, at most 64 of them."},
    }
}


class RotateForm(forms.Form):
    overlap_s = forms.TypedChoiceField(
        label="The old key works on for",
        choices=list(OVERLAPS.items()),
        coerce=int,
        initial=86_400,
        widget=UnfoldAdminSelectWidget,
    )


class RevokeForm(forms.Form):
    reason = forms.CharField(max_length=150, required=False, widget=UnfoldAdminTextInputWidget)


class KeyStateFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in STATE_COLOURS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "revoked":
                return queryset.exclude(revoked_at=None)
            case "expired":
                return queryset.filter(expired, revoked_at=None)
            case "live":
                return queryset.filter(~expired | Q(expires_at=None), revoked_at=None)
        return queryset


class SuperuserDeletes:
    """Deleting rewrites history: usage rows would name ids that are gone. Disabling and revoking are for everyone."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_active and request.user.is_superuser)


class KeyInline(TabularInline):
    """A list to look at; keys are made and changed on their own pages."""

    model = ApiKey
    fields = readonly_fields = ("prefix", "name", "state", "scopes", "expires_at", "last_used_at")
    extra, per_page = 0, 20
    show_change_link = True
    can_delete = False
    tab = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Consumer)
class ConsumerAdmin(SuperuserDeletes, ModelAdmin):
    list_display = ("username", "custom_id", "groups", "enabled", "key_count", "created_at")
    list_filter = ("enabled",)
    search_fields = ("username", "custom_id", "groups", "tags", "note")
    fields = ("username", "custom_id", "groups", "tags", "enabled", "note", "created_at", "updated_at")
    readonly_fields = ("created_at", "updated_at")
    formfield_overrides = WORDS_AS_TEXT
    inlines = (KeyInline,)
    actions = ("enable", "disable")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Consumer]:
        return super().get_queryset(request).annotate(key_total=Count("keys"))

    @display(description="keys", ordering="key_total")
    def key_count(self, consumer: Consumer) -> int:
        return consumer.key_total  # type: ignore[attr-defined]  # annotated above

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Consumer]) -> None:
        self._each(request, queryset, services.consumer_enable, "Enabled.")

    @admin.action(description="Disable: refuse all their keys", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Consumer]) -> None:
        self._each(request, queryset, services.consumer_disable, "Disabled.")

    def _each(
        self, request: HttpRequest, queryset: QuerySet[Consumer], step: Callable[[Consumer], None], done: str
    ) -> None:
        for consumer in queryset:
            step(consumer)
            self.log_change(request, consumer, done)
        self.message_user(request, f"{done[:-1]}: {', '.join(map(str, queryset[:10]))}.", messages.SUCCESS)


@admin.register(ApiKey)
class ApiKeyAdmin(SuperuserDeletes, ModelAdmin):
    list_display = ("hint", "name", "consumer", "state_label", "scopes", "expires_at", "last_used_at", "created_at")
    list_filter = (KeyStateFilter, "created_at")
    list_select_related = ("consumer",)
    search_fields = ("prefix", "name", "consumer__username", "consumer__custom_id")
    search_help_text = "Prefix, name or consumer. Not the whole key: it is a secret."
    autocomplete_fields = ("consumer",)
    formfield_overrides = WORDS_AS_TEXT
    facts = (
        "hint",
        "state_label",
        "created_at",
        "created_by",
        "last_used_at",
        "revoked_at",
        "revoked_reason",
        "rotated_from",
    )
    actions = ("revoke_selected",)
    actions_detail = ("rotate", "revoke")

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return ("consumer", "name", "scopes", "expires_at", *(self.facts if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return ("consumer", *self.facts) if obj else ()

    @display(description="key", ordering="prefix")
    def hint(self, key: ApiKey) -> str:
        return str(key)

    @display(description="state", label=STATE_COLOURS)
    def state_label(self, key: ApiKey) -> str:
        return key.state

    # --- adding: the one page with the secret ------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            request.issued_secret = services.key_issue(obj, by=request.user.get_username())  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        return self._secret_page(request, obj, request.issued_secret)  # type: ignore[attr-defined]

    def _secret_page(self, request: HttpRequest, key: ApiKey, secret: str) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Key {key.prefix}… for {key.consumer}",
            "secret": secret,
            "key": key,
        }
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return TemplateResponse(request, "keys/secret.html", context, headers=headers)

    # --- actions -----------------------------------------------------------------------------------------

    @action(description="Rotate", icon="autorenew", permissions=["change"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key(request, object_id)
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = RotateForm(request.POST or None)
        if not form.is_valid():
            text = "A new key takes over: same consumer, name, scopes and lifetime. The new secret is shown once."
            return self._ask(request, form, f"Rotate {key}", text, "Rotate")
        try:
            overlap = timedelta(seconds=form.cleaned_data["overlap_s"])
            new, secret = services.key_rotate(key, overlap=overlap, by=request.user.get_username())
        except (services.KeyNotLive, ValidationError) as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:keys_apikey_change", args=[key.pk]))
        self.log_addition(request, new, f"Rotated from {key}.")
        self.log_change(request, key, f"Rotated to {new}.")
        return self._secret_page(request, new, secret)

    @action(description="Revoke", icon="block", permissions=["change"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key(request, object_id)
        form = RevokeForm(request.POST or None)
        if request.method != "POST" or not form.is_valid():
            text = f"Requests with this key of {key.consumer} are refused from now on. It cannot be undone."
            return self._ask(request, form, f"Revoke {key}", text, "Revoke")
        self._revoke(request, [key], form.cleaned_data["reason"])
        return HttpResponseRedirect(reverse("admin:keys_apikey_change", args=[key.pk]))

    @admin.action(description="Revoke", permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        confirmed = "confirmed" in request.POST
        form = RevokeForm(request.POST if confirmed else None)
        if not form.is_valid():
            text = f"Requests with these {len(queryset)} keys are refused from now on. It cannot be undone."
            chosen = [("action", "revoke_selected"), ("confirmed", "yes")]
            chosen += [(ACTION_CHECKBOX_NAME, str(key.pk)) for key in queryset]
            return self._ask(request, form, "Revoke keys", text, "Revoke", chosen, list(queryset))
        self._revoke(request, list(queryset), form.cleaned_data["reason"])
        return None

    def _revoke(self, request: HttpRequest, keys: list[ApiKey], reason: str) -> None:
        for key in keys:
            services.key_revoke(key, by=request.user.get_username(), reason=reason)
            self.log_change(request, key, "Revoked.")
        self.message_user(request, f"Revoked: {', '.join(map(str, keys[:10]))}", messages.SUCCESS)

    def _key(self, request: HttpRequest, object_id: str) -> ApiKey:
        key = self.get_object(request, unquote(object_id))
        if key is None:
            raise Http404("There is no such key.")
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        return key

    def _ask(
        self,
        request: HttpRequest,
        form: forms.Form,
        title: str,
        text: str,
        verb: str,
        hidden: list[tuple[str, str]] | None = None,
        things: list[ApiKey] | None = None,
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
