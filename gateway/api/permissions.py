"""Who may: the scopes of the token AND the Django permissions of the user behind it. A session has no scopes."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

SAFE = ("GET", "HEAD", "OPTIONS")
_ACTIONS = {"GET": "view", "HEAD": "view", "POST": "add", "PUT": "change", "PATCH": "change", "DELETE": "delete"}


class ScopeAndModel(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        method = request.method or ""
        scope = view.scopes.get(method, "read" if method in SAFE else "write")
        token: Any = request.auth
        if token is not None and not token.allows(scope):
            self.message = f"This token lacks the scope `{scope}`."
            return False
        return self._has_all(request, required(view, method))

    def _has_all(self, request: Request, permissions: tuple[str, ...]) -> bool:
        missing = [name for name in permissions if not request.user.has_perm(name)]
        if missing:
            self.message = f"You lack the permission {missing[0]}."
        return not missing


def required(view: Any, method: str) -> tuple[str, ...]:
    """What the user must be allowed: the view's own word for the method, else the model's permission for it."""
    if method in view.permissions:
        return tuple(view.permissions[method])
    if view.model is None or method not in _ACTIONS:
        return ()  # no such method: the answer is 405
    return (model_permission(view.model, _ACTIONS[method]),)


def model_permission(model: Any, action: str) -> str:
    return f"{model._meta.app_label}.{action}_{model._meta.model_name}"
