from __future__ import annotations

from typing import Any, Literal

import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from pydantic import SecretStr

from gateway.environment import PLUGINS
from gateway.plugins.base import PluginConfig
from gateway.plugins.registry import Registry
from routes import services
from routes.fields import can_say, config_of, fields_of, texts_of
from routes.models import ConfigVersion, PluginSetting, Route
from routes.widgets import placed
from tests.plugins.test_mtls_auth import ROOT, pem
from tests.routes.test_admin import admin_user, client, errors, filled, url, viewer  # noqa: F401 (fixtures)

REGISTRY = Registry.load(PLUGINS)

CONFIGS: dict[str, list[dict[str, Any]]] = {
    "request-id": [{"header_name": "X-Trace", "echo_downstream": False}, {"generator": "uuid"}],
    "cors": [{"origins": ["https://a.example"], "max_age": 60, "credentials": True}, {"max_age": None},
             {"origins": ["https://*.a.example", "^https://b"], "allow_origin_absent": False}],
    "key-auth": [{"key_names": ["token"], "key_in_query": False, "realm": "us"}, {"key_in_header": True}],
    "jwt": [
        {"secret": "a-secret-of-ours", "issuer": ["https://a"], "claims_required": ["exp", "sub"]},
        {"keys": [{"kid": "a", "algorithm": "HS512", "secret": "a-secret-of-ours"}], "leeway_s": 5,
         "claims_to_headers": [{"claim": "email", "header": "X-Email"}]},
    ],
    "oauth2-introspection": [
        {"introspection_url": "https://a/", "client_id": "us", "client_secret": "s", "scopes_required": ["a"]},
    ],
    "forward-auth": [{"uri": "http://a:9/check", "upstream_headers": ["X-User"], "on_error": "allow"}],
    "opa": [{"url": "http://a:8181/v1/data/authz", "include_headers": [], "cache_ttl_s": 5, "include_route": True}],
    "acl": [{"allow": ["staff"], "deny": [], "hide_groups_header": False}],
    "rate-limiting": [
        {"minute": 100, "by": "ip", "error_code": 503},
        {"limits": [{"limit": 5, "window": "1m"}, {"limit": 9, "window": 60, "algorithm": "token-bucket", "burst": 2}]},
        {"limits": [{"limit": 5, "window": 1.5}], "second": None, "error_message": ""},
        {"month": 9, "algorithm": "leaky-bucket", "shared": "s", "cost": 2, "cost_header": "x-cost", "max_cost": 5,
         "overrides": [{"consumer": "a", "day": 9}, {"key_prefix": "hg_", "unlimited": True}], "dry_run": True},
    ],
    "request-validation": [
        {"body_schema": '{"type": "object"}', "parameter_schema": [{"in": "query", "name": "a", "schema": "{}"}]},
        {"openapi": "openapi: 3.1.0\npaths:\n  /a: {}\n", "verbose_response": False},
    ],
    "request-transformer": [{"remove": {"headers": ["x-a"]}, "set": {"querystring": ["a:b", "c:d e"]}, "path": "/v2"},
                            {"http_method": "POST"}],
    "websocket-limits": [{"idle_timeout_s": 60, "allowed_origins": ["https://app.example.com"]}],
    "ip-restriction": [{"allow": ["10.0.0.0/8"], "deny": ["fd00::/8"], "status": 404, "message": "No."}],
    "opentelemetry": [
        {"endpoint": "http://a:4318/v1/traces", "sampling_rate": 0.5, "resource_attributes": ["a:b"],
         "incoming": "restart"},
    ],
    "mtls-auth": [
        {"ca_certificates": pem(ROOT), "allowed_fingerprints": ["aa:bb"], "certificate_header_format": "base64"},
    ],
    "openid-connect": [
        {"issuer": "https://a", "client_id": "us", "client_secret": "s", "auth_methods": ["bearer"]},
        {"issuer": "https://a", "client_id": "us", "session_secret": "s" * 32, "session_ttl_s": 600,
         "claims_to_headers": [{"claim": "email", "header": "X-Email"}]},
    ],
    "body-transformer": [
        {"request": {"convert": "form_to_json", "remove": ["/a", "/b"], "set": [{"at": "/c", "value": "1"}]}},
        {"response": {"move": [{"from": "/a", "to": "/b"}]}, "max_body_bytes": 5},
        {"response": {"jq": "{a, b: .c}"}, "timeout_ms": 50, "on_error": "allow"},
    ],
    "request-termination": [
        {"status_code": 200, "body": "{}", "content_type": "application/json", "trigger": "mock"}, {"echo": True},
    ],
    "redirect": [{"location": "https://{host}{path}", "status_code": 308, "keep_query": False}],
    "request-size-limiting": [{"allowed_payload_size": 64, "size_unit": "kilobytes", "require_content_length": True}],
    "bot-detection": [{"allow": ["Goodbot/"], "deny": ["^$"], "deny_known": False}],
    "security-headers": [
        {"hsts_max_age_s": None, "nosniff": False, "x_frame_options": "DENY", "remove": ["Server"], "override": True},
    ],
    "fault-injection": [
        {"abort": {"percentage": 0.5, "status": 500}, "delay": {"percentage": 5, "duration_ms": 20}},
        {"trigger": "x-a"},
    ],
    "concurrency-limiting": [
        {"max_in_flight": 5, "by": "ip", "error_code": 503, "error_message": "Busy.", "retry_after_s": 2},
    ],
    "traffic-split": [
        {"weights": [{"upstream": "a", "weight": 5}], "sticky": "cookie", "sticky_name": "sid",
         "pins": [{"upstream": "b", "header": "x-a", "value": "1"}]},
        {"canary": "b", "from_percent": 1.5, "to_percent": 50, "start": "2026-01-01T00:00:00Z", "duration": "2h"},
        {"blue": "a", "green": "b", "active": "green"},
    ],
    "mirror": [{"upstream": "a", "percent": 0.5, "max_body_bytes": 0, "timeout_ms": 10, "concurrency": 1, "queue": 0}],
    "upstream-timeout": [
        {"connect_timeout_ms": 5, "total_timeout_ms": 0}, {"first_byte_timeout_ms": None, "idle_timeout_ms": 9},
    ],
    "upstream-retry": [
        {"retries": 3, "retry_statuses": [502, 503], "retry_on_timeout": True, "retry_all_methods": True,
         "retry_backoff_ms": 0, "retry_body_bytes": 10, "retry_budget_percent": 50, "methods": ["GET"]},
    ],
    "quota": [{"day": 5, "month": 100, "reset_day": 15, "by": "key", "on_error": "deny", "error_message": "No."}],
    "bandwidth-limiting": [{"bytes_per_second": 5000, "burst_bytes": 10, "by": "consumer"}],
    "response-cache": [
        {"strategy": "memory", "response_code": [200, 404], "request_method": ["GET"], "vary_headers": ["X-Tenant"],
         "content_type": ["text/*"], "by_consumer": True},
        {"cache_ttl": 30, "coalesce": False, "vary_query_params": ["a"]},
    ],
    "compression": [{"types": ["text/*"], "min_length": 100, "level": 9}],
    "hmac-auth": [{"credentials": [{"username": "a", "secret": "sixteen-bytes-at-least"}], "clock_skew": 60}],
    "basic-auth": [{"hide_credentials": False, "anonymous": "guest", "realm": "the office"}],
    "http-log": [{"url": "https://logs.test/in", "authorization": "Bearer x", "format": "ndjson", "batch_max": 5}],
    "file-log": [{"file": "orders.log"}],
    "kafka-log": [{"brokers": ["a.test:9092", "[fd00::1]:9092"], "topic": "logs", "key": "route", "secure": True,
                   "sasl": "PLAIN", "username": "u", "password": "p"}],
    "syslog": [{"server": "udp://logs.test", "facility": "local0", "server_errors_severity": "err"},
               {"server": "tls://logs.test", "tls": {"verify": False, "server_name": "a.test"}}],
    "response-transformer": [{"add": {"headers": ["x-frame-options:DENY"]}, "remove": {"headers": []}},
                             {"status": 503, "if_status": ["500-599"]}],
}  # fmt: skip


class Shy(PluginConfig):
    password: SecretStr = SecretStr("")
    doors: tuple[Door, ...] = ()
    extra: dict[str, int] = {}
    level: Literal[1, 2] = 1
    ports: list[int] = []


class Door(PluginConfig):
    key: SecretStr
    open: bool


Shy.model_rebuild()


def sent(fields: Any, config: dict[str, Any]) -> dict[str, str]:
    """The texts as a browser sends them back: line ends of areas are CRLF."""
    return {place: text.replace("\n", "\r\n") for place, text in texts_of(fields, config).items()}


def test_every_plugin_of_the_gateway_is_covered():
    assert set(CONFIGS) == set(REGISTRY.names)


@pytest.mark.parametrize(("name", "config"), [(name, config) for name, all_ in CONFIGS.items() for config in all_])
def test_a_config_comes_back_from_the_form_as_it_was(name, config):
    fields = fields_of(REGISTRY[name].Config)
    assert config_of(fields, sent(fields, config)) == config
    assert can_say(fields, config)


@pytest.mark.parametrize("name", REGISTRY.names)
def test_a_form_nobody_has_filled_in_stores_nothing(name):
    fields = fields_of(REGISTRY[name].Config)
    assert config_of(fields, sent(fields, {})) == {}


@pytest.mark.parametrize("name", REGISTRY.names)
def test_every_field_has_a_widget_of_its_own_and_a_help_text(name):
    fields = fields_of(REGISTRY[name].Config)
    assert [field.name for field in fields] == list(REGISTRY[name].Config.model_fields)
    every = [*fields, *(inner for field in fields for inner in field.fields)]
    assert all(field.help for field in every)
    assert "json" not in {field.kind for field in every}


def test_kinds_and_bounds_come_from_the_schema():
    fields = {field.name: field for field in fields_of(REGISTRY["rate-limiting"].Config)}
    assert {name: field.kind for name, field in fields.items()} == {
        "second": "number", "minute": "number", "hour": "number", "day": "number", "month": "number",
        "year": "number", "limits": "rows", "algorithm": "choice", "by": "choice", "header_name": "text",
        "shared": "text", "overrides": "rows", "cost": "number", "cost_header": "text", "max_cost": "number",
        "dry_run": "switch", "on_error": "choice", "hide_client_headers": "switch", "error_code": "number",
        "error_message": "text",
    }  # fmt: skip
    assert (fields["error_code"].low, fields["error_code"].high, fields["error_code"].default) == (400, 599, 429)
    assert fields["by"].choices == ("consumer", "key", "ip", "header", "route")
    assert [field.name for field in fields["limits"].fields] == ["limit", "window", "algorithm", "burst", "delay"]
    assert fields["limits"].fields[0].required


def test_kinds_no_plugin_of_ours_has():
    fields = fields_of(Shy)
    assert [field.kind for field in fields] == ["secret", "rows", "json", "choice", "lines"]
    config = {"password": "p", "doors": [{"key": "k", "open": False}], "extra": {"a": 1}, "level": 2, "ports": [80, 81]}
    assert config_of(fields, sent(fields, config)) == config


@pytest.mark.parametrize(
    "config",
    [
        {"no_such_field": 1}, {"limits": "x"}, {"limits": [1]}, {"minute": "5"}, {"by": ["ip"]}, [], "x", None,
        {"hide_client_headers": "yes"}, {"error_message": "a\nb"},
    ],
)  # fmt: skip
def test_what_the_fields_cannot_say_is_left_to_json(config):
    assert not can_say(fields_of(REGISTRY["rate-limiting"].Config), config)


def test_text_that_is_no_number_stays_for_the_plugin_to_refuse():
    fields = fields_of(REGISTRY["rate-limiting"].Config)
    config = config_of(fields, {"minute": "many", "limits.3": "", "limits.3.limit": "2.5"})
    assert config == {"limits": [{"limit": 2.5}], "minute": "many"}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("limits", 0, "window"), "limits.0.window"), (("limits", 1, "window", "float"), "limits.1.window"),
        (("limits",), "limits"), (("limits", 0), "limits"), (("minute",), "minute"), ((), ""), (("what",), ""),
    ],
)  # fmt: skip
def test_a_problem_finds_its_field(path, place):
    assert placed(fields_of(REGISTRY["rate-limiting"].Config), path) == place


# --- the pages -------------------------------------------------------------------------------------------


@pytest.fixture
def plugins(configured, settings):
    """The plugins of the gateway itself, and no configuration that needs others."""
    PluginSetting.objects.all().delete()
    settings.ENVIRONMENT = settings.ENVIRONMENT.model_copy(update={"plugins": PLUGINS, "plugin_dir": None})
    services.publish(author="test", source="api")


def page_test(function: Any) -> Any:
    return pytest.mark.django_db(pytest.mark.usefixtures("plugins")(function))


def draw(client: Any, action: str, plugin: str, name: str = "config", path: str = "", **texts: str) -> Any:  # noqa: F811
    data = {"field": name, "action": action, "plugin": plugin, "path": path, **texts}
    return client.post(url("pluginsetting", "config"), data)


@page_test
def test_fields_are_drawn_for_the_plugin_that_was_chosen(client):  # noqa: F811
    for name in REGISTRY.names:
        page = draw(client, "plugin", name, "plugin_settings-0-config").content.decode()
        for field in REGISTRY[name].Config.model_fields:
            assert f"plugin_settings-0-config.{field}" in page or field in page
        assert f'name="plugin_settings-0-config~plugin" value="{name}"' in page
    page = draw(client, "plugin", "rate-limiting").content.decode()
    assert 'placeholder="429"' in page
    assert 'min="400" max="599"' in page
    assert "Default (consumer)" in page
    assert "<code>by: header</code>" in page


@page_test
def test_json_is_what_the_fields_say_and_the_other_way_round(client):  # noqa: F811
    texts = {"config~plugin": "rate-limiting", "config~as": "fields", "config.minute": "60", "config.by": "ip"}
    page = draw(client, "json", "rate-limiting", **texts).content.decode()
    assert "&quot;minute&quot;: 60" in page
    page = draw(client, "fields", "rate-limiting", **{"config~as": "json", "config": '{"minute": 7}'}).content.decode()
    assert 'name="config.minute" value="7"' in page
    page = draw(client, "fields", "rate-limiting", **{"config~as": "json", "config": "{"}).content.decode()
    assert "This is not valid JSON." in page
    assert ">{</textarea>" in page
    wrong = {"config~as": "json", "config": '{"limits": [{"limit": 0}]}'}
    page = draw(client, "fields", "rate-limiting", **wrong).content.decode()
    assert "Input should be greater than or equal to 1." in page


@page_test
def test_rows_come_and_go(client):  # noqa: F811
    texts = {
        "config~plugin": "rate-limiting",
        "config~as": "fields",
        "config.limits.0": "",
        "config.limits.0.limit": "5",
    }
    page = draw(client, "add", "rate-limiting", path="limits", **texts).content.decode()
    assert 'name="config.limits.0.limit" value="5"' in page
    assert 'name="config.limits.1.limit" value=""' in page
    texts |= {"config.limits.1": "", "config.limits.1.limit": "6"}
    page = draw(client, "remove", "rate-limiting", path="limits.0", **texts).content.decode()
    assert 'name="config.limits.0.limit" value="6"' in page
    assert "config.limits.1" not in page


@page_test
def test_drawing_needs_the_permission_to_write(client, viewer):  # noqa: F811
    client.force_login(viewer)
    assert draw(client, "plugin", "cors").status_code == 403
    client.logout()
    assert draw(client, "plugin", "cors").status_code == 302


@page_test
def test_the_fields_of_a_new_setting_are_stored_without_defaults(client):  # noqa: F811
    route = Route.objects.get()
    texts = {
        "config~plugin": "rate-limiting",
        "config~as": "fields",
        "config.limits.0": "",
        "config.limits.0.limit": "5",
    }
    texts |= {"config.limits.0.window": "90s", "config.minute": "", "config.by": "ip", "config.error_code": ""}
    answer = client.post(
        url("pluginsetting", "add"), {"name": "rate-limiting", "enabled": "on", "route": route.pk, **texts}
    )
    assert answer.status_code == 302, errors(answer)
    assert PluginSetting.objects.get().config == {"limits": [{"limit": 5, "window": "90s"}], "by": "ip"}
    page = client.get(url("pluginsetting", "change", PluginSetting.objects.get().pk)).content.decode()
    assert 'name="config.limits.0.window" value="90s"' in page


@page_test
def test_fields_left_at_their_defaults_make_a_setting(client):  # noqa: F811
    data = {"name": "key-auth", "enabled": "on", "config~plugin": "key-auth", "config~as": "fields"}
    data |= {f"config.{place}": text for place, text in sent(fields_of(REGISTRY["key-auth"].Config), {}).items()}
    answer = client.post(url("pluginsetting", "add"), {**data, "route": Route.objects.get().pk})
    assert answer.status_code == 302, errors(answer)
    assert PluginSetting.objects.get().config == {}


@page_test
def test_every_error_stands_at_its_field_also_inline(client):  # noqa: F811
    route = Route.objects.get()
    page = client.get(url("route", "change", route.pk))
    texts = {
        "plugin_settings-TOTAL_FORMS": "1",
        "plugin_settings-0-name": "rate-limiting", "plugin_settings-0-enabled": "on",
        "plugin_settings-0-config~plugin": "rate-limiting", "plugin_settings-0-config~as": "fields",
        "plugin_settings-0-config.limits.0": "", "plugin_settings-0-config.limits.0.limit": "5",
        "plugin_settings-0-config.limits.0.window": "soon", "plugin_settings-0-config.error_code": "7",
    }  # fmt: skip
    page = client.post(url("route", "change", route.pk), filled(page) | texts)
    assert errors(page) == {"plugin_settings-0-config": ["See the fields above."]}
    widget = page.context["inline_admin_formsets"][1].formset.forms[0].fields["config"].widget
    assert widget.errors == {
        "limits.0.window": ["Write a window as seconds or like '90s', '1m', '2h', '1d', '4w'."],
        "error_code": ["Input should be greater than or equal to 400."],
    }
    html = page.content.decode()
    assert 'value="soon"' in html
    assert 'value="7"' in html
    assert not PluginSetting.objects.exists()


@page_test
def test_saving_fields_nobody_has_touched_is_no_change(client):  # noqa: F811
    for name, configs in CONFIGS.items():
        setting = PluginSetting.objects.create(name=name, config=configs[-1], enabled=False)
        fields = fields_of(REGISTRY[name].Config)
        texts = {f"config.{place}": text for place, text in sent(fields, setting.config).items()}
        services.publish(author="test", source="api")
        number = ConfigVersion.objects.get(live=True).number
        data = {"name": name, "config~plugin": name, "config~as": "fields", **texts}
        assert client.post(url("pluginsetting", "change", setting.pk), data).status_code == 302
        assert ConfigVersion.objects.get(live=True).number == number
        assert not LogEntry.objects.exists()


def test_the_registry_of_these_tests_is_that_of_the_settings():
    assert tuple(settings.ENVIRONMENT.plugins) == tuple(PLUGINS)
