"""A caller of the admin API, over Django's whole stack."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpResponse
from django.test import Client

BASE = "/admin/v1"


class Caller:
    """Speaks JSON, with the token it is given."""

    def __init__(self, secret: str = "") -> None:
        self.client = Client(raise_request_exception=False)
        self.headers = {"Authorization": f"Bearer {secret}"} if secret else {}

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> HttpResponse:
        headers = self.headers | more.pop("headers", {})
        content_type = more.pop("content_type", "application/json")
        data = body if isinstance(body, (str, bytes)) else "" if body is None else json.dumps(body)
        path = path if path.startswith(BASE) else BASE + path
        return self.client.generic(method, path, data, content_type, headers=headers, **more)
