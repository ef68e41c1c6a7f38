"""What the client's side of a request says, read once and with suspicion: addresses, host, scheme, fields to drop."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import HOP_BY_HOP, Given, Lasting, Pairs, canonical, connection_options, get, get_all

#: Fields only the gateway may set upstream (design: names from outside). `Expect` is answered by our own server.
_OWNED = frozenset({b"forwarded", b"x-real-ip", b"x-credential-identifier", b"x-anonymous-consumer", b"expect"})
_OWNED_PREFIXES = (b"x-forwarded-", b"x-consumer-", b"daphne-")


#: The body's length stays whatever `Connection` says, for the body stays too.
_FRAMING = frozenset({b"content-length"})


class Downstream:
    """Reads the client's side. `trusted`: networks whose `X-Forwarded-*` are believed."""

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        self._trusted = tuple(trusted)
        self._dropped: dict[bytes, bool] = {}

    def read(self, exchange: Exchange) -> None:
        """Fill host, scheme, port and addresses of the exchange, and leave only end-to-end fields in its headers."""
        pairs = exchange.headers
        read = pairs.read if type(pairs) is Given else None
        if read is None:
            read = self._read(pairs)
            if type(pairs) is Given:
                pairs.read = read
        base, exchange.authority, exchange.host = read
        if self._trusted and self.trusts(exchange.peer_ip):
            exchange.peer_trusted = True
            self._believe(exchange)
        exchange.headers = base.grow()

    def _read(self, pairs: Pairs) -> tuple[Lasting, bytes, str]:
        host, named = b"", frozenset[bytes]()
        for name, value in pairs:
            if name == b"host":
                host = value
            elif name == b"connection":
                named = connection_options(pairs) - _FRAMING
        dropped = self._dropped
        kept = [p for p in pairs if not (dropped[p[0]] if p[0] in dropped else self._drops(p[0]))]
        return Lasting([p for p in kept if p[0] not in named] if named else kept), host, host_name(host)

    def trusts(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)

    def _drops(self, name: bytes) -> bool:
        """Hop-by-hop, or ours, or a look-alike of ours by `_` or `.`. Remembered: clients use few names."""
        read = canonical(name)
        owned = read in _OWNED or read.startswith(_OWNED_PREFIXES)
        drops = owned or read in HOP_BY_HOP or name == b"host" or read in _FRAMING - {name}
        if len(self._dropped) < 2000 and len(name) <= 64:  # bounds against made-up names
            self._dropped[name] = drops
        return drops

    def _believe(self, exchange: Exchange) -> None:
        """Take client address, scheme, host and port from a trusted proxy's fields."""
        pairs = exchange.headers
        exchange.forwarded_for = b", ".join(get_all(pairs, b"x-forwarded-for"))
        exchange.client_ip = self.client(exchange.forwarded_for, exchange.peer_ip)
        if (proto := get(pairs, b"x-forwarded-proto")) in (b"http", b"https"):
            exchange.scheme = proto.decode()
        if forwarded_host := get(pairs, b"x-forwarded-host"):
            exchange.authority, exchange.host = forwarded_host, host_name(forwarded_host)
        if (port := get(pairs, b"x-forwarded-port")) and port.isdigit() and len(port) < 6:
            exchange.port = int(port)

    def client(self, forwarded_for: bytes, peer: str) -> str:
        """The right-most address that is not a trusted proxy; garbage ends the search."""
        client = peer
        for word in reversed(forwarded_for.split(b",")):
            try:
                address = str(ip_address(word.strip().decode("ascii")))
            except ValueError:
                break
            client = address
            if not self.trusts(address):
                break
        return client


def host_name(authority: bytes) -> str:
    """Lower case, without port and final dot; brackets of an IPv6 address kept."""
    text = authority.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].rstrip(".")
