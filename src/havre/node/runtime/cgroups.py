"""The cgroups of containers, on a pure v2 machine and on one that keeps controllers in v1 (hybrid or legacy).

Unified (v2): one tree at /sys/fs/cgroup. Hybrid: one tree per v1 controller, which limit, and a v2 tree without
controllers at /sys/fs/cgroup/unified, which kills, and whose ids eBPF programs see. A path such as
`/havre/kubepods/pod1/c1` is the same in every tree.

Every call reads or writes kernel files of a few bytes; call from a thread when a whole subtree is meant.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from havre.node.mounts import table
from havre.node.runtime.errors import Invalid

__all__ = ["ROOT", "Cgroups", "checked"]

ROOT = Path("/sys/fs/cgroup")
MAX_PATH = 1024  # characters; kubepods/burstable/pod<36>/<64> has 130


def checked(path: str) -> str:
    """A cgroup path that stays below the root. Raises Invalid."""
    if not path.startswith("/") or len(path) > MAX_PATH or "\0" in path or ".." in PurePosixPath(path).parts:
        raise Invalid(f"cgroup path {path!r}: must be absolute, without .., up to {MAX_PATH} characters")
    if path.endswith(".slice") or ":" in path:
        raise Invalid(f"cgroup path {path!r}: systemd slices are not spoken here; the cgroup driver is cgroupfs")
    return "/" + "/".join(part for part in path.split("/") if part)


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where the trees of this machine are mounted."""

    v2: Path | None  # the v2 tree: all of it, or the part without controllers
    v1: dict[str, Path]  # controller, or "name=systemd" → its tree; empty on a unified machine

    @classmethod
    def detect(cls) -> Cgroups:
        """From the mounts of this process."""
        v2: Path | None = None
        v1: dict[str, Path] = {}
        for mounted in table():
            if mounted.filesystem == "cgroup2":
                v2 = v2 or Path(mounted.point)
            elif mounted.filesystem == "cgroup":
                for option in mounted.super_options:
                    if option in _CONTROLLERS or option.startswith("name="):
                        v1.setdefault(option, Path(mounted.point))
        return cls(v2, v1)

    @property
    def unified(self) -> bool:
        return self.v2 is not None and not self.v1

    @property
    def hybrid(self) -> bool:
        return self.v2 is not None and bool(self.v1)

    def trees(self) -> list[Path]:
        """Every mounted tree, once."""
        found = dict.fromkeys(self.v1.values())
        if self.v2 is not None:
            found[self.v2] = None
        return list(found)

    def of(self, controller: str, path: str) -> Path | None:
        """The directory of `path` in the tree that has `controller`."""
        tree = self.v2 if self.unified else self.v1.get(controller)
        return _at(tree, path) if tree is not None else None

    def _naming(self) -> list[Path]:
        return [tree for tree in (self.v2, self.v1.get("name=systemd")) if tree is not None]

    # processes

    def make_v2(self, path: str) -> None:
        """Make the directory in the v2 tree, so that a process can join it."""
        if self.v2 is not None:
            _at(self.v2, path).mkdir(parents=True, exist_ok=True)

    def join(self, path: str, pid: int, *, limited: bool = True) -> None:
        """Move a process into `path` of every tree; made if absent. Not `limited`: only of the trees that name and kill
        processes, as the kernel takes 1 ms for each."""
        for tree in self.trees() if limited else self._naming():
            directory = _at(tree, path)
            directory.mkdir(parents=True, exist_ok=True)
            if tree.name != "cpuset" or _prepare_cpuset(directory):
                (directory / "cgroup.procs").write_text(str(pid))

    def processes(self, path: str) -> set[int]:
        """Ids of all processes in `path` and below."""
        found: set[int] = set()
        for tree in self.trees():
            for directory in _walk(_at(tree, path)):
                found.update(int(line) for line in _read(directory / "cgroup.procs").split())
        return found - {0}

    def kill(self, path: str) -> None:
        """SIGKILL to all in `path` and below, at once where the kernel has cgroup.kill (5.14)."""
        if self.v2 is not None:
            with contextlib.suppress(FileNotFoundError):
                (_at(self.v2, path) / "cgroup.kill").write_text("1")
        for pid in self.processes(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, path: str) -> bool:
        """Remove `path` and all below from every tree; False when a process is still in one."""
        done = [_remove_tree(_at(tree, path)) for tree in self.trees()]  # each is tried
        return all(done)

    def prune(self, path: str) -> None:
        """Remove `path` itself where it is empty; children or processes keep it."""
        for tree in self.trees():
            with contextlib.suppress(OSError):
                _at(tree, path).rmdir()

    # facts

    def out_of_memory_kills(self, path: str) -> int:
        """How many processes of `path` the kernel killed for its memory limit."""
        directory = self.of("memory", path)
        if directory is None:
            return 0
        name = "memory.events" if self.unified else "memory.oom_control"
        return fields(directory / name).get("oom_kill", 0)

    def id(self, path: str) -> int:
        """What bpf_get_current_cgroup_id() says inside `path`; 0 without a v2 tree."""
        if self.v2 is None:
            return 0
        try:
            return _at(self.v2, path).stat().st_ino
        except FileNotFoundError:
            return 0


def fields(path: Path) -> dict[str, int]:
    """A flat keyed file, `name number` a line; {} when it is not there."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


_CONTROLLERS = frozenset(
    ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb", "perf_event")
)


def _at(tree: Path, path: str) -> Path:
    return tree / path.lstrip("/")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the cgroup went away, or is of a type without this file
        return ""


def _walk(directory: Path) -> Iterator[Path]:
    """`directory` and all below, children first."""
    try:
        children = [Path(entry.path) for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        yield from _walk(child)
    yield directory


def _remove_tree(directory: Path) -> bool:
    removed = True
    for child in _walk(directory):
        try:
            child.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            removed = False
    return removed


def _prepare_cpuset(directory: Path) -> bool:
    """A new v1 cpuset has no CPUs; nothing can join it until it has some, taken from its parent."""
    if not (directory / "cpuset.cpus").exists():
        return False
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = directory / name
        if not file.read_text().strip():
            above = directory.parent / name
            if not above.read_text().strip():
                _prepare_cpuset(directory.parent)
            file.write_text(above.read_text().strip())
    return True
