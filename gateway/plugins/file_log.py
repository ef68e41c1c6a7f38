"""file-log: appends what requests left to a file, a line of JSON for each, some time after they were answered.

Phases   batch
Fails    never a request. What the disk refuses is lost and counted (`hydragate_plugin_records_dropped_total`)
Compare  Kong's file-log (always reopens; the file lies in GATEWAY_LOG_DIR, and the members are those of our usage rows)
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from gateway.plugins.base import Plugin, PluginConfig
from gateway.proxy.record import Record, members


class FileLogConfig(PluginConfig):
    file: str = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Its name in `GATEWAY_LOG_DIR`, such as `orders.log`."""


class FileLog(Plugin):
    name = "file-log"
    Config = FileLogConfig
    config: FileLogConfig

    async def batch(self, records: Sequence[Record]) -> None:
        said = [json.dumps(members(record, self.resources.node), separators=(",", ":")) for record in records]
        await asyncio.to_thread(_append, self.resources.log_dir / self.config.file, "\n".join([*said, ""]).encode())


def _append(path: Path, lines: bytes) -> None:
    """Opened anew each time: it may be moved away at any moment. One append, so that workers' lines never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        while lines:
            lines = lines[os.write(file, lines) :]
    finally:
        os.close(file)
