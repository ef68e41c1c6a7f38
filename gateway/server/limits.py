"""What one worker allows a client: sizes, numbers and times of the HTTP/1.1 front. Settings: `GATEWAY_<NAME>`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.environment import Environment


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are checked by a sweep every `sweep_s`, so each may run over by that much.

    The two rates are leaky buckets: each byte buys its share of a second, and nobody saves up more than the time limit
    beside it. So a sender of one byte now and then ends after that time, and one that was fast may pause as long.
    """

    max_line_bytes: int = 8 * 1024  # the request line: 414
    max_head_bytes: int = 32 * 1024  # request line and fields together: 431
    max_headers: int = 100  # 431; of trailers 400
    max_trailer_bytes: int = 8 * 1024  # 400
    max_body_bytes: int = 0  # 0: unlimited; else 413
    max_connections: int = 10_000  # per worker, idle ones too: 503
    max_connections_per_address: int = 0  # 0: unlimited; else 429

    head_timeout_s: float = 10.0  # from the first byte of a head to its end
    keepalive_timeout_s: float = 75.0  # between an answer and the next request
    body_timeout_s: float = 20.0  # without a byte of a request body, while we are reading
    min_body_bytes_per_s: int = 240  # 0: only silence counts
    write_timeout_s: float = 25.0  # without the client taking a byte of the answer
    min_answer_bytes_per_s: int = 240  # 0: only silence counts
    linger_timeout_s: float = 5.0  # reading on after an early answer, so that the client sees it
    sweep_s: float = 0.5

    high_water_bytes: int = 64 * 1024  # held of an unread body, or of requests sent ahead, before reading stops
    skip_bytes: int = 64 * 1024  # rest of an unread body that is read away to keep the connection
    linger_bytes: int = 256 * 1024 * 1024  # the most that is read and thrown away before a close

    @classmethod
    def of(cls, settings: Environment) -> Limits:
        """Those that have a setting of the same name; the others are nobody's to choose."""
        names = {field.name for field in fields(cls)} & set(type(settings).model_fields)
        return cls(**{name: getattr(settings, name) for name in names})
