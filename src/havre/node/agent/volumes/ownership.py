"""fsGroup: a volume given to a group, so that every container of the pod may use it, whatever user it runs as.

Source: k8s.io/kubernetes pkg/volume/volume_linux.go.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_WRITE: Final = 0o660
_READ: Final = 0o440
_ENTER: Final = 0o110 | stat.S_ISGID  # new files belong to the group too


def give(root: Path, group: int, *, readonly: bool) -> None:
    """Gives everything below `root`, and `root`, to the group. Links are given, not followed. O(files)."""
    _give(root, root.lstat(), group, readonly)
    waiting = [root] if root.is_dir() and not root.is_symlink() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                _give(Path(entry.path), entry.stat(follow_symlinks=False), group, readonly)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))


def _give(path: Path, found: os.stat_result, group: int, readonly: bool) -> None:
    os.chown(path, -1, group, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        return
    mode = stat.S_IMODE(found.st_mode) | (_READ if readonly else _WRITE)
    if stat.S_ISDIR(found.st_mode):
        mode |= _ENTER
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISLNK(os.fstat(place).st_mode):  # nobody swapped it meanwhile
            Path(f"/proc/self/fd/{place}").chmod(mode)
    finally:
        os.close(place)


def is_given(root: Path, group: int, *, readonly: bool) -> bool:
    """Whether the root looks as if all was given before: what fsGroupChangePolicy OnRootMismatch asks."""
    found = root.stat()
    wanted = (_READ if readonly else _WRITE) | _ENTER
    return found.st_gid == group and stat.S_IMODE(found.st_mode) & wanted == wanted
