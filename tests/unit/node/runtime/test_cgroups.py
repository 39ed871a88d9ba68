from __future__ import annotations

from pathlib import Path

import pytest

from havre.node.runtime.cgroups import Cgroups, checked, fields
from havre.node.runtime.errors import Invalid


def test_paths_are_normal_and_below_the_root() -> None:
    assert checked("/kubepods//burstable/pod1/") == "/kubepods/burstable/pod1"
    for path in ("kubepods", "/a/../b", "/a\0", "/" + "x" * 2000):
        with pytest.raises(Invalid, match="cgroup path"):
            checked(path)


def test_systemd_slices_are_refused() -> None:
    with pytest.raises(Invalid, match="cgroupfs"):
        checked("/kubepods-burstable.slice")


@pytest.fixture
def hybrid(tmp_path: Path) -> Cgroups:
    memory, cpu, v2 = tmp_path / "memory", tmp_path / "cpu", tmp_path / "unified"
    for tree in (memory, cpu, v2):
        (tree / "havre" / "c1").mkdir(parents=True)
    return Cgroups(v2, {"memory": memory, "cpu": cpu, "cpuacct": cpu})


def test_a_hybrid_machine_has_each_tree_once(hybrid: Cgroups) -> None:
    assert (hybrid.hybrid, hybrid.unified) == (True, False)
    assert [tree.name for tree in hybrid.trees()] == ["memory", "cpu", "unified"]
    assert hybrid.of("cpuacct", "/havre/c1") == hybrid.v1["cpu"] / "havre" / "c1"
    assert hybrid.of("pids", "/havre/c1") is None


def test_a_unified_machine_has_one_tree(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path, {})
    assert (cgroups.unified, cgroups.trees()) == (True, [tmp_path])
    assert cgroups.of("memory", "/a") == tmp_path / "a"


def test_out_of_memory_kills_are_read_from_either_kind(hybrid: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "memory/havre/c1/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert hybrid.out_of_memory_kills("/havre/c1") == 3
    (tmp_path / "unified/havre/c1/memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert Cgroups(tmp_path / "unified", {}).out_of_memory_kills("/havre/c1") == 2
    assert hybrid.out_of_memory_kills("/gone") == 0


def test_processes_are_those_of_all_trees_and_children(hybrid: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "memory/havre/c1/cgroup.procs").write_text("41\n42\n")
    (tmp_path / "unified/havre/cgroup.procs").write_text("43\n")
    assert hybrid.processes("/havre") == {41, 42, 43}
    assert hybrid.processes("/none") == set()


def test_removing_goes_from_the_leaves_up(hybrid: Cgroups, tmp_path: Path) -> None:
    assert hybrid.remove("/havre")
    assert [list(tree.iterdir()) for tree in hybrid.trees()] == [[], [], []]
    assert hybrid.remove("/havre")


def test_a_cgroup_in_use_stays(hybrid: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "memory/havre/c1/busy").touch()
    assert not hybrid.remove("/havre")
    assert not (tmp_path / "cpu/havre").exists()


def test_the_id_is_the_inode_of_the_v2_directory(hybrid: Cgroups, tmp_path: Path) -> None:
    assert hybrid.id("/havre/c1") == (tmp_path / "unified/havre/c1").stat().st_ino
    assert hybrid.id("/none") == 0


def test_keyed_files_hold_numbers(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a 1\nb max\nc\nd 2 3\n")
    assert fields(tmp_path / "f") == {"a": 1}
    assert fields(tmp_path / "none") == {}
