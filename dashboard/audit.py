"""The audit trail (`LogEntry`) of what is done on our own pages; Django admin shows it as history."""

from __future__ import annotations

from django.contrib.admin.models import LogEntry
from django.db import models
from django.http import HttpRequest


def log(request: HttpRequest, row: models.Model, action: int, words: str) -> None:
    """`action`: ADDITION, CHANGE or DELETION of `django.contrib.admin.models`. No secret belongs into the words."""
    assert request.user.pk is not None  # pages are for staff
    LogEntry.objects.log_actions(request.user.pk, [row], action, words, single_object=True)
