"""Writes a generated file, the same bytes for the same input on every run."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import zstandard
from tools.generate.sources import HEADER

DATA = Path(__file__).parents[2] / "src/havre/api/data"


def write_json(name: str, content: dict[str, Any]) -> None:
    """`<name>.json.zst`, its first field saying where it comes from; keys in the order given."""
    raw = orjson.dumps({"generated": HEADER, **content})
    packed = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(raw)
    (DATA / f"{name}.json.zst").write_bytes(packed)
    print(f"{name}.json.zst: {len(packed):,} bytes of {len(raw):,}")


def gzipped(raw: bytes) -> bytes:
    """A gzip member without name and time, ready to be sent with Content-Encoding: gzip."""
    return gzip.compress(raw, 9, mtime=0)
