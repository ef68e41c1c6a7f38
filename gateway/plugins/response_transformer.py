"""response-transformer: changes header fields and the status of the answer before it goes downstream.

Phases   response
Fails    never at run time: what could fail is refused when the setting is made
Compare  Kong's response-transformer (same shape; `set`, `status` and `if_status` are ours; bodies: body-transformer)

It runs before the other plugins' response hooks, so it sees the upstream's fields and not those the gateway adds.
See `gateway.plugins.edits` for the words' meaning.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.edits import AnswerPairs, HeaderEdits, HeaderNames, HeaderRenames
from gateway.proxy.exchange import Exchange

_STATUSES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


def _statuses(text: str) -> str:
    found = _STATUSES.fullmatch(text)
    if found is None or (found[2] and found[2] < found[1]):
        raise ValueError(f"'{text}' is neither a status such as `404` nor a range such as `500-599`.")
    return text


def _status(status: int | None) -> int | None:
    if status in (204, 205, 304):
        raise ValueError(f"{status} means an answer without a body, which only the upstream can give.")
    return status


Statuses = Annotated[str, StringConstraints(max_length=7), AfterValidator(_statuses)]


class ResponseTransformerConfig(PluginConfig):
    remove: HeaderNames = HeaderNames()
    """What goes."""
    rename: HeaderRenames = HeaderRenames()
    """`old:new`: keeps values and places. What was called `new` goes."""
    replace: AnswerPairs = AnswerPairs()
    """`name:value`, only where there is one by that name."""
    set: AnswerPairs = AnswerPairs()
    """`name:value`, whether there is one by that name or not."""
    add: AnswerPairs = AnswerPairs()
    """`name:value`, only where there is none by that name."""
    append: AnswerPairs = AnswerPairs()
    """`name:value` as one more, whatever there is."""
    status: Annotated[int | None, AfterValidator(_status)] = Field(None, ge=200, le=599)
    """The status sent downstream. None: no change. Answers that must have no body (204, 205, 304) keep theirs."""
    if_status: tuple[Statuses, ...] = Field((), max_length=100)
    """Only for answers that have one of these: statuses, or ranges such as `500-599`. Empty: for all."""

    @model_validator(mode="after")
    def _does_something(self) -> ResponseTransformerConfig:
        if self == ResponseTransformerConfig.model_construct(if_status=self.if_status):
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
        ranges = (text.partition("-") for text in config.if_status)
        self._only = frozenset(status for low, _, high in ranges for status in range(int(low), int(high or low) + 1))

    def response(self, exchange: Exchange) -> None:
        assert exchange.response_headers is not None
        if self._only and exchange.status not in self._only:
            return
        self._headers.apply(exchange.response_headers, exchange)
        if self.config.status is not None and exchange.status not in (204, 205, 304):
            exchange.status = self.config.status
