"""Open connections by client address, so that none can take a whole worker for itself.

An IPv6 client is its /64: that is what one line is given (RFC 6177). Trusted proxies are not counted, for they bring
everybody; nor are unix sockets, which have no addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


class Addresses:
    """`enter` and `leave` come in pairs; what is not counted is ""."""

    def __init__(self, exempt: Sequence[Network] = ()) -> None:
        self._exempt = tuple(exempt)
        self._open: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, host: str) -> tuple[str, int]:
        """Who it is, and how many connections they have with this one."""
        origin = self._origin(host)
        if not origin:
            return "", 0
        count = self._open[origin] = self._open.get(origin, 0) + 1
        return origin, count

    def leave(self, origin: str) -> None:
        count = self._open.get(origin, 0) - 1
        if count > 0:
            self._open[origin] = count
        else:
            self._open.pop(origin, None)

    def _origin(self, host: str) -> str:
        if not self._exempt and ":" not in host:
            return host
        try:
            address = ip_address(host)
        except ValueError:  # a socket's path, or an address with a scope
            return "" if host.startswith("/") else host
        if any(address in network for network in self._exempt):
            return ""
        return host if address.version == 4 else str(ip_network((int(address) >> 64 << 64, 64)))
