"""`manage.py recorder`: ships the usage rows of this node's workers, and probes targets. `serve` and `up` start it.

One for a data directory. After SIGTERM it ships what lies there and ends, so it is to be stopped after the workers.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from dashboard.reconcile import Keeper
from dashboard.recorder import Recorder
from dashboard.spool import AlreadyRunning, Spool
from dashboard.watcher import Watcher
from gateway.proxy.segments import spool_dir

#: It works in bursts and nobody waits for it; where cores are few, requests must not wait behind them.
BEHIND_WORKERS = 10


class Command(BaseCommand):
    help = "Ships usage rows from this node's spool into PostgreSQL and keeps their tables."
    requires_system_checks = []  # made when the gateway starts; a recorder must start when PostgreSQL is away

    def handle(self, *args: Any, **options: Any) -> None:
        os.nice(BEHIND_WORKERS)
        environment = settings.ENVIRONMENT
        spool, watcher = Spool(spool_dir(environment.data_dir)), Watcher(environment.data_dir, environment.fence)
        keeper = Keeper(settings.REDIS_URL)
        recorder = Recorder(spool, environment.node, environment.usage_retention_days, watcher, keeper)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        try:
            recorder.run(stop)
        except AlreadyRunning as error:
            raise CommandError(str(error)) from error
