"""Cgroups of both versions, on plain directories that look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from havre.node.agent.cgroups import Cgroups, all_processes, machine_processes, pod_processes
from havre.node.agent.resources import Limits

LIMITS = Limits(512, 50_000, 64 << 20)


def touch(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        ("Guaranteed", "/t/kubepods/podu"),
        ("Burstable", "/t/kubepods/burstable/podu"),
        ("BestEffort", "/t/kubepods/besteffort/podu"),
    ],
)
def test_place_of_a_pod_by_its_quality(quality: str, expected: str) -> None:
    assert Cgroups("t").parent("u", quality) == expected


def test_limits_of_version_one(tmp_path: Path) -> None:
    group = "t/kubepods/burstable/podu"
    for controller, files in {
        "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
        "memory": ("memory.limit_in_bytes",),
        "pids": ("pids.max",),
    }.items():
        for file in files:
            touch(tmp_path / controller / group / file)
    Cgroups("t", tmp_path).ensure("u", "Burstable", LIMITS)
    assert (tmp_path / "cpu" / group / "cpu.shares").read_text() == "512"
    assert (tmp_path / "cpu" / group / "cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "memory" / group / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (tmp_path / "pids" / group / "pids.max").read_text() == str(pod_processes())


def test_limits_of_version_two_and_controllers_on_the_way(tmp_path: Path) -> None:
    for place in ("", "t", "t/kubepods", "t/kubepods/burstable", "t/kubepods/burstable/podu"):
        touch(tmp_path / place / "cgroup.controllers", "cpu io memory pids")
        touch(tmp_path / place / "cgroup.subtree_control", "")
    group = tmp_path / "t/kubepods/burstable/podu"
    for file in ("cpu.weight", "cpu.max", "memory.max", "pids.max"):
        touch(group / file)
    touch(tmp_path / "t/kubepods/pids.max")
    Cgroups("t", tmp_path).ensure("u", "Burstable", LIMITS)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (group / "cpu.weight").read_text() == "20"
    assert (group / "cpu.max").read_text() == "50000 100000"
    assert (group / "memory.max").read_text() == str(64 << 20)
    assert (group / "pids.max").read_text() == str(pod_processes())
    assert (tmp_path / "t/kubepods/pids.max").read_text() == str(all_processes())


def test_neither_one_pod_nor_all_of_them_take_every_process_of_the_machine() -> None:
    assert 0 < pod_processes() <= 16_384
    assert pod_processes() < all_processes() < machine_processes()


def test_pods_are_found_and_removed_from_every_tree(tmp_path: Path) -> None:
    for tree in ("cpu", "memory", "unified"):
        touch(tmp_path / tree / "cgroup.procs")
    (tmp_path / "cpu/t/kubepods/poda").mkdir(parents=True)
    (tmp_path / "memory/t/kubepods/besteffort/podb/child").mkdir(parents=True)
    (tmp_path / "unified/t/kubepods/poda/c1").mkdir(parents=True)
    groups = Cgroups("t", tmp_path)
    assert groups.uids() == {"a", "b"}
    groups.remove("a")
    assert groups.uids() == {"b"}
    groups.remove("a")
    groups.destroy()
    assert groups.uids() == set()
    assert not (tmp_path / "unified/t/kubepods").exists()


def test_machine_without_cgroups_limits_nothing(tmp_path: Path) -> None:
    groups = Cgroups("t", tmp_path / "none")
    assert groups.ensure("u", "Guaranteed", LIMITS) == "/t/kubepods/podu"
    groups.remove("u")
    assert groups.uids() == set()
