"""Removing a tree that somebody else filled: any depth, any names, never through a link, never into another mount.

A container can nest directories deeper than a path or a call stack is long. So nothing here walks down: the directories
inside a directory are moved up to the top of the tree before their parent is removed, and one level is all there is.

A mount that is still there is an error, and nothing of it is touched: it may be a directory of the host.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import Final

from havre.node.beneath import BENEATH, NO_SYMLINKS, NO_XDEV, openat2

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_STAY: Final = BENEATH | NO_SYMLINKS | NO_XDEV


def remove_tree(path: Path) -> None:
    """Removes `path` and all below; nothing there is fine. O(files).

    Raises OSError, EXDEV when something is mounted in it. A link at `path` itself is removed, not followed. Stopped
    half-way, a second call goes on.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as e:
        if e.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        path.unlink(missing_ok=True)  # a file or a link
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    path.rmdir()


def _empty(top: int) -> None:
    moved = secrets.token_hex(8)  # names that nobody inside could have guessed
    count = 0
    waiting = _unlink_files(top)
    while waiting:
        name = waiting.pop()
        inner = openat2(top, os.fsencode(name), _DIRECTORY, resolve=_STAY)
        try:
            for child in _unlink_files(inner):
                count += 1
                up = f"{moved}-{count}"
                os.rename(child, up, src_dir_fd=inner, dst_dir_fd=top)
                waiting.append(up)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=top)


def _unlink_files(directory: int) -> list[str]:
    """Removes what is no directory; the names of the directories."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories
