"""A relay of unix sockets that can be made slow: what goes through it waits `delay_s` in each direction."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path


class Relay:
    """In a thread of its own, so that tests may block. `delay_s` may be changed at any time."""

    def __init__(self, behind: Path, path: Path) -> None:
        self.behind, self.path = behind, path
        self.delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> Relay:
        self.path.parent.mkdir(exist_ok=True)
        self._server = self._loop.run_until_complete(asyncio.start_unix_server(self._serve, self.path))
        self._thread.start()
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            behind_reader, behind_writer = await asyncio.open_unix_connection(self.behind)
            there = asyncio.create_task(self._copy(reader, behind_writer))
            back = asyncio.create_task(self._copy(behind_reader, writer))
            try:
                await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                behind_writer.close()
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(block)
                await writer.drain()
