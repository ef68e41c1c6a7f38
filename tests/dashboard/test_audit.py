"""Whichever door an edit comes by, the audit trail has one entry for it: who, when, each field before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import services as keys
from keys.models import AdminToken, ApiKey, Consumer
from keys.trail import steps
from routes import portable, services
from routes.models import PluginSetting, Route, Target, Upstream
from tests.dashboard.configuring import FILE, configured
from tests.routes.test_admin import post as post_form

pytestmark = pytest.mark.django_db


class Doors:
    """Dashboard, Django admin and admin API, as one operator uses them."""

    def __init__(self) -> None:
        self.user = User.objects.create_superuser("operator")
        self.browser = Client()
        self.browser.force_login(self.user)

    def page(self, path: str, **data: Any) -> None:
        answer = self.browser.post(f"/dashboard/{path}", data)
        assert answer.status_code in (200, 302), answer.content

    def form(self, row: Any, **edits: Any) -> None:
        model = row._meta.label_lower.replace(".", "_")
        assert post_form(self.browser, reverse(f"admin:{model}_change", args=[row.pk]), **edits).status_code == 302

    def action(self, row: Any, action: str) -> None:
        model = row._meta.label_lower.replace(".", "_")
        data = {"action": action, "_selected_action": [row.pk], "confirmed": "yes"}
        assert self.browser.post(reverse(f"admin:{model}_changelist"), data).status_code == 302

    def api(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.browser.generic(method, f"/admin/v1/{path}", json.dumps(body or {}), "application/json")
        assert answer.status_code < 300, answer.content
        return answer.json() if answer.content else None


@pytest.fixture
def doors() -> Doors:
    configured()
    return Doors()


def target() -> Target:
    return Target.objects.get(host="10.0.0.1")


def route() -> Route:
    return Route.objects.get(name="users")


def limit() -> PluginSetting:
    return PluginSetting.objects.get(name="rate-limiting", route=None)


def alice() -> Consumer:
    return Consumer.objects.get(username="alice")


def users_api() -> str:
    return f"upstreams/users/targets/{target().pk}"


Change = Callable[[Doors], None]
DRAINED = [("weight", "75", "0")]
RESTORED = [("weight", "75", "100")]
OFF = [("enabled", "true", "false")]
LIMIT = [("config", json.dumps({"minute": 100}, indent=2), json.dumps({"minute": 7}, indent=2))]

EDITS: dict[str, tuple[Callable[[], Any], list[tuple[str, str, str]], list[Change]]] = {
    "drain": (target, DRAINED, [
        lambda doors: doors.page(f"upstreams/targets/{target().pk}/weight/", weight="0"),
        lambda doors: doors.action(target(), "drain"),
        lambda doors: doors.form(target(), weight="0"),
        lambda doors: doors.form(Upstream.objects.get(name="users"), targets__0__weight="0"),
        lambda doors: doors.api("PATCH", users_api(), {"weight": 0}),
    ]),
    "restore": (target, RESTORED, [
        lambda doors: doors.page(f"upstreams/targets/{target().pk}/weight/", weight="100"),
        lambda doors: doors.api("PATCH", users_api(), {"weight": 100}),
    ]),
    "switch a route": (route, OFF, [
        lambda doors: doors.page(f"routes/{route().pk}/switch/"),
        lambda doors: doors.action(route(), "disable"),
        lambda doors: doors.form(route(), enabled=None),
        lambda doors: doors.api("PATCH", "routes/users", {"enabled": False}),
        lambda doors: doors.api("POST", "bulk", {"operations": [
            {"op": "update", "resource": "routes", "ref": "users", "value": {"enabled": False}}]}),
    ]),
    "change a limit": (limit, LIMIT, [
        lambda doors: doors.form(limit(), config='{"minute": 7}'),
        lambda doors: doors.api("PATCH", f"plugin-settings/{limit().pk}", {"config": {"minute": 7}}),
        lambda doors: doors.api("POST", "config", portable.from_yaml(FILE.replace("100}", "7}"))),
    ]),
    "switch a consumer": (alice, OFF, [
        lambda doors: doors.page(f"consumers/{alice().pk}/enabled/"),
        lambda doors: doors.action(alice(), "disable"),
        lambda doors: doors.api("PATCH", "consumers/alice", {"enabled": False}),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "fields", "change"),
    [
        pytest.param(row, fields, change, id=f"{name} {n}")
        for name, (row, fields, changes) in EDITS.items()
        for n, change in enumerate(changes)
    ],
)
def test_an_edit_tells_the_same_by_every_door(doors, row, fields, change):
    begun = timezone.now()
    change(doors)
    entry = entry_of(row())
    (step,) = steps(entry)
    assert (entry.user, step.fields) == (doors.user, fields)
    assert begun <= entry.action_time <= timezone.now()
    page = doors.browser.get(reverse(f"admin:{row()._meta.label_lower.replace('.', '_')}_history", args=[row().pk]))
    text = page.content.decode()
    assert all(word in text for word in (f"<strong>{doors.user}</strong>", "<del>", "<ins>"))


def entry_of(row: Any) -> LogEntry:
    """The only one about it."""
    return LogEntry.objects.get(content_type__model=row._meta.model_name, object_id=row.pk)


@pytest.mark.parametrize(
    "create",
    [
        lambda doors: doors.page("keys/new/", consumer="alice", name="job", number="1"),
        lambda doors: doors.api("POST", "consumers/alice/keys", {"name": "job"}),
        lambda doors: doors.browser.post(
            reverse("admin:keys_apikey_add"), {"consumer": alice().pk, "name": "job", "scopes": ""}
        ),
    ],
)
def test_a_new_key_is_told_whole_but_for_its_secret(doors, create):
    create(doors)
    key = ApiKey.objects.get()
    entry = entry_of(key)
    (step,) = steps(entry)
    told = {name: after for name, _, after in step.fields}
    assert (entry.user, step.words) == (doors.user, "Added.")
    assert told | {"prefix": ""} == {"consumer": "alice", "name": "job", "prefix": "", "created_by": "operator"}
    assert not {"digest", "secret"} & told.keys()


@pytest.mark.parametrize(
    "rotate",
    [
        lambda doors, key: doors.page(f"keys/{key.pk}/rotate/", overlap_s="3600"),
        lambda doors, key: doors.browser.post(reverse("admin:keys_apikey_rotate", args=[key.pk]), {"overlap_s": 3600}),
        lambda doors, key: doors.api("POST", f"keys/{key.prefix}/rotate", {"overlap_s": 3600}),
    ],
)
def test_a_rotation_tells_of_both_keys(doors, rotate):
    old, _ = keys.key_create(alice(), by="somebody at a shell")
    rotate(doors, old)
    new = ApiKey.objects.exclude(pk=old.pk).get()
    (ended,), (made,) = steps(entry_of(old)), steps(entry_of(new))
    assert (ended.words, [name for name, _, _ in ended.fields]) == (f"Rotated to {new}.", ["expires_at"])
    assert ("rotated_from", "", str(old)) in made.fields


@pytest.mark.parametrize(
    "revoke",
    [
        lambda doors, key: doors.page(f"keys/{key.pk}/revoke/", reason="lost"),
        lambda doors, key: doors.browser.post(reverse("admin:keys_apikey_revoke", args=[key.pk]), {"reason": "lost"}),
        lambda doors, key: doors.api("POST", f"keys/{key.prefix}/revoke", {"reason": "lost"}),
    ],
)
def test_a_revocation_tells_when_and_why(doors, revoke):
    key, _ = keys.key_create(alice(), by="somebody at a shell")
    revoke(doors, key)
    key.refresh_from_db()
    (step,) = steps(entry_of(key))
    moment = key.revoked_at.isoformat()
    assert step.fields == [("revoked_at", "", moment), ("revoked_reason", "", "operator: lost")]


def test_tokens_and_consumers_come_and_go_on_record(doors):
    doors.api("POST", "tokens", {"name": "deploy", "scopes": ["read"]})
    token = AdminToken.objects.get()
    doors.api("POST", f"tokens/{token.prefix}/revoke")
    assert [next(iter(steps(entry))).words for entry in LogEntry.objects.order_by("pk")] == ["Added.", "Revoked."]
    doors.api("POST", "consumers", {"username": "bob"})
    doors.api("DELETE", "consumers/bob")
    gone = LogEntry.objects.latest("pk")
    (step,) = steps(gone)
    assert (gone.object_repr, step.words) == ("bob", "Deleted consumer “bob”.")
    assert ("username", "bob", "") in step.fields


@pytest.mark.parametrize(
    "roll_back",
    [
        lambda doors: doors.page("config/1/rollback/"),
        lambda doors: doors.api("POST", "versions/1/rollback"),
        lambda doors: doors.browser.post(
            reverse("admin:routes_configversion_roll_back", args=[services.ConfigVersion.objects.get(number=1).pk])
        ),
    ],
)
def test_a_rollback_tells_of_every_row_and_of_the_version(doors, roll_back):
    with services.change(author="somebody at a shell", source="command"):
        Target.objects.filter(pk=target().pk).update(weight=3)
    roll_back(doors)
    told = {entry.object_repr: next(iter(steps(entry))) for entry in LogEntry.objects.filter(user=doors.user)}
    assert told["10.0.0.1:80"].fields == [("weight", "3", "75")]
    assert (told["version 3"].words, told["version 3"].fields) == ("Rolled back to version 1.", [("live", "2", "3")])
    # The upstream's own history tells of its target, too.
    assert told["users"].words == "Changed target “10.0.0.1:80”."


def test_an_edit_that_is_refused_leaves_no_entry(doors):
    answer = doors.browser.generic("PATCH", "/admin/v1/routes/users", '{"upstreams": []}', "application/json")
    assert answer.status_code == 409
    assert not LogEntry.objects.exists()


def test_an_edit_at_a_shell_is_told_by_its_version_only(doors):
    with services.change(author="root", source="command"):
        Target.objects.filter(pk=target().pk).update(weight=3)
    keys.consumer_disable(alice(), by="root (shell)")
    assert not LogEntry.objects.exists()
