"""`anonymous`: whom a request counts as that does not say who sends it. On several authentications, any will do.

An authentication without `anonymous` insists, whatever others found; one with it asks for nothing of a request that
another has let in already, and takes the rest for this consumer. Credentials that are wrong are refused in any case.
"""

from __future__ import annotations

from gateway.plugins.base import Refusal, Resources
from gateway.plugins.identity import OWNED
from gateway.proxy.errors import CredentialsUnavailable
from gateway.proxy.exchange import Credential, Exchange


def admit(exchange: Exchange, credential: Credential) -> None:
    """Says who calls, to what follows and to the upstream; what the client said of itself goes."""
    exchange.consumer, exchange.credential = credential.consumer, credential
    exchange.headers[:] = [pair for pair in exchange.headers if pair[0] not in OWNED]
    exchange.headers += credential.fields


async def admit_anonymous(exchange: Exchange, resources: Resources, username: str) -> None:
    """Raises CredentialsUnavailable: that a consumer is missing or disabled is no fault of the client's."""
    found = resources.credentials.find_consumer("username", username)
    if not isinstance(found, (Credential, Refusal)):
        found = await found
    if isinstance(found, Refusal):
        raise CredentialsUnavailable(f"The consumer for requests without credentials cannot be had: {found.code}.")
    admit(exchange, found)
    exchange.credential = None  # nothing was proved
