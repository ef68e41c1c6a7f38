from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User

from dashboard.pages.start import WRITES
from dashboard.shipping import ship
from keys import secrets
from keys.models import ApiKey
from routes.models import ConfigVersion, PluginSetting, Route, Target, Upstream
from tests.dashboard.segments import segment_write
from tests.proxy.exchanges import finished, route

pytestmark = pytest.mark.django_db

URL = "/dashboard/start/"
FORM = {
    "target": "http://10.0.0.5:9000", "path": "/hello/*", "name": "hello", "key_auth": "on", "per_minute": "60",
    "consumer": "ann",
}  # fmt: skip


@pytest.fixture
def operator(client):
    client.force_login(User.objects.create_superuser("operator"))
    return client


def test_an_empty_gateway_has_everything_to_do(operator, django_assert_max_num_queries):
    operator.get(URL)
    with django_assert_max_num_queries(8):
        answer = operator.get(URL)
    assert [step.done for step in answer.context["steps"]] == [False, False, False]
    assert "curl -X POST http://testserver/admin/v1/upstreams" in answer.content.decode()


def test_one_form_makes_upstream_route_and_key_in_one_version(operator):
    answer = operator.post(URL, FORM)
    page = answer.content.decode()
    secret = secrets.SHAPE.search(page)[0]
    key = ApiKey.objects.get(digest=secrets.digest(secret))
    assert key.consumer.username == "ann"
    assert str(Target.objects.get()) == "10.0.0.5:9000"
    made = Route.objects.get()
    assert [setting.name for setting in PluginSetting.objects.filter(route=made)] == ["key-auth", "rate-limiting"]
    version = ConfigVersion.objects.get()
    assert (version.author, version.source, version.live) == ("operator", "dashboard", True)
    assert sorted(LogEntry.objects.values_list("content_type__model", flat=True)) == [
        "apikey", "consumer", "pluginsetting", "pluginsetting", "route", "target", "upstream",
    ]  # fmt: skip
    assert answer["Cache-Control"] == "no-store"
    assert f"apikey: {secret}" in page, "the line to try it can be copied as it is"
    assert "Waiting for your first request" in page
    assert not secrets.SHAPE.search(operator.get(URL).content.decode())
    assert all(step.done for step in operator.get(URL).context["steps"])


def test_an_open_route_needs_no_key(operator):
    operator.post(URL, {**FORM, "key_auth": "", "per_minute": "", "consumer": ""})
    assert Route.objects.exists()
    assert not ApiKey.objects.exists()
    assert not PluginSetting.objects.exists()


@pytest.mark.parametrize(
    ("target", "protocol", "port"),
    [("https://api.internal", "https", 443), ("api.internal", "http", 80), ("[::1]:9000", "http", 9000)],
)
def test_a_target_may_be_written_shortly(operator, target, protocol, port):
    operator.post(URL, {**FORM, "target": target})
    assert (Upstream.objects.get().protocol, Target.objects.get().port) == (protocol, port)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("target", "ftp://x", "Write it like"),
        ("target", "http://x:99999", "from 1 to 65535"),
        ("target", "http://x/api", "Only scheme, host and port"),
        ("path", "hello", "/"),
        ("name", "not a name", "letters, digits"),
        ("consumer", "", "The key needs an owner."),
        ("per_minute", "0", "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_stands_at_its_field_and_nothing_is_made(operator, field, value, said):
    answer = operator.post(URL, {**FORM, field: value})
    assert answer.status_code == 422
    assert said in " ".join(answer.context["form"].errors[field])
    for model in (Upstream, Target, Route, PluginSetting, ApiKey, ConfigVersion, LogEntry):
        assert not model.objects.exists()


def test_the_first_request_shows_up(operator, committed, spool):
    operator.post(URL, FORM)
    made = Route.objects.get()
    url = f"{URL}first/?route={made.pk}"
    assert operator.get(url).status_code == 204
    segment_write(spool.path, [finished(id="the-first", route=route(made.pk, "hello"))])
    ship(spool, "n1")
    assert "the-first" in operator.get(url).content.decode()
    page = operator.get(URL).content.decode()
    assert "/dashboard/requests/the-first/" in page
    assert "Waiting" not in page


def test_making_needs_every_permission_and_looking_one(client):
    assert "/login/" in client.get(URL)["Location"]
    user = User.objects.create_user("somebody", is_staff=True)
    client.force_login(user)
    assert client.get(URL).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_route"))
    assert client.get(URL).status_code == 200
    assert '<form class="card" method="post"' not in client.get(URL).content.decode()
    assert client.post(URL, FORM).status_code == 403
    codenames = [name.partition(".")[2] for name in WRITES]
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames[1:]))
    assert client.post(URL, FORM).status_code == 403
    assert not Route.objects.exists()
