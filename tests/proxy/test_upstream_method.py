"""A plugin may have the upstream called by another method than the client's."""

from __future__ import annotations

import pytest

from gateway.plugins.base import Plugin
from gateway.proxy.exchange import Exchange
from tests.proxy.gatewaying import Bench, NoConfig, route, setting, table, target, upstream
from tests.upstream import answering, serving

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class AsPut(Plugin):
    name = "as-put"
    Config = NoConfig

    def access(self, exchange: Exchange) -> None:
        exchange.upstream_method = "PUT"


@pytest.mark.parametrize("plugins", [(), (AsPut,)])
async def test_the_upstream_sees_the_plugins_method_and_the_record_the_clients(plugins) -> None:
    async with serving(answering(ANSWER)) as service:
        routing = table(
            [route("r", "/*")], [upstream("up", target(service.port))], plugins, [setting(cls) for cls in plugins]
        )
        async with Bench(routing) as bench:
            exchange, body = await bench.get("/x")
        assert (exchange.method, exchange.status, body) == ("GET", 200, b"ok")
        assert service.heads[0].startswith(b"PUT /x " if plugins else b"GET /x ")
