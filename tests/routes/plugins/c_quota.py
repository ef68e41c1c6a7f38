"""A plugin that runs after it, with a config that can be wrong in several places."""

from typing import Any

from pydantic import BaseModel, Field

from gateway.plugins.base import Plugin, PluginConfig


class Window(BaseModel):
    seconds: int = Field(ge=1)
    limit: int = Field(ge=1)


class Quota(Plugin):
    name = "quota"

    class Config(PluginConfig):
        windows: list[Window] = Field(min_length=1)

    def access(self, exchange: Any) -> None:
        exchange.notes[self] = self.config.windows
