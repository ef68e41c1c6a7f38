"""`manage.py quotas`: raises the counters of quotas in Redis to what the usage rows say. Harmless at any time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from dashboard.reconcile import client_of, reconcile


class Command(BaseCommand):
    help = "Raises the counters of quotas in Redis to what the usage rows say."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            raised = reconcile(client_of(settings.REDIS_URL), datetime.now(UTC))
        except (redis.RedisError, OSError) as error:
            raise CommandError(f"Redis cannot be reached: {error}") from error
        self.stdout.write(f"{raised} counters were raised.")
