"""Where connections may lead: addresses and names at which no upstream, and nothing that a plugin calls, may be.

Whoever may edit the configuration, or a name's DNS record, shall not reach what only the machine can: its cloud's
metadata service, its neighbours on the link, the gateway's own control plane. Private networks and loopback are where
upstreams usually are; they are allowed.

    ALLOW, DENY    networks and host names (`10.0.0.0/8`, `::1`, `api.example.com`, `*.example.com`)
    an address     the narrowest network that holds it decides; of equals DENY, then ALLOW, then what is built in
    a name         DENY refuses it; ALLOW lets it lead to what DENY refuses, but never to what is built in

Asked when something is saved, as far as the text tells, and for each connection that is opened, about the very address
it goes to: a name that leads elsewhere the second time gains nothing. A request over an open connection asks nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gateway.proxy.errors import UpstreamForbidden

logger = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

BUILT_IN: dict[str, str] = {
    "0.0.0.0/8": "no address of a machine",
    "100.100.100.200": "a cloud's metadata service",
    "169.254.0.0/16": "link-local",
    "169.254.169.254": "a cloud's metadata service",
    "192.0.0.192": "a cloud's metadata service",
    "224.0.0.0/4": "multicast",
    "255.255.255.255": "broadcast",
    "::": "no address of a machine",
    "fd00:ec2::254": "a cloud's metadata service",
    "fd20:ce::254": "a cloud's metadata service",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
}
#: IPv6 in which an IPv4 address is hidden that a gateway on the way may lead to (RFC 6052, 4291 §2.5.5.1).
_NAT64, _COMPATIBLE = IPv6Network("64:ff9b::/96"), IPv6Network("::/96")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
#: What `inet_aton`, and so every resolver, takes for an address: 127.1, 0x7f000001, 2130706433.
_OLD_LITERAL = re.compile(r"[0-9][0-9a-fx.]*")
_MOST_TOLD = 1000


def place(word: str) -> Network | str:
    """A network, or a name in lower case. Raises ValueError."""
    if _NAME.fullmatch(name := word.lower()) and not name.replace(".", "").isdecimal():
        return name
    try:
        return ip_network(word)
    except ValueError as error:
        raise ValueError(f"'{word}' is no network such as 10.0.0.0/8 or fd00::/8, and no host name: {error}.") from None


def is_host(text: str) -> bool:
    """An address or a name, as a resolver takes it."""
    return _literal(text) is not None or (
        _NAME.fullmatch(text.lower().removesuffix(".")) is not None and "*" not in text
    )


def split(text: str, port: int = 0) -> tuple[str, int]:
    """Of `host`, `host:port`, `[::1]` or `[::1]:port`; `port`: where none is said."""
    host, colon, said = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), port
    return host.strip("[]"), int(said)


class Fence:
    """`own_ports`: of the gateway on this machine, where it listens on loopback, or on `own_address`."""

    def __init__(
        self,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        own_ports: Collection[int] = (),
        own_address: str = "",
    ) -> None:
        allowed, denied = [place(word) for word in allow], [place(word) for word in deny]
        self._allowed_names = [one for one in allowed if isinstance(one, str)]
        self._denied_names = [one for one in denied if isinstance(one, str)]
        built_in = [(ip_network(text), f"is {why}") for text, why in BUILT_IN.items()]
        let = [(one, "") for one in allowed if not isinstance(one, str)]
        no = [(one, f"is in {one} of GATEWAY_UPSTREAM_DENY") for one in denied if not isinstance(one, str)]
        self._of_trusted: list[tuple[Network, str]] = [*let, *built_in]
        self._rules: list[tuple[Network, str]] = [*no, *self._of_trusted]
        self._own_ports = frozenset(own_ports)
        self._own_address = _literal(own_address)
        self._told: set[tuple[str, str]] = set()

    def fault(self, host: str, port: int = 0) -> str:
        """Why nothing may be sent there, for people; empty where nothing is wrong that the text tells."""
        if host.startswith("unix:"):
            return ""
        literal = _literal(host)
        return self._name_fault(host) if literal is None else self._address_fault(literal, port)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where the name leads to, without what may not be; connect to one of these, and not to the name again.

        Raises OSError where nobody knows the name, UpstreamForbidden where nothing is left.
        """
        literal = _literal(host)
        if literal is not None:
            found = [str(literal)]
        elif fault := self._name_fault(host):
            raise self._forbidden(host, fault)
        else:
            loop = asyncio.get_running_loop()
            rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        faults = [self.address_fault(address, port, host) for address in found]
        sound = [address for address, fault in zip(found, faults, strict=True) if not fault]
        if not sound:
            raise self._forbidden(host, faults[0] if faults else "It has no address.")
        return sound

    def check(self, address: str, port: int, host: str) -> None:
        """Of a connection that `host` led to. Raises UpstreamForbidden."""
        if fault := self._name_fault(host) or self.address_fault(address, port, host):
            raise self._forbidden(host, fault)

    def address_fault(self, address: str, port: int, host: str = "") -> str:
        """Of one that `host` led to."""
        return self._address_fault(ip_address(address), port, _named(host.lower().rstrip("."), self._allowed_names))

    def _name_fault(self, host: str) -> str:
        if _named(host.lower().rstrip("."), self._denied_names):
            return f"{host} is in GATEWAY_UPSTREAM_DENY: upstreams may not be there."
        return ""

    def _address_fault(self, address: Address, port: int, trusted: bool = False) -> str:
        faces = _faces(address)
        if port in self._own_ports and any(one.is_loopback or one == self._own_address for one in faces):
            return f"Port {port} of {address} is the gateway's own: upstreams may not be there."
        rules = self._of_trusted if trusted else self._rules
        for face in faces:
            holding = [rule for rule in rules if face in rule[0]]
            if holding and (why := max(holding, key=lambda rule: rule[0].prefixlen)[1]):
                return f"{address} {why}: upstreams may not be there. GATEWAY_UPSTREAM_ALLOW can say otherwise."
        return ""

    def _forbidden(self, host: str, fault: str) -> UpstreamForbidden:
        if (host, fault) not in self._told and len(self._told) < _MOST_TOLD:  # once, not for each request
            self._told.add((host, fault))
            logger.warning("no connection is made to %s. %s", host, fault)
        return UpstreamForbidden()


def _named(host: str, patterns: Iterable[str]) -> bool:
    return any(host.endswith(one[1:]) if one.startswith("*.") else host == one for one in patterns)


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        pass
    if not _OLD_LITERAL.fullmatch(host.lower()):
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _faces(address: Address) -> list[Address]:
    """The address, and an IPv4 address that is hidden in it."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:  # what the kernel connects to
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return [address, IPv4Address(int(address) & 0xFFFF_FFFF)]
    return [address]


#: As it is without settings.
FENCE = Fence()
