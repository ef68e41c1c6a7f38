"""A plugin that runs before anybody is identified."""

from typing import Any

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig


class Stamp(Plugin):
    name = "stamp"

    class Config(PluginConfig):
        header: str = Field("x-stamp", min_length=1)

    def response(self, exchange: Any) -> None:
        exchange.response_headers.append((self.config.header.encode(), b"1"))
