"""A part of a volume for one container, which the volume's other users cannot turn into a way out.

A container that writes to the volume can put a link where `subPath` leads, also in the moment between a look and a
mount. So the kernel opens the path without leaving the volume, and what is open is mounted, by its descriptor.
Blocking.

Source: k8s.io/kubernetes pkg/volume/util/subpath/subpath_linux.go, and the CVEs it tells of.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from havre.node import mounts
from havre.node.agent.protocol import GivenError
from havre.node.beneath import BENEATH, NO_MAGICLINKS, openat2

_INSIDE: Final = BENEATH | NO_MAGICLINKS


def check(path: str) -> None:
    """Raises GivenError for a path that is not one below a volume."""
    if path.startswith("/"):
        raise GivenError(f"error SubPath `{path}` must not be an absolute path")
    if ".." in path.split("/"):
        raise GivenError(f"subPath {path!r} must not contain '..'")


def mount(volume: Path, path: str, target: Path) -> None:
    """Shows `path` of `volume` at `target`; made as a directory if it is missing. Mounted already: nothing happens."""
    check(path)
    found = _opened(volume, path)
    try:
        if _is_there(found, target):
            return
        _place(found, target)
        mounts.bind(f"/proc/self/fd/{found}", target, recursive=True)
    finally:
        os.close(found)


def _opened(volume: Path, path: str) -> int:
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY)
    try:
        try:
            return openat2(root, os.fsencode(path), os.O_PATH, resolve=_INSIDE)
        except FileNotFoundError:
            _make(root, path)
            return openat2(root, os.fsencode(path), os.O_PATH, resolve=_INSIDE)
    except OSError as e:
        if e.errno in (errno.EXDEV, errno.ELOOP):
            raise GivenError(f"subPath {path!r} leads out of the volume") from e
        raise GivenError(f"subPath {path!r}: {e.strerror}") from e
    finally:
        os.close(root)


def _make(root: int, path: str) -> None:
    """The missing directories, with the volume's own mode."""
    mode = stat.S_IMODE(os.fstat(root).st_mode)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for i, part in enumerate(parts):
        parent = openat2(root, os.fsencode("/".join(parts[:i]) or "."), os.O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
        try:
            os.mkdir(part, 0o700, dir_fd=parent)
        except FileExistsError:
            continue
        else:
            made = openat2(parent, os.fsencode(part), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_INSIDE)
            os.fchmod(made, mode)
            os.close(made)
        finally:
            os.close(parent)


def _is_there(found: int, target: Path) -> bool:
    """Whether exactly this is mounted; what else is, goes."""
    if mounts.mounted_at(target) is None:
        return False
    wanted, there = os.fstat(found), target.stat()
    if (wanted.st_dev, wanted.st_ino) == (there.st_dev, there.st_ino):
        return True
    mounts.unmount(target)
    return False


def _place(found: int, target: Path) -> None:
    """Something of the same kind to mount on: a directory, or a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISDIR(os.fstat(found).st_mode):
        if target.exists() and not target.is_dir():
            target.unlink()
        target.mkdir(exist_ok=True)
        return
    if target.is_dir():
        target.rmdir()
    target.touch(mode=0o600, exist_ok=True)
