"""Codings of answers under way, each with a window that keeps what an answer holds in memory small.

| coding | window | memory of an answer under way |
|---|---|---|
| gzip   | 16 kB  | 0.13 MB |
| br     | 128 kB | 0.9 MB  |
| zstd   | 128 kB | 0.7 MB  |

br and zstd are loaded by the first setting that names them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Coding = Literal["zstd", "br", "gzip"]
WINDOW_BITS = {"gzip": 14, "br": 17, "zstd": 17}
MEMORY_LEVEL = 7  # of gzip


class Packer(NamedTuple):
    pack: Callable[[bytes], bytes]  # what is ready meanwhile
    flush: Callable[[], bytes]  # everything so far can be read by the other side
    finish: Callable[[], bytes]


def of(coding: Coding, level: int) -> Packer:
    return _PACKERS[coding](level)


def whole(coding: Coding, level: int) -> Callable[[bytes], bytes]:
    """Packs small bodies one after another, each at one go: nothing is set up for each of them."""
    if coding == "gzip":
        return lambda body: zlib.compress(body, level, 31)
    if coding == "br":
        import brotli

        return lambda body: bytes(brotli.compress(body, quality=level, lgwin=WINDOW_BITS["br"]))
    import zstandard

    return zstandard.ZstdCompressor(level=level).compress


def _gzip(level: int) -> Packer:
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + WINDOW_BITS["gzip"], MEMORY_LEVEL)
    return Packer(packer.compress, lambda: packer.flush(zlib.Z_SYNC_FLUSH), packer.flush)


def _br(level: int) -> Packer:
    import brotli

    packer: Any = brotli.Compressor(quality=level, lgwin=WINDOW_BITS["br"])
    return Packer(packer.process, packer.flush, packer.finish)


def _zstd(level: int) -> Packer:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=1 << WINDOW_BITS["zstd"])
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return Packer(packer.compress, lambda: packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), packer.flush)


_PACKERS: dict[Coding, Callable[[int], Packer]] = {"gzip": _gzip, "br": _br, "zstd": _zstd}
