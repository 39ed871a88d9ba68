"""Mounts: made, found and undone by the kernel's own calls, without a mount(8) process for each.

mount, bind, unmount       mount(2) and umount2(2); a bind mount takes its flags in a second step, as the kernel asks
table, mounted_at          what /proc/self/mountinfo says, read anew each time: a restart knows nothing else
in_own_directory           a thread with a working directory of its own, for option strings with short relative paths

Every call blocks; call from a thread. Source: mount(2), umount2(2), proc(5) mountinfo.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

RDONLY: Final = 0x1
NOSUID: Final = 0x2
NODEV: Final = 0x4
NOEXEC: Final = 0x8
REMOUNT: Final = 0x20
BIND: Final = 0x1000
REC: Final = 0x4000
PRIVATE: Final = 0x40000
SLAVE: Final = 0x80000
SHARED: Final = 0x100000

DETACH: Final = 0x2  # umount2: gone from the tree now, from the kernel with its last user
NOFOLLOW: Final = 0x8

_CLONE_FS: Final = 0x200
_LOCKED: Final = NOSUID | NODEV | NOEXEC  # flags of the source that a remount must repeat
_OPTIONS: Final = 4095  # bytes of mount(2)'s data: one page with its zero
_EINVAL: Final = 22
_EBUSY: Final = 16


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo. `point` is the path, `source` what was given as the source, `root` the part of a file
    system that is shown."""

    point: str
    root: str
    filesystem: str
    source: str
    options: tuple[str, ...]  # of this mount
    super_options: tuple[str, ...]  # of its file system
    shared: bool = False


def mount(source: str, target: Path, filesystem: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError with the target."""
    if len(os.fsencode(options)) > _OPTIONS:
        raise OSError(_EINVAL, f"mount options are longer than a page ({len(options)} bytes)", str(target))
    data = os.fsencode(options) if options else None
    done = _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(filesystem), ctypes.c_ulong(flags), data)
    _check(done, target)


def bind(source: str, target: Path, *, readonly: bool = False, recursive: bool = False) -> None:
    """Shows `source` (a path, or /proc/self/fd/N of an open one) at `target` too."""
    mount(source, target, "", BIND | (REC if recursive else 0))
    if not readonly:
        return
    try:
        mount("", target, "", BIND | REMOUNT | RDONLY | _flags_of(target))
    except OSError:
        unmount(target)
        raise


def _flags_of(target: Path) -> int:
    return os.statvfs(target).f_flag & _LOCKED


def unmount(target: Path) -> bool:
    """Takes the topmost mount off `target`, at once; False if nothing is mounted there. A busy one is detached: it goes
    with its last user."""
    for flags in (NOFOLLOW, NOFOLLOW | DETACH):
        if _libc.umount2(os.fsencode(target), flags) == 0:
            return True
        number = ctypes.get_errno()
        if number in (_EINVAL, 2):  # EINVAL: no mount point; ENOENT
            return False
        if number != _EBUSY:
            break
    raise OSError(number, os.strerror(number), str(target))


def _check(done: int, target: Path) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


# what is mounted


def table(text: str | None = None) -> list[Mounted]:
    """Every mount of this process's namespace, in the order in which they were made."""
    if text is None:
        text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return [_line(line) for line in text.splitlines()]


def _line(line: str) -> Mounted:
    """`36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`"""
    left, _, right = line.partition(" - ")
    fields, rest = left.split(" "), right.split(" ")
    return Mounted(
        point=_plain(fields[4]),
        root=_plain(fields[3]),
        filesystem=rest[0],
        source=_plain(rest[1]),
        options=tuple(fields[5].split(",")),
        super_options=tuple(_plain(rest[2]).split(",")) if len(rest) > 2 else (),
        shared=any(field.startswith("shared:") for field in fields[6:]),
    )


_escape = re.compile(r"\\([0-7]{3})")


def _plain(text: str) -> str:
    return _escape.sub(lambda found: chr(int(found[1], 8)), text) if "\\" in text else text


def mounted_at(point: Path) -> Mounted | None:
    """The topmost mount at exactly this path."""
    wanted = str(point)
    return next((m for m in reversed(table()) if m.point == wanted), None)


def below(root: Path) -> list[Path]:
    """Mount points at or under `root`, deepest and youngest first: the order in which to unmount them."""
    prefix = f"{root}/"
    return [Path(m.point) for m in reversed(table()) if m.point == str(root) or m.point.startswith(prefix)]


# relative paths


def in_own_directory(directory: Path, act: Callable[[], None]) -> None:
    """Runs `act` in a thread whose working directory is `directory`; the process's own stays. Raises its OSError."""
    failed: list[OSError] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_FS) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            os.chdir(directory)
            act()
        except OSError as e:
            failed.append(e)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
