"""One layer, from its blob to its files and its digest."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from tests.unit.node.runtime import archives
from tests.unit.node.runtime.archives import file

from havre.node.runtime.compression import CompressionError, Limits
from havre.node.runtime.extract import LayerError
from havre.node.runtime.tar import TarError
from havre.node.runtime.unpack import Done, Job, unpack

DATA = archives.tar(file("a/b", b"content"), file("c", bytes(3 << 20)))


def run(tmp_path: Path, blob: bytes, diff_id: str = "", limits: Limits | None = None) -> Done:
    (tmp_path / "out").mkdir()
    (tmp_path / "blob").write_bytes(blob)
    return unpack(Job(str(tmp_path / "blob"), diff_id, str(tmp_path / "out"), limits or Limits()))


@pytest.mark.parametrize(
    "blob", [DATA, gzip.compress(DATA, mtime=0), zstandard.compress(DATA)], ids=["plain", "gzip", "zstd"]
)
def test_the_digest_is_of_what_came_out(tmp_path: Path, blob: bytes) -> None:
    wanted = archives.digest(DATA)
    assert run(tmp_path, blob, wanted) == Done(wanted, len(DATA), 2, opaque=False, implicit=("a",))
    assert (tmp_path / "out/a/b").read_bytes() == b"content"


def test_what_follows_the_archive_counts_too(tmp_path: Path) -> None:
    assert run(tmp_path, DATA + b"more").diff_id == archives.digest(DATA + b"more")


@pytest.mark.parametrize(
    ("blob", "error", "says"),
    [
        (DATA, LayerError, "the image says sha256:0"),
        (gzip.compress(DATA, mtime=0)[:-20], CompressionError, "damaged"),
        (DATA[: 1 << 20], TarError, "before the end"),
        (b"no archive at all" * 100, TarError, "checksum"),
    ],
)
def test_a_bad_layer_is_refused(tmp_path: Path, blob: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(tmp_path, blob, "sha256:0")


def test_a_bomb_is_stopped_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="larger than"):
        run(tmp_path, gzip.compress(archives.tar(file("big", bytes(8 << 20)))), limits=Limits(total=1 << 20))
    assert (tmp_path / "out/big").stat().st_size <= 1 << 20
