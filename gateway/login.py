"""The login page: after five wrong passwords of one account from one address it takes no more for a quarter of an hour.

Counted in Redis, for all processes together, before the password is looked at: guesses sent at once are counted as
well. By account *and* address, so that nobody can lock out somebody else. Without Redis nothing is counted, and people
can still log in.
"""

from __future__ import annotations

import hashlib
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from unfold.forms import AuthenticationForm

from gateway.proxy.downstream import Downstream

TRIES = 5
SPAN_S = 15 * 60


class LoginForm(AuthenticationForm):
    error_messages = {
        **AuthenticationForm.error_messages,
        "throttled": "Too many wrong passwords for this account from your address. Try again in 15 minutes.",
    }

    def clean(self) -> dict[str, Any]:
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not name or not password:
            return super().clean()
        tries = Tries(name, address_of(self.request))
        if tries.count() > TRIES:
            raise ValidationError(self.error_messages["throttled"], code="throttled")
        cleaned = super().clean()
        tries.forget()
        return cleaned


class Tries:
    """Of one account from one address. The time runs from the first of them."""

    def __init__(self, account: str, address: str) -> None:
        digest = hashlib.sha256(f"{address} {account.casefold()}".encode(errors="replace")).hexdigest()
        self._key = f"login:{digest[:32]}"

    def count(self) -> int:
        """How many there have been, this one included. 0: nobody knows."""
        cache.add(self._key, 0, SPAN_S)
        try:
            return int(cache.incr(self._key) or 0)  # None: no Redis
        except ValueError:  # it ran out in between
            return 0

    def forget(self) -> None:
        cache.delete(self._key)


def address_of(request: HttpRequest | None) -> str:
    """The client's: that of the connection, or what a trusted proxy says."""
    if request is None:
        return ""
    peer = str(request.META.get("REMOTE_ADDR", ""))
    downstream = Downstream(settings.ENVIRONMENT.trusted_proxies)
    forwarded_for = request.headers.get("X-Forwarded-For", "").encode(errors="replace")
    return downstream.client(forwarded_for, peer) if downstream.trusts(peer) else peer
