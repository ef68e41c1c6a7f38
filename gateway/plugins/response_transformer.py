"""response-transformer: changes header fields of the answer before it goes downstream.

Phases   response
Fails    never at run time: what could fail is refused when the setting is made
Compare  Kong's response-transformer (same shape; `set` is ours; bodies stay)

It runs before the other plugins' response hooks, so it sees the upstream's fields and not those the gateway adds.
See `gateway.plugins.edits` for the words' meaning.
"""

from __future__ import annotations

from pydantic import model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import HeaderEdits, HeaderNames, HeaderPairs, HeaderRenames
from gateway.proxy.exchange import Exchange


class ResponseTransformerConfig(PluginConfig):
    remove: HeaderNames = HeaderNames()
    """What goes."""
    rename: HeaderRenames = HeaderRenames()
    """`old:new`: keeps values and places. What was called `new` goes."""
    replace: HeaderPairs = HeaderPairs()
    """`name:value`, only where there is one by that name."""
    set: HeaderPairs = HeaderPairs()
    """`name:value`, whether there is one by that name or not."""
    add: HeaderPairs = HeaderPairs()
    """`name:value`, only where there is none by that name."""
    append: HeaderPairs = HeaderPairs()
    """`name:value` as one more, whatever there is."""

    @model_validator(mode="after")
    def _does_something(self) -> ResponseTransformerConfig:
        if self == ResponseTransformerConfig.model_construct():
            raise ValueError("Nothing to do: give at least one edit.")
        return self


class ResponseTransformer(Plugin):
    name = "response-transformer"
    Config = ResponseTransformerConfig
    config: ResponseTransformerConfig

    def __init__(self, config: ResponseTransformerConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._headers = HeaderEdits(
            remove=config.remove,
            rename=config.rename,
            replace=config.replace,
            put=config.set,
            add=config.add,
            append=config.append,
        )

    def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        self._headers.apply(exchange.response_headers)
