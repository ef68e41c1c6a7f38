"""acl: lets a consumer through, or not, by the groups it is in and the scopes its key or token has.

Phases   access
Fails    403 `acl_denied`, also for a request without a consumer; 403 `scope_missing`. Never needs the network, so it
         cannot fail open
Compare  Kong's acl (same field names; both lists at once are allowed here, and deny wins; scopes are ours)
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.proxy import headers
from gateway.proxy.errors import Reject
from gateway.proxy.exchange import Exchange

Group = Annotated[str, StringConstraints(min_length=1, max_length=128, strip_whitespace=True)]
Scope = Annotated[str, StringConstraints(pattern=r"^[!#-\[\]-~]+$", max_length=256)]  # RFC 6749 §3.3


class AclConfig(PluginConfig):
    allow: tuple[Group, ...] = Field((), max_length=1000)
    """Groups that may pass. Empty: every consumer that `deny` does not name."""
    deny: tuple[Group, ...] = Field((), max_length=1000)
    """Groups that may not pass, also if `allow` names another group of the consumer."""
    scopes_required: tuple[Scope, ...] = Field((), max_length=100)
    """Scopes that the key or token must have, all of them. Those of a token stand in its `scope` or `scp`."""
    hide_groups_header: bool = False
    """Do not tell the upstream the consumer's groups (`X-Consumer-Groups`)."""

    @model_validator(mode="after")
    def _says_something(self) -> AclConfig:
        if not self.allow and not self.deny and not self.scopes_required:
            raise ValueError("Name at least one group in allow or deny, or a scope in scopes_required.")
        if both := sorted(set(self.allow) & set(self.deny)):
            raise ValueError(f"A group cannot stand in both lists: {', '.join(both)}.")
        return self


class Acl(Plugin):
    name = "acl"
    Config = AclConfig
    config: AclConfig

    def __init__(self, config: AclConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self._allow, self._deny = frozenset(config.allow), frozenset(config.deny)
        self._scopes = frozenset(config.scopes_required)

    def access(self, exchange: Exchange) -> None:
        consumer = exchange.consumer
        if consumer is None:
            exchange.detail = "acl: the request has no consumer; is authentication on this route?"
            raise Reject(403, "acl_denied", "Only known consumers may call this. Say who you are.")
        if denied := consumer.groups & self._deny:
            exchange.detail = f"acl: {consumer.username or 'the caller'} is in the denied group {min(denied)}"
            raise Reject(403, "acl_denied", "You may not call this.")
        if self._allow and not consumer.groups & self._allow:
            exchange.detail = f"acl: {consumer.username or 'the caller'} is in none of the allowed groups"
            raise Reject(403, "acl_denied", "You may not call this.")
        if self._scopes:
            self._check_scopes(exchange)
        if self.config.hide_groups_header:
            headers.remove(exchange.headers, b"x-consumer-groups")

    def _check_scopes(self, exchange: Exchange) -> None:
        missing = self._scopes - (exchange.credential.scopes if exchange.credential is not None else frozenset())
        if missing:
            exchange.detail = f"acl: the key or token lacks the scope {min(missing)}"
            challenge = f'Bearer error="insufficient_scope", scope="{" ".join(self.config.scopes_required)}"'
            raise Reject(
                403, "scope_missing", f"Your key or token lacks the scope {min(missing)}.",
                headers=((b"www-authenticate", challenge.encode()),),
            )  # fmt: skip
