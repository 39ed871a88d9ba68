from __future__ import annotations

from pathlib import Path

import pytest

from havre.node.runtime.names import Names, NamesError, Record
from havre.wire.oci.digest import Digest
from havre.wire.oci.documents import Descriptor
from havre.wire.oci.errors import OciError

A = Digest("sha256:" + "a" * 64)
ONE = Record("docker.io/library/nginx:1", Descriptor("t", A, 3), A, pinned=True)
TWO = Record("docker.io/library/nginx:2", Descriptor("t", A, 3))


async def test_names_survive_a_restart(tmp_path: Path) -> None:
    await Names(tmp_path / "n").put(ONE, TWO)
    after = Names(tmp_path / "n")
    assert sorted(after, key=lambda record: record.name) == [ONE, TWO]
    assert after.get(ONE.name) == ONE
    await after.remove(ONE.name, "unknown")
    assert list(Names(tmp_path / "n")) == [TWO]


async def test_a_damaged_record_is_left_out_and_does_not_stop_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Names(tmp_path).put(ONE)
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.json").write_text('{"name": "y", "target": {}}')
    (tmp_path / "z.tmp").write_text("half")
    assert list(Names(tmp_path)) == [ONE]
    assert len(caplog.records) == 2
    assert not (tmp_path / "z.tmp").exists()


async def test_a_file_under_a_strange_name_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(ONE.to_json())
    assert list(Names(tmp_path)) == []


async def test_a_name_that_cannot_be_written_is_not_remembered(tmp_path: Path) -> None:
    names = Names(tmp_path / "n")
    (tmp_path / "n").rmdir()
    with pytest.raises(NamesError, match="nginx:1"):
        await names.put(ONE)
    assert names.get(ONE.name) is None


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"name": 5}', b'{"name": "x", "target": {"size": 1}}', b"\xff"])
def test_other_json_is_no_record(data: bytes) -> None:
    with pytest.raises((OciError, ValueError)):
        Record.of(data)
