"""Whose requests are counted together: a name that operators can read, such as `consumer:5`."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from gateway.proxy import headers
from gateway.proxy.exchange import Exchange

By = Literal["consumer", "key", "ip", "header", "route"]


def identity(by: By, header_name: str = "") -> Callable[[Exchange], str]:
    """Without a consumer, key or header it is the client's address."""
    header = header_name.lower().encode()

    def by_ip(exchange: Exchange) -> str:
        return f"ip:{_network(exchange.client_ip)}"

    def by_key(exchange: Exchange) -> str:
        found = exchange.credential
        return f"{found.kind}:{found.id}" if found else by_ip(exchange)

    def by_consumer(exchange: Exchange) -> str:
        consumer = exchange.consumer
        if consumer is None:
            return by_ip(exchange)
        return f"consumer:{consumer.id}" if consumer.id else by_key(exchange)

    def by_header(exchange: Exchange) -> str:
        values = headers.get_all(exchange.headers, header)
        if not values:
            return by_ip(exchange)
        # Hashed: clients choose the value, and it may be long or secret.
        return f"header:{hashlib.blake2b(b','.join(values), digest_size=16).hexdigest()}"

    def by_route(exchange: Exchange) -> str:
        return f"route:{exchange.route.id if exchange.route else 0}"

    return {"ip": by_ip, "consumer": by_consumer, "key": by_key, "header": by_header, "route": by_route}[by]


@lru_cache(maxsize=4096)
def _network(client_ip: str) -> str:
    """An IPv6 client owns its whole /64 and could count itself anew with every request."""
    if ":" not in client_ip:
        return client_ip
    try:
        address = ipaddress.IPv6Address(client_ip.partition("%")[0])
    except ValueError:
        return client_ip
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
