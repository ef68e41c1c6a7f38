"""Change → nudge. The feed itself is written by triggers; a path without signals is only found a poll later."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import post_delete, post_save

from keys.models import ApiKey, Consumer
from keys.nudge import CREDENTIALS_CHANNEL, nudge


def connect() -> None:
    for signal in (post_save, post_delete):
        for model in (Consumer, ApiKey):
            signal.connect(_changed, sender=model, dispatch_uid="keys.nudge")


def _changed(**_: Any) -> None:
    nudge(CREDENTIALS_CHANNEL)
