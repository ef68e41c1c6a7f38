"""The control plane under many requests: it keeps nothing of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.e2e.gateway import Gateway, wait_until

REQUESTS, CLIENTS = 400, 8


def test_requests_of_the_admin_api_leave_no_connection_behind(gateway: Gateway) -> None:
    os.environ.setdefault("DJANGO_SUPERUSER_PASSWORD", "only for this test")
    gateway.manage("createsuperuser", "--noinput", "--username", "many", "--email", "")
    token = gateway.manage("token", "create", "--user", "many", "--scopes", "read", "--quiet").strip()

    def connections() -> int:
        """Of all of the gateway: its server's, seen from within."""
        code = "from django.db import connection as c; k = c.cursor(); k.execute("
        code += "'select count(*) from pg_stat_activity where datname = current_database()'); print(k.fetchone()[0])"
        return int(gateway.manage("shell", "-v", "0", "-c", code))

    def ask(_: int) -> int:
        return client.get("/admin/v1/upstreams", headers={"Authorization": f"Bearer {token}"}).status_code

    before = connections()
    with httpx.Client(base_url=gateway.url, timeout=30) as client, ThreadPoolExecutor(CLIENTS) as clients:
        assert set(clients.map(ask, range(REQUESTS))) == {200}
    wait_until(lambda: connections() <= before + 2, what="as many connections as before")
