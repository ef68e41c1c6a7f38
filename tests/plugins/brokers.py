"""Kafka for one test: the broker that librdkafka has for its own tests, and a client of librdkafka's that reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import confluent_kafka

PARTITIONS = 4  # of a topic, which the broker makes when it is first named


class Broker:
    """It ends with the object."""

    def __init__(self) -> None:
        self._owner = confluent_kafka.Producer({
            "bootstrap.servers": "-", "test.mock.num.brokers": 1,
            "log_level": 2,
        })  # fmt: skip
        [about] = self._owner.list_topics(timeout=5).brokers.values()
        self.host, self.port = about.host, about.port
        self.address = f"{self.host}:{self.port}"

    async def read(self, topic: str, count: int, wait_s: float = 10) -> list[Any]:
        """The first messages, their checksums checked."""
        return await asyncio.to_thread(self._read, topic, count, wait_s)

    def _read(self, topic: str, count: int, wait_s: float) -> list[Any]:
        reader = confluent_kafka.Consumer({
            "bootstrap.servers": self.address, "group.id": "tests", "auto.offset.reset": "earliest", "check.crcs": True,
        })  # fmt: skip
        found: list[Any] = []
        end_s = time.monotonic() + wait_s
        try:
            reader.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
            while len(found) < count and time.monotonic() < end_s:
                message = reader.poll(0.1)
                if message is not None and message.error() is None:
                    found.append(message)
        finally:
            reader.close()
        return found


@asynccontextmanager
async def relaying(to: Broker, port: int = 0, tls: Any = None) -> AsyncIterator[Any]:
    """A way to the broker, `relayed` to which what was asked is added."""
    relayed: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[bytes] | None) -> None:
        while said := await reader.read(65_536):
            if kept is not None:
                kept.append(said)
            writer.write(said)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(to.host, to.port)
        await asyncio.gather(pump(reader, forth, relayed), pump(back, writer, None), return_exceptions=True)
        writer.close()
        forth.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], relayed
    finally:
        server.close()
        await server.wait_closed()
