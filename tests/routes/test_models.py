from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError

from routes.document import PluginFields, RouteFields
from routes.models import PluginSetting, Route, RouteUpstream, Target, Upstream
from routes.upstreams import TargetFields, UpstreamFields

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("environment")]


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Upstream, UpstreamFields), (Target, TargetFields), (Route, RouteFields), (PluginSetting, PluginFields)],
)
def test_columns_and_defaults_are_those_of_the_document(model, shape):
    row = model()
    for name, field in shape.model_fields.items():
        if not field.is_required():
            assert getattr(row, name) == field.default, name


def test_clean_names_every_field():
    upstream = Upstream(name="a b", retries=99, tags=["x y"], tls_server_name="https://x")
    with pytest.raises(ValidationError) as caught:
        upstream.full_clean()
    assert set(caught.value.message_dict) == {"name", "retries", "tags", "tls_server_name"}


def test_clean_takes_over_the_normal_form():
    route = Route(name="a", hosts=["API.example.com"], methods=["get"], header_conditions={"X-A": ["1"]})
    route.full_clean()
    assert (route.hosts, route.methods, route.header_conditions) == (["api.example.com"], ["GET"], {"x-a": ["1"]})


def test_a_config_that_is_wrong_is_an_error_at_the_config():
    with pytest.raises(ValidationError) as caught:
        PluginSetting(name="quota", config={"windows": [{"seconds": 0, "limit": 1}], "x": 1}).full_clean()
    assert caught.value.message_dict == {
        "config": [
            "windows[0].seconds: Input should be greater than or equal to 1.",
            "x: There is no such field. The fields are: windows.",
        ]
    }


def test_a_text_that_cannot_be_stored_is_an_error_of_the_row():
    with pytest.raises(ValidationError, match="half a surrogate pair"):
        PluginSetting(name="quota", config={"x": "\ud800"}).full_clean()


def test_an_unknown_plugin_is_an_error_at_the_name_unless_disabled():
    with pytest.raises(ValidationError) as caught:
        PluginSetting(name="gone").full_clean()
    assert set(caught.value.message_dict) == {"name"}
    PluginSetting(name="gone", enabled=False).full_clean()


@pytest.mark.parametrize(
    "row",
    [
        lambda: Upstream(name="a b"),
        lambda: Upstream(name="x", protocol="ftp"),
        lambda: Upstream(name="x", balancing="chance"),
        lambda: Upstream(name="x", transport="pigeon"),
        lambda: Upstream(name="x", retries=-1),
        lambda: Target(upstream=Upstream.objects.create(name="x"), host="a", port=0),
        lambda: Target(upstream=Upstream.objects.create(name="x"), host="unix:/x", port=1),
        lambda: Target(upstream=Upstream.objects.create(name="x"), host="a", port=70000),
        lambda: Route(name=""),
        lambda: Route(name="x", max_body_bytes=-1),
        lambda: RouteUpstream(
            route=Route.objects.create(name="x"), upstream=Upstream.objects.create(name="x"), weight=-1
        ),
        lambda: PluginSetting(
            name="x", route=Route.objects.create(name="x"), upstream=Upstream.objects.create(name="x")
        ),
    ],
)
def test_the_database_refuses_what_is_out_of_bounds(row):
    row = row()
    with pytest.raises(DatabaseError):
        row.save()


def test_one_setting_for_each_scope():
    PluginSetting.objects.create(name="stamp")
    with pytest.raises(ValidationError, match="of this scope already"):
        PluginSetting(name="stamp").full_clean()
    with pytest.raises(DatabaseError):
        PluginSetting.objects.create(name="stamp")


def test_an_upstream_in_use_cannot_be_deleted():
    upstream = Upstream.objects.create(name="x")
    RouteUpstream.objects.create(route=Route.objects.create(name="x"), upstream=upstream)
    with pytest.raises(DatabaseError):
        upstream.delete()
