"""Snapshots on a real kernel: layers in, containers' roots out, through crashes."""

from __future__ import annotations

import asyncio
import gzip
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.node.runtime import archives
from tests.unit.node.runtime.archives import Member, directory, file

import havre
from havre.node import mounts
from havre.node.runtime import overlay
from havre.node.runtime.compression import Limits
from havre.node.runtime.confinement import interface
from havre.node.runtime.snapshots import LayerBlob, SnapshotError, Snapshots, chain_ids
from havre.node.runtime.unpackers import BadLayer, UnpackFailed
from havre.wire.oci.digest import Digest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays: needs root")

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def blob(path: Path, *members: Member) -> LayerBlob:
    data = archives.tar(*members)
    path.write_bytes(gzip.compress(data, 1))
    return LayerBlob(path, GZIP, Digest(archives.digest(data)))


@pytest.fixture
async def shots(tmp_path: Path) -> AsyncIterator[Snapshots]:
    made = Snapshots(tmp_path / "snapshots")
    yield made
    await made.destroy()


@pytest.fixture
def two(tmp_path: Path) -> list[LayerBlob]:
    return [
        blob(tmp_path / "l0", file("etc/a", b"1"), file("etc/b", b"2")),
        blob(tmp_path / "l1", file("etc/.wh.a"), file("etc/c", b"3")),
    ]


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


async def test_layers_are_unpacked_stacked_and_written_on(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    chain = await shots.unpack(two)
    await shots.mount("c1", chain, tmp_path / "root")
    assert names(tmp_path / "root/etc") == ["b", "c"]
    (tmp_path / "root/etc/b").write_text("changed")
    (tmp_path / "root/etc/c").unlink()
    assert names(tmp_path / "root/etc") == ["b"]
    await shots.mount("c2", chain, tmp_path / "other")
    assert (tmp_path / "other/etc/b").read_text() == "2"
    assert shots.usage("c1").inodes == 3  # etc, b, and the whiteout of c
    assert shots.usage("c1").bytes >= 4096
    assert shots.keys() == ["c1", "c2"]


async def test_what_was_written_is_there_after_a_reboot(two: list[LayerBlob], tmp_path: Path) -> None:
    first = Snapshots(tmp_path / "s")
    chain = await first.unpack(two)
    await first.mount("c1", chain, tmp_path / "root")
    (tmp_path / "root/new").write_text("kept")
    mounts.unmount(tmp_path / "root")  # what a reboot does
    second = Snapshots(tmp_path / "s")
    assert second.has(chain)
    await second.mount("c1", chain, tmp_path / "root")
    assert (tmp_path / "root/new").read_text() == "kept"
    await second.destroy()
    assert not (tmp_path / "s").exists()
    assert mounts.below(tmp_path) == []


async def test_mounting_twice_is_mounting_once(shots: Snapshots, two: list[LayerBlob], tmp_path: Path) -> None:
    chain = await shots.unpack(two)
    await shots.mount("c1", chain, tmp_path / "root")
    await Snapshots(tmp_path / "snapshots").mount("c1", chain, tmp_path / "root")
    assert len(mounts.below(tmp_path / "root")) == 1
    await shots.unmount("c1", tmp_path / "root")
    await shots.unmount("c1", tmp_path / "root")
    assert names(tmp_path / "root") == []


async def test_a_removed_snapshot_leaves_neither_mount_nor_file(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    chain = await shots.unpack(two)
    await shots.mount("weird key/with:everything", chain, tmp_path / "root")
    (tmp_path / "root" / "deep" / "er").mkdir(parents=True)
    await shots.remove("weird key/with:everything")
    await shots.remove("weird key/with:everything")
    assert (names(tmp_path / "root"), names(tmp_path / "snapshots/active"), shots.keys()) == ([], [], [])


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_a_readonly_mount_of_any_number_of_layers_cannot_be_written(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path, count: int
) -> None:
    chain = await shots.unpack(two[:count])
    await shots.mount("view", chain, tmp_path / "root", readonly=True)
    if count:
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "root/x").touch()
    assert names(tmp_path / "root") == (["etc"] if count else [])
    await shots.remove("view")
    assert mounts.below(tmp_path / "root") == []


@pytest.mark.parametrize("old_kernel", [False, True])
async def test_128_layers_can_be_mounted(
    shots: Snapshots, tmp_path: Path, old_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [blob(tmp_path / f"b{i}", file("top", str(i).encode()), file(f"d/{i}")) for i in range(128)]
    chain = await shots.unpack(layers)
    if old_kernel:
        monkeypatch.setattr(overlay, "_mount_by_calls", overlay.mount_by_text)
    await shots.mount("c", chain, tmp_path / "root")
    assert (tmp_path / "root/top").read_text() == "127"
    assert len(names(tmp_path / "root/d")) == 128
    assert Path.cwd() != tmp_path / "snapshots"


async def test_more_layers_than_fit_are_refused(shots: Snapshots, two: list[LayerBlob]) -> None:
    with pytest.raises(SnapshotError, match="129 layers"):
        await shots.unpack([two[0]] * 129)


async def test_a_changed_layer_is_refused_and_nothing_of_the_image_stays(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    wrong = LayerBlob(two[1].path, GZIP, Digest("sha256:" + "0" * 64))
    with pytest.raises(BadLayer, match="changed on its way"):
        await shots.unpack([two[0], wrong])
    assert names(tmp_path / "snapshots/layers") == []
    assert not shots.has(chain_ids([two[0].diff_id])[0])


async def test_a_layer_over_the_limit_is_refused(two: list[LayerBlob], tmp_path: Path) -> None:
    small = Snapshots(tmp_path / "small", Limits(total=1000))
    with pytest.raises(BadLayer, match="larger than 1000 bytes"):
        await small.unpack(two)
    await small.destroy()


async def test_the_same_layers_asked_for_twice_are_unpacked_once(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    chains = await asyncio.gather(shots.unpack(two), shots.unpack(two[:1]), shots.unpack(two))
    lower, upper = chain_ids(layer.diff_id for layer in two)
    assert list(chains) == [upper, lower, upper]
    assert names(tmp_path / "snapshots/layers") == ["1", "2"]


async def test_images_unpacked_at_the_same_time_get_numbers_of_their_own(shots: Snapshots, tmp_path: Path) -> None:
    images = [[blob(tmp_path / f"b{i}", file(str(i)))] for i in range(4)]
    chains = await asyncio.gather(*(shots.unpack(image) for image in images))
    assert [names(shots.paths(chain)[0]) for chain in chains] == [["0"], ["1"], ["2"], ["3"]]


async def test_layers_are_not_collected_under_an_image_that_is_being_unpacked(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    await shots.unpack(two[:1])
    _, chain = await asyncio.gather(shots.collect(set()), shots.unpack(two))
    assert shots.has(chain)
    assert len(shots.paths(chain)) == 2
    assert len(names(tmp_path / "snapshots/layers")) == 2


async def test_a_killed_unpacking_program_is_an_error_and_can_be_tried_again(
    shots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # the program waits at it for ever
    task = asyncio.create_task(shots.unpack([LayerBlob(fifo, GZIP, Digest("sha256:" + "1" * 64))]))
    child = await asyncio.to_thread(_child)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(UnpackFailed, match="ended with -9"):
        await task
    assert names(tmp_path / "snapshots/layers") == []
    assert await shots.unpack([blob(tmp_path / "ok", file("a"))])


def _child(parent: int = os.getpid()) -> int:
    """The process id of the parent's unpacking program, once it is there."""
    for _ in range(1_000_000):
        with suppress(OSError):  # threads come and go
            for place in Path(f"/proc/{parent}/task").iterdir():
                for pid in (place / "children").read_text().split():
                    if b"havre.node.runtime.unpack" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return int(pid)
    raise AssertionError("no program was started")


async def test_a_cancelled_unpacking_leaves_neither_process_nor_file(shots: Snapshots, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    task = asyncio.create_task(shots.unpack([LayerBlob(fifo, GZIP, Digest("sha256:" + "1" * 64))]))
    child = await asyncio.to_thread(_child)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert names(tmp_path / "snapshots/layers") == []


DIES = """
import asyncio, os, sys
from pathlib import Path
from havre.node.runtime.snapshots import LayerBlob, Snapshots
asyncio.run(Snapshots(Path(sys.argv[1])).unpack([LayerBlob(Path(sys.argv[2]), "", "sha256:1")]))
"""


async def test_the_unpacking_program_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    await asyncio.to_thread(_start_and_kill, tmp_path)
    assert [p.name[:9] for p in (tmp_path / "s/layers").iterdir()] == [".staging-"]
    await Snapshots(tmp_path / "s").collect(set())
    assert names(tmp_path / "s/layers") == []


def _start_and_kill(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(Path(havre.__file__).parents[1]), "PATH": os.defpath}
    with subprocess.Popen([sys.executable, "-P", "-c", DIES, tmp_path / "s", tmp_path / "fifo"], env=env) as process:
        child = _child(process.pid)
        gone = os.pidfd_open(child)
        process.kill()
        assert select.select([gone], [], [], 10)[0], "the program goes on alone"
        os.close(gone)


async def test_what_a_crash_left_is_swept_away(two: list[LayerBlob], tmp_path: Path) -> None:
    root = tmp_path / "s"
    for place in ("layers/.staging-1/0/fs/etc", "active/.new-1/fs", "trash/1/fs", "layers/7/fs"):
        (root / place).mkdir(parents=True)
    after = Snapshots(root)
    chain = await after.unpack(two)
    assert names(root / "layers") == ["1", "2"]
    assert names(root / "active") == names(root / "trash") == []
    assert after.paths(chain) == [root / "layers/2/fs", root / "layers/1/fs"]
    await after.destroy()


async def test_only_layers_that_nobody_stands_on_are_collected(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    lower, upper = chain_ids(layer.diff_id for layer in two)
    other = await shots.unpack([blob(tmp_path / "o", file("x"))])
    await shots.unpack(two)
    await shots.mount("c", upper, tmp_path / "root")
    await shots.collect(set())
    assert [shots.has(chain) for chain in (lower, upper, other)] == [True, True, False]
    await shots.remove("c")
    await shots.collect({lower})
    assert [shots.has(chain) for chain in (lower, upper)] == [True, False]
    assert names(tmp_path / "snapshots/layers") == ["1" if shots.paths(lower)[0].parent.name == "1" else "2"]
    with pytest.raises(SnapshotError, match="not unpacked"):
        shots.paths(upper)


async def test_directories_a_layer_leaves_out_look_as_below(shots: Snapshots, tmp_path: Path) -> None:
    layers = [
        blob(tmp_path / "l0", directory("var", mode=0o711), directory("var/tmp", mode=0o1777)),
        blob(tmp_path / "l1", file("var/tmp/x")),
    ]
    await shots.mount("c", await shots.unpack(layers), tmp_path / "root")
    looks = [oct((tmp_path / "root" / name).stat().st_mode & 0o7777) for name in ("var", "var/tmp")]
    assert looks == ["0o711", "0o1777"]
    assert (tmp_path / "root/var").stat().st_mtime == archives.MTIME


async def test_an_opaque_root_hides_every_layer_below(shots: Snapshots, tmp_path: Path) -> None:
    layers = [blob(tmp_path / "l0", file("old")), blob(tmp_path / "l1", file(".wh..wh..opq"), file("new"))]
    await shots.mount("c", await shots.unpack(layers), tmp_path / "root")
    assert names(tmp_path / "root") == ["new"]


async def test_a_snapshot_stays_on_the_layers_it_was_made_for(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    chain = await shots.unpack(two)
    await shots.mount("c", chain, tmp_path / "root")
    with pytest.raises(SnapshotError, match="stands on"):
        await shots.mount("c", chain_ids([two[0].diff_id])[0], tmp_path / "root")


async def test_another_instance_may_use_the_same_key(shots: Snapshots, two: list[LayerBlob], tmp_path: Path) -> None:
    other = Snapshots(tmp_path / "other")
    for readonly in (False, True):
        for made, target in ((shots, tmp_path / "root"), (other, tmp_path / "root2")):
            await made.mount("c", await made.unpack(two), target, readonly=readonly)
        await other.remove("c")
        assert len(mounts.below(tmp_path)) == 1
        assert names(tmp_path / "root") == ["etc"]
        await shots.remove("c")
    await other.destroy()


async def test_an_unmounted_place_of_someone_else_is_not_taken(
    shots: Snapshots, two: list[LayerBlob], tmp_path: Path
) -> None:
    chain = await shots.unpack(two)
    await shots.mount("c", chain, tmp_path / "root")
    with pytest.raises(SnapshotError, match=r"has a mount of havre:[0-9a-f]{8}:c"):
        await shots.mount("d", chain, tmp_path / "root")


WRITES_OUTSIDE = """
import sys
from pathlib import Path
from havre.node.runtime import unpack
unpack._confine(Path(sys.argv[1]))
Path(sys.argv[1], "inside").touch()
try:
    Path(sys.argv[2]).touch()
except PermissionError:
    print("refused")
"""


def test_the_unpacking_program_cannot_write_elsewhere(tmp_path: Path) -> None:
    if interface() < 2:
        pytest.skip("this kernel has no Landlock that allows hard links")
    (tmp_path / "in").mkdir()
    env = {"PYTHONPATH": str(Path(havre.__file__).parents[1])}
    command: list[str | Path] = [sys.executable, "-P", "-c", WRITES_OUTSIDE, tmp_path / "in", tmp_path / "out"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "refused\n"
    assert not (tmp_path / "out").exists()
