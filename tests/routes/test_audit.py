from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.urls import reverse

from keys import services as key_services
from keys.models import ApiKey, Consumer
from keys.trail import Step, steps
from routes import services
from routes.models import ConfigVersion, PluginSetting, Route, Target, Upstream
from tests.routes.test_admin import admin_user, client, post, url  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("configured")]


def told(row: Any) -> list[Step]:
    """Of the newest entry about a row."""
    entries = LogEntry.objects.filter(content_type__model=row._meta.model_name, object_id=row.pk)
    return list(steps(entries.latest("pk")))


def test_an_edit_names_every_value_before_and_after_rows_inline_too(client, admin_user):  # noqa: F811
    route = Route.objects.get()
    post(client, url("route", "change", route.pk), paths="/people/{id}", plugin_settings__0__enabled=None)
    own, plugin = told(route)
    assert (own.words, own.fields) == ("Changed.", [("paths", "/users/{id}\n/people/{id}", "/people/{id}")])
    assert plugin.words == "Changed plugin setting “quota route=users consumer=alice”."
    assert plugin.fields == [("enabled", "true", "false")]
    assert told(route.plugin_settings.get()) == [Step("Changed.", plugin.fields)]
    page = client.get(url("route", "history", route.pk)).content.decode()
    assert "<del>/users/{id}\n/people/{id}</del>" in page
    assert admin_user.username in page
    trail = client.get(reverse("admin:admin_logentry_changelist"))
    assert "Changed paths." in trail.content.decode()
    entry = LogEntry.objects.latest("pk")
    assert "/people/{id}" in client.get(reverse("admin:admin_logentry_change", args=[entry.pk])).content.decode()
    assert client.post(reverse("admin:admin_logentry_delete", args=[entry.pk]), {"post": "yes"}).status_code == 403


def test_another_name_is_a_change_not_another_row(client):  # noqa: F811
    upstream = Upstream.objects.get(name="users-next")
    post(client, url("upstream", "change", upstream.pk), name="next")
    assert told(upstream) == [Step("Changed.", [("name", "users-next", "next")])]
    (route,) = told(Route.objects.get())
    assert [name for name, _, _ in route.fields] == ["upstreams"]


def test_what_was_added_or_deleted_is_written_down_whole(client):  # noqa: F811
    post(client, url("upstream", "add"), name="new", retries="3")
    upstream = Upstream.objects.get(name="new")
    (step,) = told(upstream)
    assert step.words == "Added."
    assert ("retries", "", "3") in step.fields
    client.post(url("upstream", "delete", upstream.pk), {"post": "yes"})
    (step,) = told(upstream)
    assert step.words == "Deleted upstream “new”."
    assert ("retries", "3", "") in step.fields


@pytest.mark.parametrize(
    ("model", "action", "field"),
    [
        (Route, "disable", ("enabled", "true", "false")), (PluginSetting, "disable", ("enabled", "true", "false")),
        (Target, "drain", ("weight", "100", "0")), (Target, "disable", ("enabled", "true", "false")),
    ],
)  # fmt: skip
def test_list_actions_are_one_version_and_an_entry_for_each_row(client, model, action, field):  # noqa: F811
    rows = list(model.objects.filter(upstream__name="users-next") if model is Target else model.objects.all())
    chosen = {"action": action, "_selected_action": [row.pk for row in rows]}
    client.post(url(model._meta.model_name, "changelist"), chosen)
    assert ConfigVersion.objects.get(live=True).number == 2
    for row in rows:
        assert told(row) == [Step("Changed.", [field])]


def test_draining_and_restoring(client):  # noqa: F811
    target = Target.objects.get(host="10.0.0.2")
    for action, weight in (("drain", 0), ("restore", 100)):
        client.post(url("target", "changelist"), {"action": action, "_selected_action": [target.pk]})
        target.refresh_from_db()
        assert target.weight == weight


def test_publishing_and_rolling_back_are_written_down(client):  # noqa: F811
    Target.objects.filter(host="10.0.0.2").update(weight=3)
    client.post(url("configversion", "publish"), {"comment": "Now."})
    (step,) = told(ConfigVersion.objects.get(number=2))
    assert (step.words, step.fields) == ("Published the working copy.", [("live", "1", "2")])
    client.post(url("configversion", "roll_back", ConfigVersion.objects.get(number=1).pk))
    (step,) = told(ConfigVersion.objects.get(number=3))
    assert (step.words, step.fields) == ("Rolled back to version 1.", [("live", "2", "3")])


def test_consumers_keys_and_their_rotation_and_revocation(client):  # noqa: F811
    consumer = Consumer.objects.first()
    client.post(reverse("admin:keys_consumer_changelist"), {"action": "disable", "_selected_action": [consumer.pk]})
    assert told(consumer) == [Step("Disabled.", [("enabled", "true", "false")])]
    address = reverse("admin:keys_consumer_change", args=[consumer.pk])
    names = ("keys", "basic_credentials")
    inline = {f"{name}-{count}_FORMS": "0" for name in names for count in ("TOTAL", "INITIAL")}
    client.post(address, {"username": consumer.username, "groups": "gold, staff", "enabled": "on", **inline})
    assert told(consumer) == [Step("Changed.", [("groups", "", "gold\nstaff"), ("enabled", "false", "true")])]
    key, secret = key_services.key_create(consumer, name="job")
    client.post(reverse("admin:keys_apikey_rotate", args=[key.pk]), {"overlap_s": "3600"})
    new = ApiKey.objects.exclude(pk=key.pk).get()
    assert [name for name, _, _ in told(key)[0].fields] == ["expires_at"]
    assert told(key)[0].words == f"Rotated to {new}."
    client.post(reverse("admin:keys_apikey_revoke", args=[new.pk]), {"reason": "lost"})
    assert [name for name, _, _ in told(new)[0].fields] == ["revoked_at", "revoked_reason"]
    kept = "".join(LogEntry.objects.values_list("change_message", flat=True))
    assert secret not in kept
    assert "digest" not in kept


def test_a_consumer_with_settings_of_its_own_is_not_deleted_past_the_versions(client):  # noqa: F811
    alice = Consumer.objects.get()
    page = client.post(reverse("admin:keys_consumer_delete", args=[alice.pk]), {"post": "yes"})
    assert "plugin setting quota route=users consumer=alice" in page.content.decode()
    chosen = {"action": "delete_selected", "_selected_action": [alice.pk], "post": "yes"}
    client.post(reverse("admin:keys_consumer_changelist"), chosen)
    assert Consumer.objects.filter(pk=alice.pk).exists()
    assert services.draft() == []


def test_users_and_their_passwords(client):  # noqa: F811
    user = User.objects.create(username="kim", is_staff=True)
    address = reverse("admin:auth_user_password_change", args=[user.pk])
    assert client.get(address).status_code == 200
    words = {"password1": "correct horse battery", "password2": "correct horse battery", "usable_password": "true"}
    assert client.post(address, words).status_code == 302
    user.refresh_from_db()
    assert user.check_password("correct horse battery")
    assert told(user) == [Step("Changed the password.", [])]
    assert "correct horse" not in LogEntry.objects.latest("pk").change_message
    assert client.get(reverse("admin:auth_user_change", args=[user.pk])).status_code == 200
    assert client.get(reverse("admin:auth_group_add")).status_code == 200


def test_entries_of_others_are_readable_too(client, admin_user):  # noqa: F811
    route = Route.objects.get()
    LogEntry.objects.log_actions(admin_user.pk, [route], 2, "Enabled it.", single_object=True)
    assert told(route) == [Step("Enabled it.", [])]
    LogEntry.objects.log_actions(admin_user.pk, [route], 2, [{"changed": {"fields": ["Paths"]}}], single_object=True)
    assert told(route) == [Step("Changed Paths.", [])]
    assert services.draft() == []


def test_pages_lead_to_their_pages_of_the_dashboard(client):  # noqa: F811
    route, upstream = Route.objects.get(), Upstream.objects.first()
    for row, page in ((route, "route"), (upstream, "upstream")):
        answer = client.get(url(row._meta.model_name, "open_dashboard", row.pk))
        assert answer.headers["Location"] == reverse(f"dashboard:{page}", args=[row.pk])
    answer = client.get(url("configversion", "open_dashboard", ConfigVersion.objects.get().pk))
    assert answer.headers["Location"] == reverse("dashboard:config") + "?to=1"
