"""Pins: names in a bpffs that keep maps and links alive when no process holds them.

A machine with systemd has a bpffs at /sys/fs/bpf; there an instance takes the folder of its name. Where there is none,
the instance mounts one of its own in its run folder: a mount that instances shared could not be taken away by any of
them, since unmounting a bpffs drops every pin in it. Who mounted unmounts: `release`, which the instance's `destroy`
calls. Our own mount wins over the system's if both are there, since the pins of an earlier run are in it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from havre.node.bpf.call import BpfError, Buffer, Command, address, bpf, buffer_of

SYSTEM = Path("/sys/fs/bpf")
BPFFS_MAGIC = 0xCAFE4A11
MNT_DETACH = 2
MOUNT_FLAGS = 2 | 4 | 8  # nosuid, nodev, noexec

_libc = ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies in a bpffs."""
    answer = ctypes.create_string_buffer(256)  # struct statfs, its first word is the type; 120 bytes on 64-bit Linux
    if _libc.statfs(os.fsencode(path), answer):
        return False
    kind: int = struct.unpack_from("=q", answer)[0]
    return kind == BPFFS_MAGIC


@dataclass(frozen=True, slots=True)
class Pins:
    """A folder of pins, and the mount that is ours if we had to make one."""

    folder: Path
    mount: Path | None = None

    @classmethod
    def open(cls, instance: str, run: Path) -> Pins:
        """The instance's folder, made if it is not there."""
        pins = cls.find(instance, run)
        if pins.mount is not None and not is_bpffs(pins.mount):
            _mount(pins.mount)
        pins.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return pins

    @classmethod
    def find(cls, instance: str, run: Path) -> Pins:
        """Where the instance's pins are or would be; makes nothing."""
        own = run / "bpf"
        if is_bpffs(SYSTEM) and not is_bpffs(own):
            return cls(SYSTEM / instance)
        return cls(own / instance, own)

    def release(self) -> None:
        """Remove every pin, the folder, and the mount if it is ours. Twice is the same as once."""
        for pin in self.names():
            self.drop(pin)
        if self.folder.is_dir():
            self.folder.rmdir()
        if self.mount is not None and is_bpffs(self.mount):
            _unmount(self.mount)
            self.mount.rmdir()

    def names(self, start: str = "") -> list[str]:
        """The names of pins that begin with `start`, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if entry.name.startswith(start))

    def pin(self, name: str, fd: int) -> None:
        """Give the object behind `fd` a name. Raises BpfError with EEXIST if the name is taken."""
        path = self._path(name)
        bpf(Command.OBJ_PIN, struct.pack("=QII", address(path), fd, 0), f"pin {self.folder / name}")

    def get(self, name: str) -> int | None:
        """A new descriptor of what is pinned, which the caller closes; None if there is no such pin."""
        path = self._path(name)
        try:
            return bpf(Command.OBJ_GET, struct.pack("=QII", address(path), 0, 0), f"open pin {self.folder / name}")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def drop(self, name: str) -> None:
        """Take the name away; the object goes with its last user."""
        (self.folder / name).unlink(missing_ok=True)

    def _path(self, name: str) -> Buffer:
        """The path as the kernel reads it; attr of both commands: `<u64 path><u32 fd><u32 flags>`."""
        return buffer_of(os.fsencode(self.folder / name) + b"\0")


def _mount(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", ctypes.c_ulong(MOUNT_FLAGS), b"mode=0700"):
        raise BpfError(ctypes.get_errno(), f"mount a bpffs at {path}", "eBPF needs root and CONFIG_BPF_SYSCALL")


def _unmount(path: Path) -> None:
    if _libc.umount2(os.fsencode(path), MNT_DETACH):
        raise BpfError(ctypes.get_errno(), f"unmount the bpffs at {path}")


def cgroup_root(mounts: Path = Path("/proc/self/mountinfo")) -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or …/unified on machines that still have version 1."""
    for root, kind in _mounts(mounts.read_text()):
        if kind == "cgroup2":
            return Path(root)
    raise BpfError(errno.ENOENT, "find cgroup v2", "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified")


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    """Mount points and file system types of a mountinfo: `id parent dev root POINT options [tags] - TYPE …`."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        yield before.split(" ")[4], after.split(" ")[0]
