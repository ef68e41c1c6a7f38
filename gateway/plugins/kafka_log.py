"""kafka-log: sends what requests left to a topic of Kafka, some time after they were answered. Needs an extra package.

Phases   batch
Fails    never a request. What the brokers do not take within `retry_for_s` is lost and counted
         (`hydragate_plugin_records_dropped_total`)
Compare  Kong's kafka-log (topic, keepalive and authentication; here with TLS, keys and compression)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from gateway.plugins import extras
from gateway.plugins.attempts import until_taken
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.kafka import Connection, Message, Producer
from gateway.plugins.secured import Tls
from gateway.proxy import fence
from gateway.proxy.record import Record, members

_PORT = re.compile(r":([1-9][0-9]{0,4})$")


def _broker(text: str) -> str:
    found = _PORT.search(text)
    host = text[: found.start()] if found else ""
    bracketed = host[:1] == "[" and host[-1:] == "]"
    if found is None or int(found[1]) > 65_535 or not fence.is_host(host.strip("[]")) or (":" in host) != bracketed:
        raise ValueError(f"'{text}' is no broker such as kafka-1.internal:9092 or [fd00::1]:9092.")
    return text


class KafkaLogConfig(PluginConfig):
    brokers: tuple[Annotated[str, StringConstraints(max_length=300), AfterValidator(_broker)], ...] = Field(
        min_length=1, max_length=32
    )
    """`host:port` of one or some; they tell of the others, and of the addresses to use."""
    topic: str = Field(max_length=249, pattern=r"^[A-Za-z0-9._-]+$")
    """Where to. It must exist, unless the brokers make topics by themselves."""
    key: Literal["none", "request_id", "route", "consumer_id", "client_ip", "host"] = "none"
    """Messages of one key keep their order, in one partition. `none`: they are spread."""
    acks: Literal["leader", "all"] = "all"
    """Who must have a message before it counts as taken: the partition's leader, or all replicas in sync."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """Of batches, in the worker."""
    secure: bool = False
    """Speak TLS."""
    tls: Tls = Tls()
    """For `secure`. Certificates must have the brokers' names."""
    sasl: Literal["none", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "none"
    """How to sign in."""
    username: str = Field("", max_length=256)
    """For `sasl`."""
    password: SecretStr = Field(SecretStr(""), max_length=4_096)
    """For `sasl`, such as `${env:PLUGIN_KAFKA_PASSWORD}`."""
    timeout_ms: int = Field(10_000, ge=100, le=60_000)
    """For one attempt: how long brokers may take to confirm."""
    batch_max: int = Field(1_000, ge=1, le=1_000)
    """Records in one go at most."""
    delay_ms: int = Field(1_000, ge=0, le=60_000)
    """How long a record waits for others."""
    retry_for_s: int = Field(60, ge=0, le=3_600)
    """How long what is not taken is sent again, with growing pauses. 0: sent once."""

    @model_validator(mode="after")
    def _can_be(self) -> KafkaLogConfig:
        extras.check("aiokafka", "kafka-log")
        if (self.sasl == "none") == bool(self.username or self.password.get_secret_value()):
            raise ValueError("`sasl`, `username` and `password` belong together.")
        if self.tls != Tls() and not self.secure:
            raise ValueError("`tls` is for `secure: true`; these brokers would be spoken to in the clear.")
        return self


class KafkaLog(Plugin):
    name = "kafka-log"
    Config = KafkaLogConfig
    config: KafkaLogConfig

    def __init__(self, config: KafkaLogConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self.batch_max, self.batch_delay_s = config.batch_max, config.delay_ms / 1000
        self._key = _keys(config.key)
        sasl = config.sasl != "none"
        self._connection = Connection(
            config.brokers, config.acks == "all", None if config.compression == "none" else config.compression,
            config.timeout_ms, config.tls.context() if config.secure else None, config.sasl if sasl else None,
            config.username if sasl else None, config.password.get_secret_value() if sasl else None,
        )  # fmt: skip

    async def batch(self, records: Sequence[Record]) -> None:
        left = [self._message(record) for record in records]
        make = partial(Producer, self._connection, self.resources.fence)

        async def attempt() -> str | None:
            reason = await producer.send(self.config.topic, left)
            return reason and f"{', '.join(self.config.brokers)}: {reason}"

        async with self.resources.kept.use((self.name, self._connection), make) as producer:
            await until_taken(attempt, self.resources.clock, self.config.retry_for_s)

    def _message(self, record: Record) -> Message:
        said = json.dumps(members(record, self.resources.node), separators=(",", ":")).encode()
        return Message(self._key(record), said, int(record.at_s * 1000))


def _keys(word: str) -> Callable[[Record], bytes | None]:
    if word == "none":
        return lambda record: None
    place = Record._fields.index(word)
    return lambda record: None if record[place] in (None, "") else str(record[place]).encode(errors="replace")
