"""A plugin that identifies the consumer."""

from typing import Any

from gateway.plugins.base import Plugin, PluginConfig


class Badge(Plugin):
    name = "badge"
    identifies = True

    class Config(PluginConfig):
        pass

    def access(self, exchange: Any) -> None:
        exchange.consumer = None
