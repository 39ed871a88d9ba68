"""Decompression: what is recognised, what is refused, how much comes out."""

from __future__ import annotations

import bz2
import gzip
import io
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from havre.node.runtime.compression import CompressionError, Limits, decompressed

TEXT = b"the quick brown fox " * 1000
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def unfold(data: bytes, limits: Limits | None = None) -> bytes:
    return b"".join(decompressed(io.BytesIO(data), len(data), limits or Limits()))


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        gzip.compress(TEXT, mtime=0),
        gzip.compress(TEXT[:7], mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(TEXT[7:], mtime=0),
        gzip.compress(TEXT, mtime=0) + bytes(512),
        zstandard.compress(TEXT),
        zstandard.compress(TEXT[:7]) + zstandard.compress(TEXT[7:]),
        SKIPPABLE + zstandard.compress(TEXT) + SKIPPABLE,
    ],
    ids=["plain", "gzip", "members", "padded", "zstd", "frames", "skippable"],
)
def test_the_content_decides_how_it_is_read(data: bytes) -> None:
    assert unfold(data) == TEXT


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(TEXT, mtime=0)[:-9], "gzip stream is damaged"),
        (gzip.compress(TEXT, mtime=0)[:40] + b"junk" + gzip.compress(TEXT, mtime=0)[44:], "gzip stream is damaged"),
        (zstandard.compress(TEXT)[:9] + b"junk" + zstandard.compress(TEXT)[13:], "zstd stream is damaged"),
        (bz2.compress(TEXT), "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
    ],
)
def test_damaged_and_unknown_streams_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(CompressionError, match=says):
        unfold(data)


def test_more_than_the_total_is_refused() -> None:
    with pytest.raises(CompressionError, match="larger than 100 bytes"):
        unfold(TEXT, Limits(total=100))


def test_a_bomb_is_refused_by_its_ratio() -> None:
    bomb = gzip.compress(bytes(1 << 21))  # 1000:1
    with pytest.raises(CompressionError, match="larger than"):
        unfold(bomb, Limits(ratio=100, free=1 << 10))


def test_a_small_bomb_is_harmless() -> None:
    assert len(unfold(gzip.compress(bytes(1 << 21)), Limits(ratio=100, free=1 << 21))) == 1 << 21


@given(st.sampled_from([b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b""]), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(magic: bytes, data: bytes) -> None:
    with suppress(CompressionError):
        unfold(magic + data)
