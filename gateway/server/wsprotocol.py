"""daphne's WebSocket protocol, which tells its Flow what comes. Imported late, for autobahn comes with it."""

from __future__ import annotations

from typing import Any

from daphne.ws_protocol import WebSocketProtocol

from gateway.server.flow import Flow


class GatewayWebSocket(WebSocketProtocol):  # type: ignore[misc]  # daphne has no types
    """daphne's protocol, which tells its Flow what comes."""

    flow: Flow | None = None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.flow is not None and not self.muted:
            self.flow.came(len(payload))
        super().onMessage(payload, isBinary)

    def connectionLost(self, reason: Any) -> None:
        try:
            super().connectionLost(reason)
        finally:
            if self.flow is not None:
                self.flow.on_end()

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        if self.flow is not None:
            self.flow.left(reason or "" if wasClean else "")
        super().onClose(wasClean, code, reason)
