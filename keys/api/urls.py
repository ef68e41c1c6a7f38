"""Consumers, their keys, and tokens in the admin API. They are in no version: every change takes effect at once."""

from __future__ import annotations

from django.urls import URLPattern, path

from keys.api.basic import BasicOne, BasicsOfConsumer
from keys.api.consumers import ConsumerOne, Consumers
from keys.api.keys import KeyOne, KeyRevoke, KeyRotate, Keys, KeySnippets, KeysOfConsumer
from keys.api.tokens import TokenOne, TokenRevoke, Tokens


def urlpatterns_with(snippets: KeySnippets) -> list[URLPattern]:
    """`snippets`: ready calls with a new key. Routes are above consumers and keys, so the caller brings them."""
    return [
        path("consumers", Consumers.as_view(), name="consumers"),
        path("consumers/<str:ref>", ConsumerOne.as_view(), name="consumer"),
        path("consumers/<str:ref>/keys", KeysOfConsumer.as_view(snippets=snippets), name="consumer-keys"),
        path("consumers/<str:ref>/basic-credentials", BasicsOfConsumer.as_view(), name="consumer-basics"),
        path("consumers/<str:ref>/basic-credentials/<str:name>", BasicOne.as_view(), name="consumer-basic"),
        path("keys", Keys.as_view(snippets=snippets), name="keys"),
        path("keys/<str:ref>", KeyOne.as_view(), name="key"),
        path("keys/<str:ref>/rotate", KeyRotate.as_view(snippets=snippets), name="key-rotate"),
        path("keys/<str:ref>/revoke", KeyRevoke.as_view(), name="key-revoke"),
        path("tokens", Tokens.as_view(), name="tokens"),
        path("tokens/<str:ref>", TokenOne.as_view(), name="token"),
        path("tokens/<str:ref>/revoke", TokenRevoke.as_view(), name="token-revoke"),
    ]
