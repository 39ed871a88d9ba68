"""Layers on top of each other, as one file system: overlayfs, mounted through whichever door the kernel has.

Since Linux 6.5 each lower layer is given by a call of its own (`lowerdir+`), at most 500 of them and of any length.
Older kernels take one page of text, in which 128 layers fit if their paths are short: so the mount is made from inside
the directory that holds them.

Source: kernel Documentation/filesystems/overlayfs.rst; fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from havre.node import mounts

_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_MOVE_MOUNT: Final = 429

_CLOEXEC: Final = 1
_SET_FLAG: Final = 0
_SET_STRING: Final = 1
_CREATE: Final = 6
_FROM_DESCRIPTOR: Final = 4  # MOVE_MOUNT_F_EMPTY_PATH
_AT_FDCWD: Final = -100
_READ_ONLY: Final = 1  # MOUNT_ATTR_RDONLY

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Overlay:
    """What to mount: the layers from the top down, and what is written to, if anything is. `source` names the mount in
    /proc/self/mountinfo, where it is found again."""

    source: str
    lower: Sequence[Path]
    upper: Path | None = None
    work: Path | None = None


def mount(overlay: Overlay, target: Path) -> None:
    """Mounts at the existing directory `target`. Raises OSError."""
    if overlay.upper is None and len(overlay.lower) == 1:  # overlayfs wants two, or one to write to
        mounts.bind(str(overlay.lower[0]), target, readonly=True)
        return
    if not overlay.lower:
        mounts.bind(str(overlay.upper), target)
        return
    try:
        _mount_by_calls(overlay, target)
    except OSError as e:
        if e.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        mount_by_text(overlay, target)


def _mount_by_calls(overlay: Overlay, target: Path) -> None:
    context = _called("fsopen", _syscall(_FSOPEN, b"overlay", _CLOEXEC), target)
    try:
        _set(context, "source", overlay.source, target)
        for layer in overlay.lower:
            _set(context, "lowerdir+", str(layer), target)
        if overlay.upper is not None:
            _set(context, "upperdir", str(overlay.upper), target)
            _set(context, "workdir", str(overlay.work), target)
        _set(context, "index", "off", target)  # else an upper directory cannot be used again after a crash
        _called("create", _syscall(_FSCONFIG, ctypes.c_int(context), _CREATE, None, None, 0), target)
        attributes = _READ_ONLY if overlay.upper is None else 0
        made = _called("fsmount", _syscall(_FSMOUNT, ctypes.c_int(context), _CLOEXEC, attributes), target)
    finally:
        os.close(context)
    try:
        where = os.fsencode(target)
        moved = _syscall(_MOVE_MOUNT, ctypes.c_int(made), b"", ctypes.c_int(_AT_FDCWD), where, _FROM_DESCRIPTOR)
        _called("move_mount", moved, target)
    finally:
        os.close(made)


def _set(context: int, key: str, value: str, target: Path) -> None:
    done = _syscall(_FSCONFIG, ctypes.c_int(context), _SET_STRING, key.encode(), os.fsencode(value), 0)
    _called(f"{key}={value}", done, target)


def _called(what: str, result: int, target: Path) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"overlay mount, {what}: {os.strerror(number)}", str(target))
    return int(result)


def mount_by_text(overlay: Overlay, target: Path) -> None:
    """For kernels before 6.5: mount(2), with paths as short as they get. Raises OSError."""
    places = [*overlay.lower, *(path for path in (overlay.upper, overlay.work) if path)]
    inside = Path(os.path.commonpath([place.parent for place in places]))
    options = [f"lowerdir={':'.join(_escaped(layer, inside) for layer in overlay.lower)}"]
    if overlay.upper is not None and overlay.work is not None:
        options += [f"upperdir={_escaped(overlay.upper, inside)}", f"workdir={_escaped(overlay.work, inside)}"]
    text = ",".join([*options, "index=off"])
    flags = mounts.RDONLY if overlay.upper is None else 0
    at = target.absolute()
    mounts.in_own_directory(inside, lambda: mounts.mount(overlay.source, at, "overlay", flags, text))


def _escaped(path: Path, inside: Path) -> str:
    text = os.path.relpath(path, inside)
    for special in ("\\", ",", ":"):
        text = text.replace(special, f"\\{special}")
    return text
