"""bot-detection: refuses clients by what they call themselves (`User-Agent`).

Phases   access
Fails    403 `bot_detected`. Never needs the network, so it cannot fail open
Compare  Kong's bot-detection (same lists; its own rules can be turned off here, and who sends no name is matched as the
         empty text rather than refused)

It keeps polite bots out. Whoever lies about the name passes: this is no protection against an attacker.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange
from gateway.proxy.expressions import compiled

MAX_REMEMBERED = 2000
MAX_REMEMBERED_BYTES = 512
#: Those that say what they are. The phones of a maker called Cubot are none.
_KNOWN = compiled(
    r"(?i)(?:^|[^u]|[^c]u|^u)bots?\b|crawl|spider|slurp|scrap(?:e|y)|archiver\b|heritrix|nutch|httrack"
    r"|facebookexternalhit|mediapartners-google|bingpreview|ahrefs|semrush|headlesschrome"
)


def _expression(text: str) -> str:
    compiled(text)
    return text


Expression = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_expression)]


class BotDetectionConfig(PluginConfig):
    allow: tuple[Expression, ...] = Field((), max_length=1000)
    """RE2 expressions; a name that one of them finds passes, whatever else is said."""
    deny: tuple[Expression, ...] = Field((), max_length=1000)
    """RE2 expressions; a name that one of them finds does not pass. `^$` is a client without a name."""
    deny_known: bool = True
    """Refuse those that call themselves bots, crawlers, spiders or scrapers, too."""

    @model_validator(mode="after")
    def _denies_something(self) -> BotDetectionConfig:
        if not self.deny and not self.deny_known:
            raise ValueError("Name at least one expression in deny, or leave deny_known on.")
        return self


class BotDetection(Plugin):
    name = "bot-detection"
    Config = BotDetectionConfig
    config: BotDetectionConfig

    def __init__(self, config: BotDetectionConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._allow = [compiled(text) for text in config.allow]
        self._deny = [compiled(text) for text in config.deny] + [_KNOWN] * config.deny_known
        self._known: dict[bytes, bool] = {}  # name → whether it is refused

    def access(self, exchange: Exchange) -> None:
        agent = b", ".join(headers.get_all(exchange.headers, b"user-agent"))
        refused = self._known.get(agent)
        if refused is None:
            refused = self._refuses(agent)
            if len(agent) <= MAX_REMEMBERED_BYTES:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()
                self._known[agent] = refused
        if refused:
            exchange.detail = f"bot-detection: {agent[:100].decode('latin-1') or 'a client without a name'}"
            raise Reject(403, "bot_detected", "Bots may not call this.")

    def _refuses(self, agent: bytes) -> bool:
        if any(expression.search(agent) for expression in self._allow):
            return False
        return any(expression.search(agent) for expression in self._deny)
