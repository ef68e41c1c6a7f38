"""Calls that plugins make by themselves, over the same connections as traffic: pools, time limits, strict parsing."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from gateway.plugins.endpoints import Endpoint, Reply
from gateway.proxy.answer import AnswerStream
from gateway.proxy.errors import UpstreamBroke
from gateway.proxy.fence import FENCE, Fence
from gateway.proxy.headers import Pair, end_to_end
from gateway.proxy.messages import NO_BODY, UpstreamRequest
from gateway.proxy.transport import Transports


class Calls:
    """One per worker. Pools are apart from those of the traffic, which go with the configuration."""

    def __init__(self, fence: Fence = FENCE) -> None:
        self._transports = Transports(fence)

    async def call(
        self,
        endpoint: Endpoint,
        method: str,
        fields: Sequence[Pair] = (),
        body: bytes = b"",
        *,
        path: bytes = b"",
        max_bytes: int = 65536,
    ) -> Reply:
        """See `gateway.plugins.endpoints.Caller`."""
        pairs = [(b"host", endpoint.target.authority), *fields]
        if body or method in ("POST", "PUT", "PATCH"):
            pairs.append((b"content-length", b"%d" % len(body)))
        stream = httpx.ByteStream(body) if body else NO_BODY
        request = UpstreamRequest(method, pairs, stream, {"target": path or endpoint.path})
        transport = self._transports.get(endpoint.upstream, endpoint.target)
        response = await transport.handle_async_request(request)
        answer: AnswerStream = response.stream  # type: ignore[assignment]
        try:
            whole = answer.whole()
            if whole is None:
                whole = b""
                async for chunk in answer:
                    whole += chunk
                    if len(whole) > max_bytes:
                        break
            if len(whole) > max_bytes:
                raise UpstreamBroke(f"The answer of {endpoint.upstream.name} is larger than {max_bytes} bytes.")
        finally:
            await answer.aclose()
        return Reply(response.status_code, end_to_end(response.headers.raw), whole)

    async def aclose(self) -> None:
        await self._transports.aclose()
