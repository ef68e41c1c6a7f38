"""Consumers, API keys and tokens of the admin API in Django admin. `keys.issued` has what keys and tokens share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from keys import services
from keys.issued import IssuedAdmin, StateFilter, SuperuserDeletes
from keys.models import TOKEN_SCOPES, AdminToken, ApiKey, BasicCredential, Consumer
from keys.trail import Audited, Author

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


class BasicForm(forms.ModelForm):  # no generic at run time
    new_password = forms.CharField(
        label="New password",
        required=False,
        min_length=services.MIN_PASSWORD,
        max_length=256,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Never shown again. Empty: as it is.",
    )

    def clean(self) -> Any:
        cleaned = super().clean() or {}
        if self.instance._state.adding and not cleaned.get("new_password") and "new_password" not in self.errors:
            self.add_error("new_password", "A new username needs a password.")
        return cleaned

    def _post_clean(self) -> None:
        """The row is checked with a hash in it; which one is for `services` to say."""
        if self.instance._state.adding:
            self.instance.password = "scrypt$"  # noqa: S105
        super()._post_clean()  # type: ignore[misc]  # the stubs leave it out


class BasicInline(TabularInline):
    """Usernames with passwords for `basic-auth`, edited in their consumer's page."""

    model = BasicCredential
    form = BasicForm
    fields = ("username", "new_password", "updated_at")
    readonly_fields = ("updated_at",)
    extra, per_page = 0, 20
    tab = True


@admin.register(Consumer)
class ConsumerAdmin(Audited, SuperuserDeletes, ModelAdmin):
    list_display = ("username", "custom_id", "groups", "enabled", "key_count", "created_at")
    list_filter = ("enabled",)
    list_per_page = 50
    search_fields = ("username", "custom_id", "groups", "tags", "note")
    fields = ("username", "custom_id", "groups", "tags", "enabled", "note", "created_at", "updated_at")
    readonly_fields = ("created_at", "updated_at")
    formfield_overrides = WORDS_AS_TEXT
    inlines = (KeyInline, BasicInline)
    actions = ("enable", "disable")
    actions_detail = ("open_dashboard",)

    @action(description="Dashboard", icon="monitoring", permissions=["view"])
    def open_dashboard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its calls, what they came to, and what its limits leave."""
        return redirect("dashboard:consumer", object_id)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Consumer]:
        return super().get_queryset(request).annotate(key_total=Count("keys"))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Passwords are hashed, and the trail told, by `services`."""
        if formset.model is not BasicCredential:
            super().save_formset(request, form, formset, change)
            return
        formset.save(commit=False)
        for login in formset.deleted_objects:
            services.basic_delete(login, by=request.user)
        for filled in formset.forms:
            login, password = filled.instance, filled.cleaned_data.get("new_password", "")
            if login in formset.new_objects:
                services.basic_issue(login, password, by=request.user)
            elif filled.has_changed() and login not in formset.deleted_objects:
                current = BasicCredential.objects.get(pk=login.pk)
                services.basic_change(current, username=login.username, password=password, by=request.user)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, list[Any]]:
        """Not with settings of plugins for it: those are configuration, which changes by versions only."""
        rows, counts, needed, protected = super().get_deleted_objects(objs, request)
        settings = [f"plugin setting {setting}" for consumer in objs for setting in consumer.plugin_settings.all()]
        return rows, counts, needed, [*protected, *settings]

    @display(description="keys", ordering="key_total")
    def key_count(self, consumer: Consumer) -> int:
        return consumer.key_total  # type: ignore[attr-defined]  # annotated above

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Consumer]) -> None:
        self._each(request, queryset, services.consumer_enable, "Enabled.")

    @admin.action(description="Disable: refuse all their keys", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Consumer]) -> None:
        self._each(request, queryset, services.consumer_disable, "Disabled.")

    def _each(self, request: HttpRequest, queryset: QuerySet[Consumer], step: Callable[..., None], done: str) -> None:
        for consumer in queryset:
            step(consumer, by=request.user)
        self.message_user(request, f"{done[:-1]}: {', '.join(map(str, queryset[:10]))}.", messages.SUCCESS)


@admin.register(ApiKey)
class ApiKeyAdmin(IssuedAdmin):
    list_display = ("hint", "name", "consumer", "state_label", "scopes", "expires_at", "last_used_at", "created_at")
    list_filter = (StateFilter, "created_at")
    list_select_related = ("consumer",)
    search_fields = ("prefix", "name", "consumer__username", "consumer__custom_id")
    search_help_text = "Prefix, name or consumer. Not the whole key: it is a secret."
    autocomplete_fields = ("consumer",)
    formfield_overrides = WORDS_AS_TEXT
    entered, owner = ("consumer", "name", "scopes", "expires_at"), "consumer"
    facts = (*IssuedAdmin.facts, "rotated_from")
    usage_template = "keys/key_usage.html"
    end_warning = "Requests with it are refused from now on."
    actions_row = ("rotate", "revoke")
    actions_detail = ("open_dashboard", "rotate", "revoke")

    @action(description="Dashboard", icon="monitoring", permissions=["view"])
    def open_dashboard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its calls, and why some were refused."""
        return redirect("dashboard:key", object_id)

    def issue(self, row: ApiKey, by: Author) -> str:
        return services.key_issue(row, by=by)

    def end(self, row: ApiKey, by: Author, reason: str) -> None:
        services.key_revoke(row, by=by, reason=reason)

    @action(description="Rotate", icon="autorenew", permissions=["change"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.row_of(request, object_id)
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = RotateForm(request.POST or None)
        if not form.is_valid():
            text = "A new key takes over: same consumer, name, scopes and lifetime. The new secret is shown once."
            return self.ask(request, form, f"Rotate {key}", text, "Rotate")
        try:
            overlap = timedelta(seconds=form.cleaned_data["overlap_s"])
            new, secret = services.key_rotate(key, overlap=overlap, by=request.user)
        except (services.KeyNotLive, ValidationError) as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:keys_apikey_change", args=[key.pk]))
        return self.secret_page(request, new, secret)


class TokenForm(forms.ModelForm):  # no generic at run time
    scopes = forms.MultipleChoiceField(
        choices=list(TOKEN_SCOPES.items()),
        initial=["read"],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="Each includes those before it. The user's own permissions decide as well.",
    )


@admin.register(AdminToken)
class AdminTokenAdmin(IssuedAdmin):
    """A token is worth its user's permissions: whoever is no superuser sees and makes only those of their own."""

    form = TokenForm
    list_display = ("hint", "name", "user", "state_label", "scopes", "expires_at", "last_used_at", "created_at")
    list_filter = (StateFilter, "created_at")
    list_select_related = ("user",)
    search_fields = ("prefix", "name", "user__username")
    search_help_text = "Prefix, name or user. Not the whole token: it is a secret."
    entered, owner = ("user", "name", "scopes", "expires_at"), "user"
    usage_template = "keys/token_usage.html"
    end_warning = "Calls of the admin API with it are refused from now on."
    actions_row = actions_detail = ("revoke",)

    def issue(self, row: AdminToken, by: Author) -> str:
        return services.token_issue(row, by=by)

    def end(self, row: AdminToken, by: Author, reason: str) -> None:
        services.token_revoke(row, by=by, reason=reason)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AdminToken]:
        return services.tokens_managed_by(_user(request))

    def get_form(self, request: HttpRequest, obj: AdminToken | None = None, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, **kwargs)
        if obj is None:
            form.base_fields["user"].queryset = services.token_owners_for(_user(request))
            form.base_fields["user"].initial = request.user.pk
        return form


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # the admin site lets nobody else in
    return request.user
