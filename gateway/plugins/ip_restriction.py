"""ip-restriction: lets a request through, or not, by the address it came from.

Phases   access
Fails    403 `ip_not_allowed` (or `status`). Never needs the network, so it cannot fail open
Compare  Kong's ip-restriction (same field names; deny wins in both)

The address is the one the gateway has decided on: what is connected to it, or what a trusted proxy says of its own
client. A field that a stranger sends counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange

MAX_REMEMBERED = 4096


def _network(text: str) -> str:
    """In its normal form. A bit beyond the prefix is a slip, and the wrong half of the guesses opens a door."""
    try:
        return str(ip_network(text))
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text}' is neither an address nor a network such as 10.0.0.0/8 or fd00::/8.") from None
    raise ValueError(f"'{text}' has bits beyond its prefix. The network is {meant}; one address needs no prefix.")


Network = Annotated[str, StringConstraints(max_length=64, strip_whitespace=True), AfterValidator(_network)]


class IpRestrictionConfig(PluginConfig):
    allow: tuple[Network, ...] = Field((), max_length=10_000)
    """Addresses and networks that may pass, IPv4 and IPv6. Empty: all that `deny` does not name."""
    deny: tuple[Network, ...] = Field((), max_length=10_000)
    """Addresses and networks that may not pass, also where `allow` names them."""
    status: int = Field(403, ge=400, le=599)
    """Status of a refusal."""
    message: str = Field("", max_length=500)
    """Sentence for refused clients. Empty: one that names their address."""

    @model_validator(mode="after")
    def _says_something(self) -> IpRestrictionConfig:
        if not self.allow and not self.deny:
            raise ValueError("Name at least one address or network in allow or deny.")
        if both := sorted(set(self.allow) & set(self.deny)):
            raise ValueError(f"These stand in both lists, and deny would win: {', '.join(both)}.")
        return self


class IpRestriction(Plugin):
    name = "ip-restriction"
    Config = IpRestrictionConfig
    config: IpRestrictionConfig

    def __init__(self, config: IpRestrictionConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._allow, self._deny = Networks(config.allow), Networks(config.deny)
        self._known: dict[str, str] = {}  # address → why not

    def access(self, exchange: Exchange) -> None:
        address = exchange.client_ip
        reason = self._known.get(address)
        if reason is None:
            reason = self._reason(address)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[address] = reason
        if reason:
            shown = address or "a client without an address"
            exchange.detail = f"ip-restriction: {shown} {reason}"
            said = self.config.message or f"Your address may not call this: {shown}."
            raise Reject(self.config.status, "ip_not_allowed", said)

    def _reason(self, text: str) -> str:
        """Why this address may not pass; empty if it may. Who has none to be judged by may not (a unix socket)."""
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return "cannot be judged"
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address in self._deny:
            return "is denied"
        return "is not allowed" if self.config.allow and address not in self._allow else ""


class Networks:
    """As numbers by the length of their prefix: a look-up per length, however many networks there are."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._numbers: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}  # version → bits to drop → what is left
        for network in map(ip_network, texts):
            dropped = network.max_prefixlen - network.prefixlen
            self._numbers[network.version].setdefault(dropped, set()).add(int(network.network_address) >> dropped)

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        number = int(address)
        return any(number >> dropped in found for dropped, found in self._numbers[address.version].items())
