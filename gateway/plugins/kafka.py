"""A producer of Kafka, by aiokafka: connected with the first messages, to places where connections may lead only."""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.proxy.errors import UpstreamForbidden
from gateway.proxy.fence import Fence, split

CLOSE_S = 1.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connection:
    """`timeout_ms`: until all brokers that have to have confirmed."""

    brokers: tuple[str, ...]
    all_replicas: bool
    compression: str | None
    timeout_ms: int
    tls: ssl.SSLContext | None
    sasl: str | None
    username: str | None
    password: str | None = field(repr=False)

    @property
    def protocol(self) -> str:
        return ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")


class Message(NamedTuple):
    key: bytes | None
    value: bytes
    at_ms: int


class Producer:
    def __init__(self, connection: Connection, fence: Fence) -> None:
        self._connection, self._fence = connection, fence
        self._producer: Any = None
        self._lock = asyncio.Lock()  # settings of before and after a reload may share one

    async def send(self, topic: str, messages: list[Message]) -> str | None:
        """Takes from the list what was confirmed. What is left was not, for the reason that is given."""
        kafka: Any = importlib.import_module("aiokafka.errors")
        waiting: list[asyncio.Future[object]] = []
        reason = None
        async with self._lock:
            try:
                if self._producer is None:
                    self._producer = await self._started()
                for one in messages:
                    sent = await self._producer.send(topic, one.value, key=one.key, timestamp_ms=one.at_ms)
                    waiting.append(sent)
            except (kafka.KafkaError, OSError, UpstreamForbidden) as error:
                reason = _said(error)
            ends = await asyncio.gather(*waiting, return_exceptions=True)
        failed = [(one, end) for one, end in zip(messages, ends, strict=False) if isinstance(end, BaseException)]
        messages[:] = [*(one for one, _ in failed), *messages[len(ends) :]]
        return reason or (_said(failed[0][1]) if failed else None)

    async def aclose(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        closed = importlib.import_module("aiokafka.errors").ProducerClosed()
        producer._message_accumulator.fail_all(closed)  # or its end would wait for brokers that are away
        async with asyncio.timeout(CLOSE_S):
            await producer.stop()

    async def _started(self) -> Any:
        library: Any = importlib.import_module("aiokafka")
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # we say it once ourselves
        about = self._connection
        producer = library.AIOKafkaProducer(
            bootstrap_servers=await self._places(), client_id="hydragate", acks="all" if about.all_replicas else 1,
            compression_type=about.compression, request_timeout_ms=about.timeout_ms, security_protocol=about.protocol,
            ssl_context=about.tls, sasl_mechanism=about.sasl or "PLAIN", sasl_plain_username=about.username,
            sasl_plain_password=about.password,
        )  # fmt: skip
        _guard(producer.client, self._fence)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _places(self) -> list[str]:
        """Of the brokers that were configured: addresses, or over TLS names, whose certificates say who they are."""
        found, why = [], UpstreamForbidden()
        for broker in self._connection.brokers:
            host, port = split(broker)
            try:
                addresses = await self._fence.addresses(host, port)
            except UpstreamForbidden as error:
                why = error
            except OSError:
                continue
            else:
                names = [host] if self._connection.tls else addresses
                found += [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names]
        if not found:
            raise why
        return found


def _guard(client: Any, fence: Fence) -> None:
    """Brokers say themselves where they and others are: asked of each connection before it is made, and after, about
    the very address."""
    connect = client._get_conn

    async def guarded(node: Any, **how: Any) -> Any:
        broker = client.cluster.broker_metadata(node)
        if broker is None:
            return await connect(node, **how)
        try:
            await fence.addresses(broker.host, broker.port)
            connection = await connect(node, **how)
            if connection is not None:
                address = connection._writer.get_extra_info("peername")[0]
                fence.check(address, broker.port, broker.host)
            return connection
        except UpstreamForbidden:
            for made in [made for (id_, _), made in client._conns.items() if id_ == node]:
                made.close()
            return None
        except OSError:
            return None

    client._get_conn = guarded


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
