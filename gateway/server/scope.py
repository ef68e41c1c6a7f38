"""A head as the ASGI scope of an HTTP request or of a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.server.cycle import Cycle, Scope
    from gateway.server.flow import Flow
    from gateway.server.head import Head
    from gateway.server.http1 import Connection

Address = tuple[str, int | None]


def http_scope(head: Head, connection: Connection, cycle: Cycle) -> Scope:
    """The extension saves the gateway a task that watches the client: see `Cycle`."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.version,
        "method": head.method,
        "scheme": connection.scheme,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": connection.client,
        "server": connection.server,
        "extensions": {"hydragate.cycle": cycle},
    }
    if connection.certificate:
        scope["hydragate.certificate"] = connection.certificate
    return scope


def websocket_scope(head: Head, connection: Connection, flow: Flow) -> Scope:
    """Without `subprotocols`, which daphne reads. The extension is back-pressure, which daphne has none of."""
    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.version,
        "scheme": "wss" if connection.scheme == "https" else "ws",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": connection.client,
        "server": connection.server,
        "extensions": {"websocket.http.response": {}, "hydragate.flow": flow},
    }
    if connection.certificate:
        scope["hydragate.certificate"] = connection.certificate
    return scope


def address(name: Any) -> Address | None:
    """(host, port); for a unix socket (path, None), or None if it has no path, as a client's.

    A listener on `::` names IPv4 peers `::ffff:10.0.0.8`: as `10.0.0.8` they are in the networks people write.
    """
    if isinstance(name, tuple):
        host: str = name[0]
        return host.removeprefix("::ffff:") if "." in host else host, name[1]
    return (str(name), None) if name else None
