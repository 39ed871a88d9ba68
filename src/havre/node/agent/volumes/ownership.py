"""fsGroup: a volume given to a group, so that every container of the pod may use it, whatever user it runs as.

Source: k8s.io/kubernetes pkg/volume/volume_linux.go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from havre.node.beneath import BENEATH, NO_MAGICLINKS, NO_SYMLINKS, openat2

_WRITE: Final = 0o660
_READ: Final = 0o440
_ENTER: Final = 0o110 | stat.S_ISGID  # new files belong to the group too


def give(root: Path, group: int, *, readonly: bool) -> None:
    """Gives everything below `root`, and `root`, to the group. Links are given, not followed. O(files).

    Another pod may be at work in the volume: every directory is opened anew below the root, without links, and its
    entries are changed by their names in it, so that nothing swapped meanwhile leads out."""
    if not root.is_dir() or root.is_symlink():
        above = os.open(root.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            _give(above, root.name, group, readonly)
        finally:
            os.close(above)
        return
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _give(top, ".", group, readonly)
        waiting = [b"."]
        while waiting:
            waiting += _give_entries(top, waiting.pop(), group, readonly)
    finally:
        os.close(top)


def _give_entries(top: int, path: bytes, group: int, readonly: bool) -> list[bytes]:
    """The directories among the entries of one directory. What vanished meanwhile needs no owner."""
    try:
        directory = openat2(top, path, os.O_RDONLY | os.O_DIRECTORY, resolve=BENEATH | NO_SYMLINKS | NO_MAGICLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        if e.errno == errno.ELOOP:  # a link by now
            return []
        raise
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    _give(directory, entry.name, group, readonly)
                if entry.is_dir(follow_symlinks=False):
                    found.append(path + b"/" + os.fsencode(entry.name))
    finally:
        os.close(directory)
    return found


def _give(directory: int, name: str, group: int, readonly: bool) -> None:
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        found = os.fstat(place)
        os.chown(name, -1, group, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return
        mode = stat.S_IMODE(found.st_mode) | (_READ if readonly else _WRITE)
        if stat.S_ISDIR(found.st_mode):
            mode |= _ENTER
        Path(f"/proc/self/fd/{place}").chmod(mode)
    finally:
        os.close(place)


def is_given(root: Path, group: int, *, readonly: bool) -> bool:
    """Whether the root looks as if all was given before: what fsGroupChangePolicy OnRootMismatch asks."""
    found = root.stat()
    wanted = (_READ if readonly else _WRITE) | _ENTER
    return found.st_gid == group and stat.S_IMODE(found.st_mode) & wanted == wanted
