"""Dry runs: what a plugin would have refused is told, and the request goes on.

    a setting with `dry_run` → DryRun(plugin).access in its chains → verdicts → `X-Dry-Run`, the row's detail

Wrapped as the table is made: chains without such a setting hold the plugins' own hooks, as before. Whatever would end
the request in the access hook is a verdict: an error of ours, an Answer, a hook that fails. What the hook has done to
the request by then stays, and what it would have done later it does not do: nobody is identified by a wrong key.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway.plugins.base import Plugin
from gateway.proxy import headers
from gateway.proxy.errors import ClientClosed, GatewayError, PluginFailed
from gateway.proxy.exchange import Answer, Exchange

FIELD = b"x-dry-run"
#: Begins what a row's detail says of dry runs, behind whatever else it says.
SAID = "Dry run: "
_NOTE = "dry-run"
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]")
logger = logging.getLogger("gateway.proxy")

Access = Callable[[Exchange], Answer | Awaitable[Answer | None] | None]


class Verdict(NamedTuple):
    """`word`: pass, refuse or answer; the rest says with what. `told`: to the client, too."""

    word: str
    told: bool
    status: int = 0
    code: str = ""
    reason: str = ""

    @property
    def words(self) -> str:
        """`would refuse (403 acl_denied)`."""
        return f"would {self.word} ({f'{self.status} {self.code}'.rstrip()})"


class DryRun:
    """`access` and `holds` are those of the plugin's condition, where it has one."""

    def __init__(
        self, plugin: Plugin, access: Access | None = None, holds: Callable[[Exchange], bool] | None = None
    ) -> None:
        self._plugin, self._access, self.holds = plugin, access or plugin.access, holds
        self.name, self.setting_id = plugin.name, plugin.setting_id

    def access(self, exchange: Exchange) -> Awaitable[None] | None:
        """Raises ClientClosed only: the client has left while its body was read."""
        before = exchange.detail
        try:
            result = self._access(exchange)
        except Exception as error:  # whatever it is, it would have ended the request
            self._would_end(exchange, before, error)
            return None
        if result is None or isinstance(result, Answer):
            self._end(exchange, before, result)
            return None
        return self._later(exchange, before, result)

    async def _later(self, exchange: Exchange, before: str, result: Awaitable[Answer | None]) -> None:
        try:
            answer = await result
        except Exception as error:
            self._would_end(exchange, before, error)
        else:
            self._end(exchange, before, answer)

    def _would_end(self, exchange: Exchange, before: str, error: Exception) -> None:
        if isinstance(error, ClientClosed):
            raise error
        reason, exchange.detail = exchange.detail, before
        if not isinstance(error, GatewayError):
            logger.error("%s failed in a dry run, request %s", self._plugin.name, exchange.id, exc_info=error)
            error = PluginFailed()
        would_refuse(exchange, self._plugin, error, "" if reason == before else reason)
        self._drop(exchange)

    def _end(self, exchange: Exchange, before: str, answer: Answer | None) -> None:
        if answer is not None:
            reason, exchange.detail, exchange.outcome = exchange.detail, before, ""
            verdict = Verdict("answer", _told(self._plugin), answer.status, "", "" if reason == before else reason)
            _verdicts(exchange)[self._plugin.name] = verdict
            self._drop(exchange)
        elif self.holds is None or self.holds(exchange):
            _verdicts(exchange).setdefault(self._plugin.name, Verdict("pass", _told(self._plugin)))

    def _drop(self, exchange: Exchange) -> None:
        """What a client says in the plugin's place: the upstream may believe it."""
        headers.remove_owned(exchange.headers, self._plugin.owned)


def would_refuse(exchange: Exchange, plugin: Plugin, error: GatewayError, reason: str = "") -> None:
    """For what a plugin finds out later than in its access hook, in a body for example."""
    verdict = Verdict("refuse", _told(plugin), error.status, error.code, reason or error.detail)
    _verdicts(exchange)[plugin.name] = verdict


def verdict_of(exchange: Exchange, name: str) -> Verdict | None:
    """None: no dry run, or its turn has not come."""
    found: dict[str, Verdict] = exchange.notes.get(_NOTE, {})
    return found.get(name)


def tell(exchange: Exchange) -> None:
    """A response hook: the verdicts as a dictionary of RFC 9651, `acl=refuse;status=403;code=acl_denied, opa=pass`."""
    assert exchange.response_headers is not None
    headers.remove(exchange.response_headers, FIELD)
    found = [_member(name, verdict) for name, verdict in _verdicts(exchange).items() if verdict.told]
    if found:
        exchange.response_headers.append((FIELD, ", ".join(found).encode()))


def note(exchange: Exchange) -> None:
    """A log hook, before all others: the detail says what would have ended the request."""
    found = [_words(name, verdict) for name, verdict in _verdicts(exchange).items() if verdict.word != "pass"]
    if found:
        exchange.detail = f"{exchange.detail} {SAID}{'; '.join(found)}".lstrip()


def parted(detail: str) -> tuple[str, str]:
    """A row's detail without what it says of dry runs, and that; empty: nothing would have ended the request."""
    rest, found, said = detail.partition(SAID)
    return (rest.rstrip(), said) if found else (detail, "")


def _verdicts(exchange: Exchange) -> dict[str, Verdict]:
    found: dict[str, Verdict] = exchange.notes.setdefault(_NOTE, {})
    return found


def _told(plugin: Plugin) -> bool:
    return not getattr(plugin.config, "hide_client_headers", False)


def _member(name: str, verdict: Verdict) -> str:
    said = f"{_UNFIT.sub('-', name).lower()}={verdict.word}"
    said += f";status={verdict.status}" if verdict.status else ""
    return said + (f";code={_UNFIT.sub('-', verdict.code)}" if verdict.code else "")


def _words(name: str, verdict: Verdict) -> str:
    """`acl would refuse (403 acl_denied): alice has none of the groups gold`."""
    reason = verdict.reason.removeprefix(f"{name}: ").rstrip(".")
    return f"{name} {verdict.words}" + (f": {reason}" if reason else "")
