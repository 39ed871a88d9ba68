"""The bytes of a layer's archive, whatever it was compressed with, and no more of them than allowed.

The first bytes decide, not the media type: registries hold layers whose type says gzip and whose content does not.
gzip with many members (eStargz, pigz) and zstd with skippable frames (zstd:chunked) read as one stream.

Source: RFC 1952, RFC 8878; containerd pkg/archive/compression for what is detected.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

CHUNK: Final = 1 << 20  # bytes handed on at a time: large enough that threads seldom meet, small enough for the cache

_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW: Final = 1 << 27  # 128 MiB: what `zstd --ultra --long` needs at most; the format would allow terabytes
_OTHERS: Final = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x04\x22\x4d\x18": "lz4"}


class CompressionError(ValueError):
    """The stream is damaged, of an unknown kind, or unfolds to too much."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may come out. A layer of zeroes packs 1000:1 and is honest, so the ratio counts only beyond `free`."""

    total: int = 64 << 30  # bytes of one layer: the largest machine-learning images have some 20 GiB in one
    ratio: int = 200  # times what went in: source code and text reach 20
    free: int = 1 << 30  # bytes that may come out of anything

    def allowed(self, compressed: int) -> int:
        return min(self.total, max(self.free, self.ratio * compressed))


def decompressed(file: BinaryIO, size: int, limits: Limits = Limits()) -> Iterator[bytes]:
    """Chunks of the archive in `file`, which is `size` bytes long. Raises CompressionError."""
    start = file.read(8)
    file.seek(0)
    allowed = limits.allowed(size)
    count = 0
    for chunk in _chunks(file, start):
        count += len(chunk)
        if count > allowed:
            raise CompressionError(
                f"the layer is larger than {allowed} bytes ({size} compressed): raise the limit if it is meant to be"
            )
        yield chunk


def _chunks(file: BinaryIO, start: bytes) -> Iterator[bytes]:
    if start.startswith(_GZIP):
        return _gzip(file)
    if start.startswith(_ZSTD) or (start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        return _zstd(file)
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            raise CompressionError(f"layers compressed with {name} are not supported; use gzip or zstd")
    return _plain(file)


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    from isal import igzip, isal_zlib  # here: 20 ms, and not every layer is gzip

    reader: io.BufferedIOBase = igzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[no-untyped-call]
    damaged = cast("type[Exception]", isal_zlib.error)  # its stub takes the class for an instance
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except (EOFError, OSError, ValueError, damaged) as e:
        raise CompressionError(f"the gzip stream is damaged: {e}") from e


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    import zstandard  # here: 50 ms

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
        file, read_size=CHUNK, read_across_frames=True
    )
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except zstandard.ZstdError as e:
        raise CompressionError(f"the zstd stream is damaged: {e}") from e


def opened(data: bytes) -> Iterator[bytes]:
    """The chunks of a blob in memory."""
    return decompressed(io.BytesIO(data), len(data))
