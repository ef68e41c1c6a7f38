"""http-log: sends what requests left to a web hook, in batches, some time after they were answered.

Phases   batch
Fails    never a request. What the web hook does not take within `retry_for_s` is lost and counted
         (`hydragate_plugin_records_dropped_total`)
Compare  Kong's http-log (batches by default, the members of our usage rows)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, SecretStr

from gateway.plugins.attempts import NotTaken, until_taken
from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.endpoints import Endpoint, FieldSecret, Url
from gateway.proxy.errors import UpstreamError
from gateway.proxy.record import Record, members

#: Of the client's errors (RFC 9110 §15.5), those that another attempt may mend.
_PASSING = frozenset({408, 425, 429})


class HttpLogConfig(PluginConfig):
    url: Url
    """Where to send them."""
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """How."""
    authorization: FieldSecret = SecretStr("")
    """The value of `Authorization`, such as `Bearer ${env:PLUGIN_LOG_TOKEN}`. Empty: none."""
    format: Literal["json", "ndjson"] = "json"
    """`json`: an array of objects. `ndjson`: an object on each line."""
    timeout_ms: int = Field(5_000, ge=10, le=60_000)
    """For one attempt."""
    batch_max: int = Field(200, ge=1, le=1_000)
    """Records in one call at most."""
    delay_ms: int = Field(1_000, ge=0, le=60_000)
    """How long a record waits for others."""
    retry_for_s: int = Field(60, ge=0, le=3_600)
    """How long a batch that is not taken is sent again, with growing pauses. 0: sent once."""


class HttpLog(Plugin):
    name = "http-log"
    Config = HttpLogConfig
    config: HttpLogConfig

    def __init__(self, config: HttpLogConfig, resources: Resources, setting_id: int = 0) -> None:
        super().__init__(config, resources, setting_id)
        self.batch_max, self.batch_delay_s = config.batch_max, config.delay_ms / 1000
        self._endpoint = Endpoint.of(config.url, config.timeout_ms / 1000)
        kind = b"application/json" if config.format == "json" else b"application/x-ndjson"
        self._fields = [(b"content-type", kind)]
        if secret := config.authorization.get_secret_value():
            self._fields.append((b"authorization", secret.encode()))

    async def batch(self, records: Sequence[Record]) -> None:
        body = self._body(records)
        await until_taken(lambda: self._refusal(body), self.resources.clock, self.config.retry_for_s)

    def _body(self, records: Sequence[Record]) -> bytes:
        said = [json.dumps(members(record, self.resources.node), separators=(",", ":")) for record in records]
        return (f"[{','.join(said)}]" if self.config.format == "json" else "\n".join([*said, ""])).encode()

    async def _refusal(self, body: bytes) -> str | None:
        """Why this attempt was in vain; None: taken. Raises NotTaken where another would be, too."""
        try:
            reply = await self.resources.caller.call(self._endpoint, self.config.method, self._fields, body)
        except UpstreamError as error:
            return f"{self.config.url}: {error}"
        if 200 <= reply.status < 300:
            return None
        if reply.status < 500 and reply.status not in _PASSING:
            raise NotTaken(f"{self.config.url} answered {reply.status}")
        return f"{self.config.url} answered {reply.status}"
