"""Whether a target is well: pure rules, for what a worker's own traffic shows and for what a node's probes say.

    Standing   in ──`after` failures in a row──► out ──time is up, one request goes──► trial ──it is answered──► in
                                                  ▲                                      │
                                                  └─────────it fails: twice as long──────┘
    Probed     up ──`unhealthy_after` bad probes in a row──► down ──`healthy_after` good ones──► up

A target takes traffic if it has a weight, is up and is in. What is the gateway's own or the client's doing never counts
against a target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gateway.proxy.errors import ConnectFailed, UpstreamBroke, UpstreamError, UpstreamTimeout
from gateway.proxy.snapshot import Blame, EjectPolicy, ProbePolicy

State = Literal["up", "draining", "down", "ejected"]

#: Answers that speak of the request, not of the target: 501 Not Implemented, 505 HTTP Version Not Supported.
NOT_ITS_FAULT = frozenset({501, 505})
_DOUBLINGS_MAX = 30
#: So many failures in a row, and a target gets no more requests at once than it has failures left.
SUSPECT = 2
#: The failure of an answer that broke off after a good head: only a whole answer, not a further head, makes up for it.
BODY_BROKE = "its answer broke off"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is held against a target. Times are those of the balancer's clock, which all workers of a node share."""

    failures: int = 0  # in a row
    ejections: int = 0  # without a long good time between them
    phase: Literal["in", "out", "trial"] = "in"
    until_s: float = 0.0  # out: no request before; trial: no further one before; in: when the last ejection ended
    moved_s: float = 0.0  # when the phase last changed: of two workers that differ, the later one is right
    fault: str = ""  # the last failure, for people


GOOD = Standing()


def failed(standing: Standing, now_s: float, policy: EjectPolicy, may_eject: bool, fault: str = "") -> Standing:
    """`may_eject`: enough others are left. A failure of a request sent before the ejection changes nothing more."""
    failures = standing.failures + 1
    if standing.phase == "in":
        if not policy.after or failures < policy.after or not may_eject:
            return replace(standing, failures=failures, fault=fault)
    elif standing.phase == "out":
        return replace(standing, failures=failures)
    forgotten = standing.phase == "in" and now_s - standing.until_s > policy.max_s
    ejections = 0 if forgotten else standing.ejections
    out_s = min(policy.base_s * 2.0 ** min(ejections, _DOUBLINGS_MAX), policy.max_s)
    return Standing(failures, ejections + 1, "out", now_s + out_s, now_s, fault)


def answered(standing: Standing, now_s: float) -> Standing:
    """After a good answer. While a target is out, one of an older request proves nothing."""
    if standing.phase == "out":
        return standing
    if standing.phase == "in":
        return replace(standing, failures=0, fault="")
    return Standing(0, standing.ejections, "in", now_s, now_s)


def tried(standing: Standing, now_s: float, policy: EjectPolicy) -> Standing:
    """A request goes to a target whose time out is over. If nothing comes of it, another may go `base_s` later."""
    return replace(standing, phase="trial", until_s=now_s + policy.base_s, moved_s=now_s)


def agreed(mine: Standing, told: Standing) -> Standing:
    """After another worker told how it stands now, which is not just one failure more."""
    if told.moved_s > mine.moved_s:
        return told
    if told.phase == mine.phase == "in" and not told.failures:
        return replace(mine, failures=0, fault="")
    return mine


def takes(standing: Standing, now_s: float) -> bool:
    return standing.phase == "in" or standing.until_s <= now_s


def may_eject(others: int, down: int, ejected: int, policy: EjectPolicy) -> bool:
    """Of a target with so many others, some of them down or ejected: one may always go, more up to the share that may
    be out, the last that is well never.
    """
    gone = down + ejected
    return gone < others and (not ejected or gone < int((others + 1) * policy.max_share))


def suspect(standing: Standing, in_flight: int, policy: EjectPolicy) -> bool:
    """So many failures in a row that those under way may already be the rest."""
    return standing.phase == "in" and standing.failures >= SUSPECT and 0 < policy.after <= standing.failures + in_flight


def blames(error: UpstreamError, with_body: bool) -> Blame | Literal[""]:
    """What an attempt that ended so says against the target. With a body the total time may be the client's."""
    if isinstance(error, UpstreamTimeout):
        return "" if error.phase == "total" and with_body else "timeout"
    if isinstance(error, ConnectFailed):
        return "connect"
    return "broken" if isinstance(error, UpstreamBroke) else ""


#: For people.
FAULTS: dict[Blame, str] = {
    "status": "status", "connect": "no connection", "timeout": "no answer in time", "broken": "connection broke off",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probes of a node say of a target. Times are seconds since the epoch."""

    up: bool = True
    since_s: float = 0.0  # of `up`; 0: since it is probed
    streak: int = 0  # probes in a row that say otherwise
    at_s: float = 0.0  # the last probe, and what it found; "" is good
    fault: str = ""
    took_ms: float = 0.0


def probed(before: Probed, policy: ProbePolicy, *, fault: str, at_s: float, took_ms: float) -> Probed:
    """After one more probe."""
    good = not fault
    streak = 0 if good == before.up else before.streak + 1
    if streak and streak >= (policy.healthy_after if good else policy.unhealthy_after):
        return Probed(good, at_s, 0, at_s, fault, took_ms)
    return Probed(before.up, before.since_s, streak, at_s, fault, took_ms)


def state_of(weight: int, up: bool, ejected: bool) -> State:
    if not weight:
        return "draining"
    if not up:
        return "down"
    return "ejected" if ejected else "up"
