"""What Django admin looks like: the sidebar, the label that says where one is, the login page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy

from gateway.environment import Environment

#: Group → (title, icon, URL name, permission to see it).
SIDEBAR = {
    "": (("Dashboard", "monitoring", "dashboard:overview", ""),),
    "Traffic": (
        ("Routes", "alt_route", "admin:routes_route_changelist", "routes.view_route"),
        ("Upstreams", "dns", "admin:routes_upstream_changelist", "routes.view_upstream"),
        ("Targets", "lan", "admin:routes_target_changelist", "routes.view_target"),
        ("Plugin settings", "extension", "admin:routes_pluginsetting_changelist", "routes.view_pluginsetting"),
    ),
    "Access": (
        ("Consumers", "group", "admin:keys_consumer_changelist", "keys.view_consumer"),
        ("API keys", "vpn_key", "admin:keys_apikey_changelist", "keys.view_apikey"),
        ("Tokens", "token", "admin:keys_admintoken_changelist", "keys.view_admintoken"),
    ),
    "History": (
        ("Versions", "history", "admin:routes_configversion_changelist", "routes.view_configversion"),
        ("Requests", "receipt_long", "admin:dashboard_usagerow_changelist", "dashboard.view_usagerow"),
        ("Workers", "memory", "admin:routes_workerreport_changelist", "routes.view_workerreport"),
        ("Audit trail", "fact_check", "admin:admin_logentry_changelist", "admin.view_logentry"),
    ),
    "Staff": (
        ("Users", "person", "admin:auth_user_changelist", "auth.view_user"),
        ("Groups", "groups", "admin:auth_group_changelist", "auth.view_group"),
    ),
}


def unfold(environment: Environment) -> dict[str, Any]:
    """The setting UNFOLD."""
    where = f"{environment.node} · {environment.role}"
    return {
        "SITE_TITLE": "HydraGate",
        "SITE_HEADER": "HydraGate",
        "SITE_SYMBOL": "alt_route",
        "SITE_URL": reverse_lazy("dashboard:overview"),
        "SITE_FAVICONS": [
            {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("dashboard/favicon.svg")},
        ],
        "SHOW_HISTORY": True,
        "SHOW_VIEW_ON_SITE": False,
        "ENVIRONMENT": lambda request: [where, "info"],
        "LOGIN": {"form": "gateway.login.LoginForm"},
        "STYLES": [lambda request: static("routes/admin.css")],
        "SCRIPTS": [lambda request: static("routes/admin.js")],
        "SIDEBAR": {"show_search": False, "navigation": [_group(title, items) for title, items in SIDEBAR.items()]},
    }


def _group(title: str, items: tuple[tuple[str, str, str, str], ...]) -> dict[str, Any]:
    return {
        **({"title": title, "separator": True} if title else {}),
        "items": [
            {
                "title": name,
                "icon": icon,
                "link": reverse_lazy(link),
                "permission": _may(permission),
                **({} if permission else {"active": False}),  # `/dashboard/` stands in `/admin/dashboard/` too
            }
            for name, icon, link, permission in items
        ],
    }


def _may(permission: str) -> Any:
    def allowed(request: HttpRequest) -> bool:
        return not permission or request.user.has_perm(permission)

    return allowed
