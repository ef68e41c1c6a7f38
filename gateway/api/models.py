"""What the admin API remembers: answers to requests with an `Idempotency-Key`."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class KeptAnswer(models.Model):
    """The answer to a create, written in the same transaction as what it created: both are there, or neither."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    path = models.CharField(max_length=500)
    key = models.CharField(max_length=255)
    request_digest = models.CharField(max_length=64)
    status = models.IntegerField()
    headers = models.JSONField()
    body = models.TextField(help_text="JSON, as it was sent: jsonb would lose the order of fields.")
    created_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "path", "key"], name="keptanswer_unique")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.key} {self.path}"
