"""Plugins that lead requests elsewhere, and quotas, in two real workers with their recorder."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import msgpack
import redis
from django.conf import settings

from dashboard.reconcile import MARK
from tests.e2e.gateway import Gateway, route, upstream, wait_until
from tests.upstream import answering, serving, until

GATEWAY_WORKERS = 2
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%s"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


def document(own: int, other: int, *plugins: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "upstreams": [upstream("own", own), upstream("other", other)],
        "routes": [route("all", "/all", "own")],
        "plugins": list(plugins),
    }


async def bodies(gateway: Gateway, number: int, **headers: str) -> list[str]:
    """Each over a connection of its own, so that both workers answer."""
    found = []
    for _ in range(number):
        async with httpx.AsyncClient(headers=headers, timeout=10) as client:
            found.append((await client.get(f"{gateway.url}/all")).text)
    return found


async def configured(gateway: Gateway, wanted: dict[str, Any]) -> None:
    await asyncio.to_thread(gateway.configure, wanted)


async def test_a_caller_is_sticky_in_all_workers_and_a_switch_moves_all(gateway: Gateway) -> None:
    async with serving(answering(ANSWER % b"1")) as own, serving(answering(ANSWER % b"2")) as other:
        split = {"canary": "other", "to_percent": 50, "sticky": "header", "sticky_name": "X-User"}
        await configured(gateway, document(own.port, other.port, {"name": "traffic-split", "config": split}))
        led = [await bodies(gateway, 4, **{"X-User": f"user-{number}"}) for number in range(24)]
        assert all(len(set(answers)) == 1 for answers in led)
        assert {answers[0] for answers in led} == {"1", "2"}
        for active, body in (("green", "2"), ("blue", "1")):
            split = {"blue": "own", "green": "other", "active": active}
            await configured(gateway, document(own.port, other.port, {"name": "traffic-split", "config": split}))
            assert set(await bodies(gateway, 6)) == {body}


async def test_copies_are_sent_and_counted(gateway: Gateway) -> None:
    async with serving(answering(ANSWER % b"1")) as own, serving(answering(ANSWER % b"2")) as other:
        mirror = {"name": "mirror", "config": {"upstream": "other"}}
        await configured(gateway, document(own.port, other.port, mirror))
        assert set(await bodies(gateway, 8)) == {"1"}
        await until(lambda: len(other.heads) == 8)
        assert len(own.heads) == 8
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"{gateway.url}/metrics")).text
        found = re.findall(r"^hydragate_mirrored_total\{(.*)\} (\S+)$", page, re.MULTILINE)
        assert sum(float(value) for labels, value in found if 'upstream="other"' in labels) > 0


async def test_a_route_tries_again_in_every_worker(gateway: Gateway) -> None:
    async with serving(answering(BUSY, ANSWER % b"1")) as own, serving(answering(BUSY)) as other:
        retry = {"name": "upstream-retry", "config": {"retry_statuses": [503], "retry_backoff_ms": 0}}
        await configured(gateway, document(own.port, other.port, retry))
        assert set(await bodies(gateway, 6)) == {"1"}


async def test_a_quota_that_redis_lost_comes_back_from_the_rows(gateway: Gateway) -> None:
    async with serving(answering(ANSWER % b"1")) as own:
        plugins = [{"name": "key-auth"}, {"name": "quota", "config": {"month": 6, "on_error": "deny"}}]
        await configured(gateway, document(own.port, own.port, *plugins))
        key = await asyncio.to_thread(gateway.key, "anna")
        assert await bodies(gateway, 5, apikey=key) == ["1"] * 5
        shipped = "SELECT count(*) FROM usage_row WHERE consumer_id IS NOT NULL AND tries > 0"
        await asyncio.to_thread(wait_until, lambda: gateway.query(shipped)[0][0] == 5, 20, "5 rows")
        ((setting,),) = gateway.query("SELECT id FROM routes_pluginsetting WHERE name = 'quota'")
        ((consumer,),) = gateway.query("SELECT id FROM keys_consumer WHERE username = 'anna'")
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            (counter,) = client.keys(f"hg:quota:{setting}:month:*:consumer:{consumer}")
            client.delete(counter, MARK)
            await asyncio.to_thread(wait_until, lambda: client.exists(counter), 30, "the counter")
            assert msgpack.unpackb(client.get(counter)) == [5]
            answers = await bodies(gateway, 2, apikey=key)
            client.delete(counter)
        assert answers[0] == "1"
        assert "quota_exceeded" in answers[1]
