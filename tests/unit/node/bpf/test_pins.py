"""Where pins are, and where cgroup v2 is, without a kernel that would have to agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from havre.node.bpf import pins
from havre.node.bpf.call import BpfError
from havre.node.bpf.pins import Pins, cgroup_root

HYBRID = """\
24 29 0:22 / /proc rw,relatime shared:13 - proc proc rw
30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:11 - cgroup2 cgroup2 rw,nsdelegate
"""
PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(("mounts", "root"), [(HYBRID, "/sys/fs/cgroup/unified"), (PURE, "/sys/fs/cgroup")])
def test_cgroup_v2_is_found_on_pure_and_on_hybrid_machines(tmp_path: Path, mounts: str, root: str) -> None:
    (tmp_path / "mountinfo").write_text(mounts)
    assert cgroup_root(tmp_path / "mountinfo") == Path(root)


def test_a_machine_without_cgroup_v2_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("".join(HYBRID.splitlines(keepends=True)[:3]))
    with pytest.raises(BpfError, match=r"find cgroup v2: ENOENT .*; mount it: mount -t cgroup2"):
        cgroup_root(tmp_path / "mountinfo")


@pytest.mark.parametrize(
    ("system", "own", "folder"),
    [
        (True, False, pins.SYSTEM / "havre"),  # as systemd leaves a machine
        (False, False, Path("/run/x/bpf/havre")),
        (False, True, Path("/run/x/bpf/havre")),
        (True, True, Path("/run/x/bpf/havre")),  # somebody mounted the system's while we were at work
    ],
)
def test_an_instance_stays_with_the_bpffs_that_its_pins_are_in(
    monkeypatch: pytest.MonkeyPatch, system: bool, own: bool, folder: Path
) -> None:
    monkeypatch.setattr(pins, "is_bpffs", lambda path: system if path == pins.SYSTEM else own)
    assert Pins.find("havre", Path("/run/x")).folder == folder


def test_a_folder_is_no_bpffs_and_what_is_not_there_neither(tmp_path: Path) -> None:
    assert not pins.is_bpffs(tmp_path)
    assert not pins.is_bpffs(tmp_path / "nothing")
