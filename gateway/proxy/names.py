"""Asks DNS where an upstream's targets are: addresses of a name (A, else AAAA) or services (SRV, RFC 2782).

By dnspython, which says how long an answer counts; the system's resolver does not. Loaded with the first upstream that
needs it. `/etc/hosts` is not read; search domains of `/etc/resolv.conf` are tried as the system does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from dns.asyncresolver import Resolver
from dns.name import root
from dns.rdatatype import RdataType
from dns.resolver import Answer, NoAnswer

from gateway.proxy.fence import Fence, split
from gateway.proxy.snapshot import DiscoveryPolicy, TargetSpec

#: Of one try and of one question, all servers together.
TRY_S, QUESTION_S = 1.0, 3.0
DNS_PORT = 53
MAX_WEIGHT = 65535
#: Names of SRV records that are looked up at the same time.
AT_ONCE = 8


async def look(policy: DiscoveryPolicy, fence: Fence) -> tuple[list[TargetSpec], float]:
    """The targets, and for how many seconds that counts. Raises DNSException, OSError."""
    resolver = await _resolver(policy.resolver, fence)
    if policy.kind == "dns":
        found, ttl_s = await _addresses(resolver, policy.name)
        return [_target(address, policy.port, policy.name) for address in found], ttl_s
    answer = await _ask(resolver, policy.name, RdataType.SRV)
    records = [record for record in answer if record.target != root]  # the root: the service is not there
    lightest = 1 if any(record.weight for record in records) else 100  # weight 0 is little, not none
    gate = asyncio.Semaphore(AT_ONCE)

    async def at(host: str) -> tuple[list[str], float]:
        async with gate:
            return await _addresses(resolver, host)

    hosts = sorted({record.target.to_text() for record in records})
    looked = await asyncio.gather(*(at(host) for host in hosts), return_exceptions=True)
    known = {host: one for host, one in zip(hosts, looked, strict=True) if not isinstance(one, BaseException)}
    if hosts and not known:
        raise next(one for one in looked if isinstance(one, BaseException))
    targets = [
        _target(address, record.port, host.rstrip("."), record.weight or lightest, record.priority)
        for record in records
        if (host := record.target.to_text()) in known
        for address in known[host][0]
    ]
    return targets, min([_ttl_s(answer), *(ttl_s for _, ttl_s in known.values())])


def _target(address: str, port: int, name: str, weight: int = 100, priority: int = 0) -> TargetSpec:
    return TargetSpec(0, address, port, min(weight, MAX_WEIGHT), name.rstrip("."), priority, discovered=True)


async def _resolver(place: str, fence: Fence) -> Resolver:
    """`place`: `host:port`; empty: those of /etc/resolv.conf, as it is now."""
    if not place:
        resolver = await asyncio.to_thread(Resolver)
    else:
        host, port = split(place, DNS_PORT)
        resolver = Resolver(configure=False)
        resolver.nameservers = await fence.addresses(host, port)
        resolver.port = port
    resolver.timeout, resolver.lifetime = TRY_S, QUESTION_S
    return resolver


async def _addresses(resolver: Resolver, name: str) -> tuple[list[str], float]:
    """IPv6 only where there is no IPv4: a machine is one target."""
    try:
        answer = await _ask(resolver, name, RdataType.A)
    except NoAnswer:
        answer = await _ask(resolver, name, RdataType.AAAA)
    return _texts(answer), _ttl_s(answer)


def _texts(answer: Iterable[object]) -> list[str]:
    return sorted(str(record) for record in answer)


async def _ask(resolver: Resolver, name: str, kind: RdataType) -> Answer:
    return await resolver.resolve(name, kind, search=True)


def _ttl_s(answer: Answer) -> float:
    """The least of the records on the way, aliases included."""
    return float(answer.chaining_result.minimum_ttl)
