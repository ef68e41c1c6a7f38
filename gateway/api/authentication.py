"""Sessions as a way in, for the dashboard and the docs pages. Tokens: `keys.authentication`."""

from __future__ import annotations

from rest_framework import authentication


class SessionAuthentication(authentication.SessionAuthentication):
    """Django's session; unsafe methods need the CSRF token (`X-CSRFToken`)."""
