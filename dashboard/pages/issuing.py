"""Making, rotating and revoking keys; switching consumers on and off.

A secret is in exactly one answer: the page rendered straight from the POST that made it. It never passes the session,
a message, the audit trail or a URL, and that page is not stored anywhere. Sending the same form again makes no second
key: a form carries a number, and the session remembers which key that number made.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from secrets import token_urlsafe
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from dashboard.page import Guarded, Page
from dashboard.snippets import door, snippets, traffic_url
from keys import services
from keys.models import ApiKey, Consumer

LIFETIMES = {
    "": "never", "1": "in 1 day", "7": "in 7 days", "30": "in 30 days", "90": "in 90 days", "365": "in a year",
    "date": "on a date",
}  # fmt: skip
OVERLAPS = {0: "no overlap: it ends now", 3600: "1 hour", 86_400: "24 hours", 604_800: "7 days"}
FORMS_REMEMBERED = 20


class KeyForm(forms.Form):
    consumer = forms.CharField(max_length=100, help_text="Who will use the key.")
    new_consumer = forms.BooleanField(required=False, label="Make this consumer if there is none of that name")
    name = forms.CharField(max_length=100, required=False, help_text="What it is for, such as “billing job”.")
    scopes = forms.CharField(required=False, help_text="Words that ACL rules name, separated by commas.")
    ends = forms.ChoiceField(choices=list(LIFETIMES.items()), required=False, label="Expires")
    ends_on = forms.DateField(
        required=False, label="Date (UTC)", widget=forms.DateInput(attrs={"type": "date"}),
        help_text="Only with “on a date”; the key works through that day.",
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if values.get("ends") == "date" and not values.get("ends_on") and "ends_on" not in self.errors:
            self.add_error("ends_on", "Choose the day.")
        return values

    def clean_scopes(self) -> list[str]:
        return [word.strip() for word in self.cleaned_data["scopes"].split(",") if word.strip()]

    def expires_at(self, now: datetime) -> datetime | None:
        ends, day = self.cleaned_data["ends"], self.cleaned_data["ends_on"]
        if ends == "date":
            return datetime(day.year, day.month, day.day, tzinfo=now.tzinfo) + timedelta(days=1)
        return now + timedelta(days=int(ends)) if ends else None


class RotateForm(forms.Form):
    overlap_s = forms.TypedChoiceField(
        label="The old key works on for", choices=list(OVERLAPS.items()), coerce=int, initial=86_400
    )


class RevokeForm(forms.Form):
    reason = forms.CharField(
        max_length=150, required=False, help_text="For whoever asks later, such as “found in a public repository”."
    )


class CreateKey(Page):
    template_name = "dashboard/key_new.html"
    title, nav = "New key", "keys"
    permissions = ("keys.view_apikey", "keys.add_apikey")

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        if "form" not in context:
            text = self.request.GET.get("consumer", "")
            wanted = Consumer.objects.filter(pk=int(text)).first() if re.fullmatch(r"[0-9]{1,18}", text) else None
            given = {"consumer": wanted.username if wanted else "", "new_consumer": not Consumer.objects.exists()}
            context["form"] = KeyForm(initial=given)
        known = Consumer.objects.values_list("username", flat=True)[:200]
        return super().get_context_data(number=token_urlsafe(12), known=known, **context)

    def post(self, request: HttpRequest) -> HttpResponse:
        number = request.POST.get("number", "")
        if (made := _made_by(request, number)) is not None:
            messages.info(request, "This key was made already; its secret cannot be shown again.")
            return redirect("dashboard:key", made)
        form = KeyForm(request.POST)
        if form.is_valid():
            try:
                key, secret = self._create(request, form)
            except ValidationError as error:
                _at_fields(form, error, {"username": "consumer", "expires_at": "ends"})
            else:
                _remember(request, number, key)
                return secret_page(request, key, secret)
        return self.render_to_response(self.get_context_data(form=form), status=422)

    @transaction.atomic
    def _create(self, request: HttpRequest, form: KeyForm) -> tuple[ApiKey, str]:
        values, by = form.cleaned_data, request.user
        try:
            consumer = Consumer.objects.named(values["consumer"])
        except Consumer.DoesNotExist:
            if not values["new_consumer"]:
                raise ValidationError({"username": "There is no consumer of this name."}) from None
            if not request.user.has_perm("keys.add_consumer"):
                raise PermissionDenied from None
            consumer = services.consumer_create(values["consumer"], by=by)
        return services.key_create(
            consumer, name=values["name"], expires_at=form.expires_at(self.now), scopes=values["scopes"], by=by
        )


class OnKey(Page):
    """A question about one key, and what is done when it is answered."""

    template_name = "dashboard/key_ask.html"
    nav = "keys"
    form_class: type[forms.Form]

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        context.setdefault("form", self.form_class())
        return super().get_context_data(key=self.key(), **context)

    def key(self) -> ApiKey:
        return get_object_or_404(ApiKey.objects.select_related("consumer"), pk=self.kwargs["pk"])

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        form = self.form_class(request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(form=form), status=422)
        return self.done(request, self.key(), form.cleaned_data)

    def done(self, request: HttpRequest, key: ApiKey, values: dict[str, Any]) -> HttpResponse:
        raise NotImplementedError


class RotateKey(OnKey):
    title, form_class = "Rotate key", RotateForm
    permissions = ("keys.view_apikey", "keys.add_apikey", "keys.change_apikey")
    extra_context = {
        "verb": "Rotate", "kind": "primary",
        "text": "A new key takes over: same consumer, name, scopes and lifetime. Its secret is shown once.",
    }  # fmt: skip

    def done(self, request: HttpRequest, key: ApiKey, values: dict[str, Any]) -> HttpResponse:
        try:
            overlap = timedelta(seconds=values["overlap_s"])
            new, secret = services.key_rotate(key, overlap=overlap, by=request.user)
        except services.KeyNotLive as error:
            messages.error(request, str(error))
            return redirect("dashboard:key", key.pk)
        return secret_page(request, new, secret, old=ApiKey.objects.get(pk=key.pk))


class RevokeKey(OnKey):
    title, form_class = "Revoke key", RevokeForm
    permissions = ("keys.view_apikey", "keys.change_apikey")
    extra_context = {
        "verb": "Revoke", "kind": "danger",
        "text": "Requests with this key are refused from now on, on every node. It cannot be undone.",
    }  # fmt: skip

    def done(self, request: HttpRequest, key: ApiKey, values: dict[str, Any]) -> HttpResponse:
        services.key_revoke(key, by=request.user, reason=values["reason"])
        messages.success(request, f"Revoked: {key} of {key.consumer}.")
        return redirect("dashboard:key", key.pk)


class SwitchConsumer(Guarded):
    """POST `enabled`: on or off."""

    http_method_names = ["post"]
    permissions = ("keys.view_consumer", "keys.change_consumer")

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        consumer, enabled = get_object_or_404(Consumer, pk=pk), bool(request.POST.get("enabled"))
        (services.consumer_enable if enabled else services.consumer_disable)(consumer, by=request.user)
        said = "is let in again" if enabled else "is refused from now on, whatever the key"
        messages.success(request, f"{consumer} {said}.")
        return redirect("dashboard:consumer", pk)


def secret_page(request: HttpRequest, key: ApiKey, secret: str, old: ApiKey | None = None) -> HttpResponse:
    """The one answer with the secret in it."""
    where = door()
    context = {
        "page": type("SecretPage", (), {"nav": "keys", "ranged": False}),
        "title": "New key",
        "key": key,
        "secret": secret,
        "old": old,
        "door": where,
        "snippets": snippets(traffic_url(request), where, secret),
        "next": reverse("dashboard:key", args=[key.pk]),
    }
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return TemplateResponse(request, "dashboard/key_secret.html", context, headers=headers)


def _made_by(request: HttpRequest, number: str) -> int | None:
    found: int | None = request.session.get("keys_made", {}).get(number)
    return found


def _remember(request: HttpRequest, number: str, key: ApiKey) -> None:
    made = {**request.session.get("keys_made", {}), number: key.pk}
    request.session["keys_made"] = dict(list(made.items())[-FORMS_REMEMBERED:])


def _at_fields(form: forms.Form, error: ValidationError, renamed: dict[str, str]) -> None:
    for field, faults in error.update_error_dict({}).items():
        name = renamed.get(field, field)
        form.add_error(name if name in form.fields else None, [str(m) for f in faults for m in f.messages])


urlpatterns = [
    path("keys/new/", CreateKey.as_view(), name="key-new"),
    path("keys/<int:pk>/rotate/", RotateKey.as_view(), name="key-rotate"),
    path("keys/<int:pk>/revoke/", RevokeKey.as_view(), name="key-revoke"),
    path("consumers/<int:pk>/enabled/", SwitchConsumer.as_view(), name="consumer-enabled"),
]
