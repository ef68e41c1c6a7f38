"""Who a verified token is about: the consumer, the groups, the header fields the upstream gets."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from gateway.plugins import claims
from gateway.plugins.base import CredentialLookup, PluginConfig, Refusal
from gateway.plugins.edits import check_name
from gateway.plugins.tokens import BadToken, ExpiredToken
from gateway.proxy import headers
from gateway.proxy.exchange import Consumer, Credential, Exchange

#: Only a credential says these to the upstream.
OWNED = frozenset({
    b"x-consumer-id", b"x-consumer-username", b"x-consumer-custom-id", b"x-consumer-groups", b"x-credential-identifier",
})  # fmt: skip

ConsumerBy = Literal["none", "username", "custom_id"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


def _may_be_set(name: str) -> str:
    lowered = check_name(name).lower().replace("_", "-").replace(".", "-")
    if lowered.startswith(("x-consumer-", "x-forwarded-")) or lowered in ("x-credential-identifier", "x-real-ip"):
        raise ValueError(f"'{name}' is the gateway's own: choose another name for the claim.")
    return name


class ClaimHeader(PluginConfig):
    claim: Text
    """Name of the claim; dots lead into objects: `realm_access.roles`."""
    header: Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_may_be_set)]
    """The header field. What the client sent under this name goes, also if the token has no such claim."""


class IdentityConfig(PluginConfig):
    consumer_claim: str = Field("sub", min_length=1, max_length=1000)
    """The claim that says who calls: limits count by it, and the upstream gets it in `X-Credential-Identifier`."""
    consumer_by: ConsumerBy = "none"
    """Look for the consumer whose username or custom ID is exactly that claim. `none`: do not look."""
    consumer_required: bool = False
    """Refuse tokens that lead to no consumer."""
    groups_claim: str = Field("", max_length=1000)
    """A claim with groups for `acl`: a list, or words in one text. They add to the consumer's own."""
    claims_to_headers: tuple[ClaimHeader, ...] = Field((), max_length=32)
    """Claims the upstream gets as header fields: text as it is, anything else as JSON."""


@dataclass(slots=True)
class Who:
    """What the claims say. `claims` are those the upstream's templates may read. `credential` was made for `found`, the
    consumer as last looked up: whoever keeps this keeps both."""

    identity: str
    groups: frozenset[str]
    fields: headers.Pairs
    subject: int
    claims: dict[str, Any]
    scopes: frozenset[str]
    found: Credential | None = None
    credential: Credential | None = None


class Identity:
    """`kind`: of the credentials it makes. `owned`: fields that only a token may say, `-` for `_` and `.`."""

    def __init__(self, config: IdentityConfig, kind: str, lookup: CredentialLookup) -> None:
        self._by, self._required, self._kind, self._lookup = config.consumer_by, config.consumer_required, kind, lookup
        self._claim, self._groups_claim = config.consumer_claim, config.groups_claim
        self._set = [(entry.claim, entry.header.lower().encode()) for entry in config.claims_to_headers]
        self.owned = frozenset(headers.canonical(name) for _, name in self._set)

    def read(self, said: dict[str, Any]) -> Who:
        """Raises BadToken."""
        identity = claims.identity(claims.at(said, self._claim))
        groups = claims.groups(claims.at(said, self._groups_claim)) if self._groups_claim else frozenset()
        values = [(name, claims.at(said, claim)) for claim, name in self._set]
        fields = [(name, claims.field_value(value)) for name, value in values if value is not None]
        subject = claims.subject(str(said.get("iss", "")), identity)
        return Who(identity, groups, fields, subject, said, claims.scopes(said))

    def admit(self, exchange: Exchange, who: Who) -> Awaitable[None] | None:
        """Writes it into the exchange. Raises BadToken, CredentialsUnavailable, perhaps only when awaited."""
        if self._by == "none" or not who.identity:
            self._let_in(exchange, who, None)
            return None
        found = self._lookup.find_consumer(self._by, who.identity)
        if isinstance(found, (Credential, Refusal)):
            self._let_in(exchange, who, found)
            return None
        return self._let_in_later(exchange, who, found)

    async def _let_in_later(self, exchange: Exchange, who: Who, finding: Awaitable[Credential | Refusal]) -> None:
        self._let_in(exchange, who, await finding)

    def _let_in(self, exchange: Exchange, who: Who, found: Credential | Refusal | None) -> None:
        """Who proved nothing of themselves leaves in place what another plugin has found out."""
        if isinstance(found, Refusal):
            if found.code == "consumer_disabled":
                raise ConsumerDisabled("The owner of this token is disabled.")
            found = None
        if found is None and self._required:
            raise BadToken("This token leads to no consumer.")
        if who.credential is None or who.found is not found:
            who.found, who.credential = found, self._credential(who, found)
        credential = who.credential
        if self.owned:
            self.drop(exchange)
        if who.identity or who.groups or exchange.consumer is None:
            exchange.headers[:] = [pair for pair in exchange.headers if pair[0] not in OWNED]
            exchange.headers += credential.fields
            exchange.credential = credential if who.identity else None
            exchange.consumer = credential.consumer if who.identity or who.groups else None
        exchange.claims = who.claims
        exchange.headers += who.fields

    def _credential(self, who: Who, found: Credential | None) -> Credential:
        if found is None:
            consumer = Consumer(0, who.identity, groups=who.groups)
        else:
            consumer = replace(found.consumer, groups=found.consumer.groups | who.groups)
        return Credential(self._kind, who.subject, who.identity, consumer, who.scopes)

    def drop(self, exchange: Exchange) -> None:
        """What only a token may say, also under names that an upstream may read as the same (`X_User` for `X-User`)."""
        headers.remove_owned(exchange.headers, self.owned)


class ConsumerDisabled(BadToken):
    """Known, but not let in."""


def code_of(error: BadToken) -> str:
    """Of the refusal."""
    if isinstance(error, ConsumerDisabled):
        return "consumer_disabled"
    return "token_expired" if isinstance(error, ExpiredToken) else "token_invalid"
