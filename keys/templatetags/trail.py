"""What an entry of the audit trail says, for templates."""

from __future__ import annotations

from django import template
from django.contrib.admin.models import LogEntry

from keys import trail

register = template.Library()


@register.filter
def steps(entry: LogEntry) -> list[trail.Step]:
    return list(trail.steps(entry))
