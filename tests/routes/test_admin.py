from __future__ import annotations

import re
from time import time
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from gateway.proxy.discovery import Discovered
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Sighting
from routes import health, selectors, services, versions
from routes.models import ConfigVersion, PluginSetting, Route, Target, Upstream

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("configured")]


@pytest.fixture
def admin_user(db, django_user_model):
    """Without a password: hashing one takes longer than a test."""
    return django_user_model.objects.create(username="admin", is_staff=True, is_superuser=True)


@pytest.fixture
def viewer(db, django_user_model):
    viewer = django_user_model.objects.create(username="viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return viewer


@pytest.fixture
def client(client, admin_user):
    client.force_login(admin_user)
    return client


def url(model: str, page: str, *arguments: Any) -> str:
    return reverse(f"admin:routes_{model}_{page}", args=arguments)


def filled(page: Any) -> dict[str, Any]:
    """What a browser would send back from a page nobody has touched."""
    forms = [page.context["adminform"].form]
    for inline in page.context["inline_admin_formsets"]:
        forms += [inline.formset.management_form, *inline.formset.forms]
    data = {}
    for form in forms:
        for field in form:
            value = field.value()
            if value is not None and value is not False:
                data[field.html_name] = "on" if value is True else value
    return data


def post(client: Any, address: str, **edits: Any) -> Any:
    data = filled(client.get(address)) | {name.replace("__", "-"): value for name, value in edits.items()}
    return client.post(address, {name: value for name, value in data.items() if value is not None})


def errors(page: Any) -> dict[str, list[str]]:
    assert page.status_code == 200, page.headers
    found = dict(page.context["adminform"].form.errors)
    for inline in page.context["inline_admin_formsets"]:
        for form in inline.formset.forms:
            found |= {form.add_prefix(name): texts for name, texts in form.errors.items()}
    return found


def said(client: Any) -> str:
    page = client.get(reverse("admin:index"))
    return " ".join(str(message) for message in page.context["messages"])


@pytest.mark.parametrize("model", ["upstream", "route", "pluginsetting", "configversion", "workerreport"])
def test_lists_are_shown_with_a_fixed_number_of_queries(client, model, django_assert_max_num_queries):
    selectors.report_applied(node="n", worker=0, pid=1, role="all", number=1, apply_ms=1)
    with django_assert_max_num_queries(14):
        assert client.get(url(model, "changelist")).status_code == 200


def test_targets_are_shown_with_what_the_nodes_know_of_them(client, django_assert_max_num_queries):
    target = Target.objects.first()
    probe = Probed(up=False, since_s=60.0, at_s=time(), fault="Status 500.", took_ms=3.0)
    health.report("n", [Sighting(target.upstream.name, str(target), "down", 60.0, 0, 2, 7, 1.0, probe)])
    page = client.get(url("upstream", "change", target.upstream_id)).content.decode()
    assert "down, 2 failures in a row" in page
    assert re.search(r"Status 500, \d s ago", page)
    with django_assert_max_num_queries(14):
        page = client.get(url("target", "changelist"))
    assert [one.health.in_flight for one in page.context["cl"].result_list if one.pk == target.pk] == [7]


@pytest.mark.parametrize("model", [Upstream, Route, PluginSetting, ConfigVersion])
def test_pages_of_rows_are_shown(client, model):
    assert client.get(url(model._meta.model_name, "change", model.objects.first().pk)).status_code == 200


@pytest.mark.parametrize("model", ["upstream", "route", "pluginsetting"])
def test_pages_for_new_rows_are_shown(client, model):
    assert client.get(url(model, "add")).status_code == 200


def test_saving_a_page_nobody_has_touched_changes_nothing(client):
    for model in (Upstream, Route, PluginSetting):
        for row in model.objects.all():
            assert post(client, url(model._meta.model_name, "change", row.pk)).status_code == 302
    assert ConfigVersion.objects.count() == 1


def test_an_edit_goes_live_at_once(client, admin_user):
    route = Route.objects.get()
    response = post(
        client,
        url("route", "change", route.pk),
        paths="/users/{id}\n~^/v{1,2}/(?P<id>x)",
        methods="get, post",
        header_conditions="X-Version: 2 | 3\nx-debug",
        query_conditions="",
    )
    assert response.status_code == 302
    route.refresh_from_db()
    assert route.paths == ["/users/{id}", "~^/v{1,2}/(?P<id>x)"]
    assert route.methods == ["GET", "POST"]
    assert route.header_conditions == {"x-version": ["2", "3"], "x-debug": []}
    version = ConfigVersion.objects.get(live=True)
    assert (version.number, version.author, version.source) == (2, admin_user.username, "admin")
    assert version.comment == "Changed route users."
    assert "Version 2: live; no worker is running." in said(client)


def test_a_new_route_with_upstream_and_plugin_is_one_version(client):
    upstream = Upstream.objects.get(name="users")
    response = post(
        client,
        url("route", "add"),
        name="new",
        enabled="on",
        paths="/new/*",
        branches__TOTAL_FORMS="1",
        branches__0__upstream=upstream.pk,
        branches__0__weight="100",
        plugin_settings__TOTAL_FORMS="1",
        plugin_settings__0__name="stamp",
        plugin_settings__0__enabled="on",
        plugin_settings__0__config="",
    )
    assert response.status_code == 302, errors(response)
    assert ConfigVersion.objects.get(live=True).number == 2
    assert PluginSetting.objects.get(route__name="new").config == {}


def test_errors_of_fields_stand_at_the_fields(client):
    page = post(
        client,
        url("route", "change", Route.objects.get().pk),
        paths="users",
        hosts="http://x",
        header_conditions="{",
        plugin_settings__0__config='{"windows": []}',
    )
    found = errors(page)
    assert set(found) == {"paths", "hosts", "header_conditions", "plugin_settings-0-config"}
    assert found["paths"] == ["'users' must start with '/', or with '~' for a regular expression."]
    assert ConfigVersion.objects.count() == 1


def test_an_edit_that_does_not_compile_changes_nothing_and_says_why_at_the_field(client):
    setting = PluginSetting.objects.get(name="stamp")
    alice = PluginSetting.objects.get(name="quota").consumer
    page = post(client, url("pluginsetting", "change", setting.pk), consumer=alice.pk, config='{"header": "x"}')
    assert errors(page) == {"consumer": ["stamp runs before the consumer is known, so it cannot differ by consumer."]}
    assert "stamp runs before the consumer is known" in page.content.decode()
    setting.refresh_from_db()
    assert (setting.consumer, setting.config) == (None, {})
    assert ConfigVersion.objects.count() == 1
    assert "successfully" not in said(client)


def test_problems_of_other_rows_are_named_at_the_top_and_of_inline_rows_at_the_row(client):
    Route.objects.create(name="twin", enabled=False, paths=["/users/{name}"], hosts=["api.example.com"])
    services.publish(author="test", source="api")
    route = Route.objects.get(name="users")
    page = post(
        client,
        url("route", "change", route.pk),
        name="renamed",
        branches__0__DELETE="on",
        branches__1__DELETE="on",
        plugin_settings__0__name="stamp",
        plugin_settings__0__config="{}",
    )
    found = errors(page)
    assert "The route leads nowhere: give it an upstream." in found["__all__"]
    early = "stamp runs before the consumer is known, so it cannot differ by consumer."
    assert found["plugin_settings-0-consumer"] == [early]
    assert f'plugins["stamp route=renamed consumer=alice"].consumer: {early}' in found["__all__"]
    assert Route.objects.filter(name="users").exists()
    assert route.branches.count() == 2


def test_two_settings_of_one_scope_are_an_error_at_the_row(client):
    page = post(
        client,
        url("route", "change", Route.objects.get().pk),
        plugin_settings__TOTAL_FORMS="3",
        plugin_settings__1__name="stamp",
        plugin_settings__1__enabled="on",
        plugin_settings__2__name="stamp",
        plugin_settings__2__enabled="on",
    )
    assert errors(page) == {"plugin_settings-2-__all__": ["This is there twice."]}


def test_two_equal_targets_are_an_error(client):
    upstream = Upstream.objects.get(name="users-next")
    page = post(
        client,
        url("upstream", "change", upstream.pk),
        targets__TOTAL_FORMS="2",
        targets__1__host="10.0.0.2",
        targets__1__port="80",
        targets__1__weight="1",
    )
    assert page.status_code == 200
    assert upstream.targets.count() == 1


def test_a_deletion_goes_live_with_all_that_belonged_to_the_row(client):
    spare = Upstream.objects.create(name="spare")
    PluginSetting.objects.create(name="stamp", upstream=spare)
    services.publish(author="test", source="api")
    response = client.post(url("upstream", "delete", spare.pk), {"post": "yes"})
    assert response.status_code == 302
    version = ConfigVersion.objects.get(live=True)
    assert (version.number, version.comment) == (3, "Deleted upstream spare.")
    assert [setting["name"] for setting in version.document["plugins"]] == ["quota", "stamp"]


def test_an_upstream_in_use_cannot_be_deleted(client):
    page = client.post(url("upstream", "delete", Upstream.objects.get(name="users").pk), {"post": "yes"})
    assert page.status_code == 200
    assert page.context["protected"]
    assert Upstream.objects.filter(name="users").exists()


def test_actions_publish_or_are_refused_as_a_whole(client):
    twin = Route.objects.create(name="twin", enabled=False)
    users = Route.objects.get(name="users")
    chosen = {"_selected_action": [twin.pk]}
    client.post(url("route", "changelist"), {"action": "enable", **chosen})
    assert "Nothing was changed. routes[&quot;twin&quot;].upstreams" in said(client).replace('"', "&quot;")
    twin.refresh_from_db()
    assert not twin.enabled
    client.post(url("route", "changelist"), {"action": "disable", "_selected_action": [users.pk]})
    users.refresh_from_db()
    assert not users.enabled
    assert ConfigVersion.objects.get(live=True).comment == "Disabled users."
    client.post(url("route", "changelist"), {"action": "delete_selected", "post": "yes", **chosen})
    assert ConfigVersion.objects.get(live=True).comment == "Deleted route twin."


def test_a_setting_of_a_plugin_that_is_gone_can_be_disabled(client):
    setting = PluginSetting.objects.create(name="gone")
    response = post(client, url("pluginsetting", "change", setting.pk), enabled=None)
    assert response.status_code == 302, errors(response)
    assert PluginSetting.objects.get(name="gone").enabled is False


def test_drafts_wait_for_the_publish_button(client, drafts):
    upstream = Upstream.objects.get(name="users-next")
    post(client, url("upstream", "change", upstream.pk), retries="5")
    assert "Saved as a draft." in said(client)
    assert selectors.live_version()[0] == 1
    page = client.get(url("configversion", "publish"))
    assert [step.words for step in page.context["steps"]] == ["Changed upstream “users-next”."]
    assert page.context["steps"][0].fields == [("retries", "1", "5")]
    client.post(url("configversion", "publish"), {"comment": "Now."})
    assert ConfigVersion.objects.get(live=True).comment == "Now."
    assert "Nothing differs" in client.get(url("configversion", "publish")).content.decode()


def test_drafts_that_do_not_compile_are_not_published(client, drafts):
    Route.objects.update(paths=["bad"], path_rewrite="")
    page = client.get(url("configversion", "publish"))
    assert [problem.where for problem in page.context["problems"]] == ['routes["users"].paths[0]']
    client.post(url("configversion", "publish"))
    assert "Nothing was published." in said(client)
    assert selectors.live_version()[0] == 1


def test_rolling_back_asks_first(client):
    Target.objects.filter(host="10.0.0.2").update(weight=3)
    services.publish(author="test", source="api")
    first = ConfigVersion.objects.get(number=1)
    page = client.get(url("configversion", "roll_back", first.pk))
    assert [step.words for step in page.context["steps"]] == ["Changed upstream “users-next”."]
    assert selectors.live_version()[0] == 2
    client.post(url("configversion", "roll_back", first.pk))
    assert Target.objects.get(host="10.0.0.2").weight == 100
    assert selectors.live_version()[0] == 3


def test_versions_cannot_be_edited_or_deleted_and_publishing_needs_its_permission(client, viewer):
    version = ConfigVersion.objects.get()
    assert client.post(url("configversion", "change", version.pk), {"comment": "x"}).status_code == 403
    assert client.post(url("configversion", "delete", version.pk), {"post": "yes"}).status_code == 403
    client.force_login(viewer)
    assert client.get(url("configversion", "change", version.pk)).status_code == 200
    assert client.post(url("configversion", "publish")).status_code == 403
    assert client.post(url("configversion", "roll_back", version.pk)).status_code == 403


def test_who_may_only_look_cannot_change(client, viewer):
    client.force_login(viewer)
    route = Route.objects.get()
    assert client.get(url("route", "change", route.pk)).status_code == 200
    assert client.post(url("route", "change", route.pk), {"name": "x"}).status_code == 403


def test_a_large_version_is_a_file_and_a_small_one_a_page(client, monkeypatch):
    page = url("configversion", "change", ConfigVersion.objects.get(live=True).pk)
    assert b"format: 1" in client.get(page).content
    monkeypatch.setattr(versions, "MAX_ROWS_SHOWN", 0)
    content = client.get(page).content
    assert b"format: 1" not in content
    assert b"Download as YAML" in content


def test_an_upstream_is_shown_with_what_discovery_found(client):
    upstream = Upstream.objects.first()
    Upstream.objects.filter(pk=upstream.pk).update(discovery="srv", discovery_name="_http._tcp.users.test")
    found = Discovered(
        upstream.name, "srv", "_http._tcp.users.test", "fresh", "", time(), (("10.0.0.9", 80, 1, "", 0),)
    )
    health.report("n", [], [found])
    page = client.get(url("upstream", "change", upstream.pk)).content.decode()
    assert re.search(r"discovered from _http._tcp.users.test, refreshed \d s ago. 10.0.0.9:80", page)


def test_a_dry_run_is_a_switch_of_the_setting(client):
    setting = PluginSetting.objects.get(name="quota")
    post(client, url("pluginsetting", "change", setting.pk), dry_run="on")
    setting.refresh_from_db()
    assert setting.dry_run
    document = ConfigVersion.objects.get(live=True).document
    assert {entry["name"]: entry["dry_run"] for entry in document["plugins"]}["quota"] is True


def test_when_is_yaml_and_comes_back_as_it_was_written(client):
    setting = PluginSetting.objects.get(name="quota")
    page = url("pluginsetting", "change", setting.pk)
    text = "methods: [POST, PUT]\nheaders: {x-beta: ^yes$}"
    post(client, page, when=text)
    setting.refresh_from_db()
    assert setting.when == {"methods": ["POST", "PUT"], "headers": {"x-beta": "^yes$"}}
    assert client.get(page).context["adminform"].form["when"].value() == text
    for wrong, said_ in (("methods: [G T]", "methods.0: 'G T' is not"), ("[", "not YAML"), ("POST", "A condition on")):
        assert said_ in errors(post(client, page, when=wrong))["when"][0]
