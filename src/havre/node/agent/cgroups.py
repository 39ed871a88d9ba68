"""The cgroups of pods, `/<instance>/kubepods[/burstable|/besteffort]/pod<uid>`: made with the pod's limits, removed.

The runtime puts containers below the pod's group, so that its limit holds for all of them together. cgroup v1 has one
tree per controller, v2 one for all; a hybrid machine has both, and processes that are left over are killed through the
v2 tree where there is one. Everything here blocks: call it in a thread.

Source: Linux admin-guide/cgroup-v1, cgroup-v2; k8s.io/kubernetes pkg/kubelet/cm/pod_container_manager_linux.go.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from havre.node.agent.resources import MIN_SHARES, PERIOD, Limits, weight

ROOT: Final = Path("/sys/fs/cgroup")
QUALITIES: Final = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}
_CONTROLLERS: Final = ("cpu", "memory", "pids")  # v2: given to the groups below
POD_PROCESSES: Final = 16_384  # processes and threads of one pod; a large Java server has 2,000
_EMPTY_SECONDS: Final = 5.0  # until killed processes have left their group
_PAUSE: Final = 0.01


class CgroupError(Exception):
    """A cgroup could not be made, limited or removed."""


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The groups of one instance; `root` is where cgroups are mounted."""

    instance: str
    root: Path = ROOT

    def parent(self, uid: str, quality: str) -> str:
        """The pod's group as CRI's cgroup_parent."""
        return "/" + "/".join(filter(None, (self.instance, "kubepods", QUALITIES[quality], f"pod{uid}")))

    @property
    def unified(self) -> bool:
        """Pure cgroup v2."""
        return (self.root / "cgroup.controllers").exists()

    def ensure(self, uid: str, quality: str, limits: Limits) -> str:
        """Make the pod's group and set its limits; the CRI cgroup_parent. Raises CgroupError."""
        parent = self.parent(uid, quality)
        try:
            if self.unified:
                self._ensure_v2(parent, limits)
            else:
                self._ensure_v1(parent, limits)
        except OSError as error:
            raise CgroupError(f"make the cgroup {parent}: {error}") from error
        return parent

    def share(self, burstable: int) -> None:
        """Divide the CPU between the qualities: BestEffort gets what is left."""
        for quality, amount in (("burstable", burstable), ("besteffort", MIN_SHARES)):
            for tree in self._trees("cpu"):
                group = tree / self.instance / "kubepods" / quality
                if group.is_dir():
                    _limit_shares(group, amount, unified=self.unified)

    def remove(self, uid: str) -> None:
        """Kill what is left in the pod's group and remove it from every tree. Raises CgroupError."""
        for group in self._groups(uid):
            try:
                _empty(group)
                _remove_tree(group)
            except OSError as error:
                raise CgroupError(f"remove the cgroup {group}: {error}; does something still run in it?") from error

    def uids(self) -> set[str]:
        """The pods that have a group in any tree."""
        return {path.name.removeprefix("pod") for path in self._all()}

    def destroy(self) -> None:
        """Remove all groups of the instance. Raises CgroupError."""
        for uid in self.uids():
            self.remove(uid)
        for tree in self._trees():
            top = tree / self.instance / "kubepods"
            if top.is_dir():
                try:
                    _remove_tree(top)
                except OSError as error:
                    raise CgroupError(f"remove the cgroup {top}: {error}") from error

    # trees

    def _trees(self, controller: str = "") -> list[Path]:
        """The mount points: one on v2; on v1 one per controller, and the v2 tree of a hybrid machine."""
        if self.unified:
            return [self.root]
        if controller:
            return [path for path in [self.root / controller] if path.is_dir()]
        found = {path.resolve() for path in self.root.iterdir() if path.is_dir()} if self.root.is_dir() else set()
        return sorted(path for path in found if (path / "cgroup.procs").exists())

    def _all(self) -> Iterator[Path]:
        for tree in self._trees():
            for quality in QUALITIES.values():
                group = tree / self.instance / "kubepods" / quality
                if group.is_dir():
                    yield from (path for path in group.iterdir() if path.name.startswith("pod") and path.is_dir())

    def _groups(self, uid: str) -> list[Path]:
        return [path for path in self._all() if path.name == f"pod{uid}"]

    def _ensure_v1(self, parent: str, limits: Limits) -> None:
        for tree in self._trees("cpu"):
            group = _made(tree, parent)
            _limit_shares(group, limits.cpu_shares, unified=False)
            if limits.cpu_quota is not None:
                _write(group / "cpu.cfs_period_us", PERIOD)
                _write(group / "cpu.cfs_quota_us", limits.cpu_quota)
        for tree in self._trees("memory"):
            group = _made(tree, parent)
            if limits.memory is not None:
                _write(group / "memory.limit_in_bytes", limits.memory)
        for tree in self._trees("pids"):
            _write(_made(tree, parent) / "pids.max", pod_processes())
            _write(tree / self.instance / "kubepods" / "pids.max", all_processes())

    def _ensure_v2(self, parent: str, limits: Limits) -> None:
        group = self.root
        for part in parent.strip("/").split("/"):
            _delegate(group)
            group = group / part
            group.mkdir(exist_ok=True)
        _delegate(group)
        _limit_shares(group, limits.cpu_shares, unified=True)
        if limits.cpu_quota is not None:
            _write(group / "cpu.max", f"{limits.cpu_quota} {PERIOD}")
        if limits.memory is not None:
            _write(group / "memory.max", limits.memory)
        _write(group / "pids.max", pod_processes())
        _write(self.root / self.instance / "kubepods" / "pids.max", all_processes())


def machine_processes() -> int:
    """How many processes and threads the kernel can have."""
    limits = (Path("/proc/sys/kernel/pid_max"), Path("/proc/sys/kernel/threads-max"))
    return min(int(limit.read_text()) for limit in limits)


def pod_processes() -> int:
    """Of one pod: a fork bomb ends here and leaves room for the others."""
    return min(POD_PROCESSES, machine_processes() // 4)


def all_processes() -> int:
    """Of all pods together: the rest is for the machine itself, so that somebody can log in."""
    return machine_processes() * 3 // 4


def _made(tree: Path, parent: str) -> Path:
    group = tree / parent.strip("/")
    group.mkdir(parents=True, exist_ok=True)
    return group


def _delegate(group: Path) -> None:
    """Let the groups below be limited, by every controller that there is."""
    there = (group / "cgroup.controllers").read_text().split()
    given = (group / "cgroup.subtree_control").read_text().split()
    wanted = [f"+{name}" for name in _CONTROLLERS if name in there and name not in given]
    if wanted:
        _write(group / "cgroup.subtree_control", " ".join(wanted))


def _limit_shares(group: Path, amount: int, *, unified: bool) -> None:
    if unified:
        _write(group / "cpu.weight", weight(amount))
    else:
        _write(group / "cpu.shares", amount)


def _write(path: Path, value: object) -> None:
    """A controller that the machine does not have leaves no file; its limit cannot hold there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _empty(group: Path) -> None:
    """Kill everything in the group and below, and wait until it has left."""
    end = time.monotonic() + _EMPTY_SECONDS
    while pids := _pids(group):
        kill = group / "cgroup.kill"
        if kill.exists():
            _write(kill, 1)
        else:
            for pid in pids:
                _kill(pid)
        if time.monotonic() > end:
            raise OSError(errno.EBUSY, f"processes {pids[:8]} do not end")
        time.sleep(_PAUSE)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _pids(group: Path) -> list[int]:
    found: list[int] = []
    for path in (group, *_below(group)):
        try:
            found += map(int, (path / "cgroup.procs").read_text().split())
        except OSError as error:  # it went meanwhile; or a threaded group, which lists its threads elsewhere
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
    return found


def _below(group: Path) -> list[Path]:
    """The groups below, parents first."""
    return [Path(where) / name for where, directories, _ in os.walk(group) for name in directories]


def _remove_tree(group: Path) -> None:
    for path in (*reversed(_below(group)), group):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
