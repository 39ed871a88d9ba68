"""Chains and records of snapshots, without a kernel's help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.node.runtime.archives import digest

from havre.node.runtime.snapshots import ChainId, SnapshotError, Snapshots, Usage, chain_ids, disk_usage


def layer(root: Path, number: int, chain: str, parent: str = "", *, opaque: bool = False) -> None:
    place = root / "layers" / str(number)
    (place / "fs").mkdir(parents=True)
    record = {"chain": chain, "parent": parent, "size": 10, "files": 2, "opaque": opaque}
    (place / "layer.json").write_text(json.dumps(record))


def test_a_chain_is_the_digest_of_the_chain_below_and_the_layer() -> None:
    second = digest(b"sha256:a sha256:b")
    assert chain_ids(["sha256:a", "sha256:b", "sha256:c"]) == [
        "sha256:a",
        second,
        digest(f"{second} sha256:c".encode()),
    ]


def test_layers_of_an_earlier_process_are_found_from_the_top_down(tmp_path: Path) -> None:
    layer(tmp_path, 1, "a")
    layer(tmp_path, 3, "b", "a")
    shots = Snapshots(tmp_path)
    assert shots.paths(ChainId("b")) == [tmp_path / "layers/3/fs", tmp_path / "layers/1/fs"]
    assert shots.layer_usage(ChainId("b")) == Usage(10, 2)
    assert shots.has(ChainId(""))


def test_a_layer_without_its_parent_or_record_does_not_count(tmp_path: Path) -> None:
    layer(tmp_path, 2, "b", "a")
    layer(tmp_path, 4, "c")
    (tmp_path / "layers/4/layer.json").write_text("{")
    shots = Snapshots(tmp_path)
    assert (shots.has(ChainId("b")), shots.has(ChainId("c"))) == (False, False)
    with pytest.raises(SnapshotError, match="are not unpacked; pull the image again"):
        shots.paths(ChainId("b"))


def test_an_opaque_layer_ends_the_stack(tmp_path: Path) -> None:
    layer(tmp_path, 1, "a")
    layer(tmp_path, 2, "b", "a", opaque=True)
    assert Snapshots(tmp_path).paths(ChainId("b")) == [tmp_path / "layers/2/fs"]


def test_disk_usage_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(bytes(8192))
    (tmp_path / "b").hardlink_to(tmp_path / "d/a")
    assert disk_usage(tmp_path).inodes == 2


async def test_no_layers_are_no_layer(tmp_path: Path) -> None:
    assert await Snapshots(tmp_path).unpack([]) == ""
