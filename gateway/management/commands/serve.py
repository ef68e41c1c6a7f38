"""`manage.py serve`: N workers on one socket and the recorder, under a supervisor. For production; see also `up`."""

from __future__ import annotations

import logging
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway import environment, settings
from gateway.server.node import CannotServe, Node

logger = logging.getLogger("gateway.serve")


class Command(BaseCommand):
    help = "Serves this node. SIGTERM drains and stops, SIGHUP rolls the workers one after another."
    requires_system_checks: list[str] = []  # they import the whole application, which only workers need

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--role", choices=["all", "proxy", "admin"], help="what to serve (default: GATEWAY_ROLE)")
        parser.add_argument("--workers", type=int, help="worker processes (default: GATEWAY_WORKERS, or one per core)")
        parser.add_argument("--app", help="another ASGI application than the gateway's own, as module:attribute")

    def handle(self, *args: Any, role: str | None, workers: int | None, app: str | None, **options: Any) -> None:
        if workers is not None and workers < 1:
            raise CommandError("--workers: at least 1.")
        asked = {"role": role, "workers": workers}
        wanted = environment.load().model_copy(update={name: value for name, value in asked.items() if value})
        if not settings.SECRET_KEY:
            raise CommandError("Set SECRET_KEY, the same one on every node. (`manage.py up` makes one by itself.)")
        node = Node(wanted, app or "")
        try:
            node.claim()
            node.bind()
        except CannotServe as error:
            raise CommandError(str(error)) from None
        workers_said = f"{wanted.workers} worker{'s' if wanted.workers > 1 else ''}"
        logger.info("starting %s, role %s, on %s", workers_said, wanted.role, node.url)
        status = node.supervisor(on_ready=lambda: logger.info("ready on %s", node.url)).run()
        raise SystemExit(status)
