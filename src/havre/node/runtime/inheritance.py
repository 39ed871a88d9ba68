"""Directories that a layer goes through but does not describe look as they do in the layers below.

Overlayfs shows the attributes of the uppermost layer that has a directory. An archive may hold `var/lib/x` without
`var` and `var/lib`; made as root's 0755 they would change what the image below says of them.

Source: containerd pkg/archive, which copies the parent's owner, mode and attributes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from havre.node.beneath import IN_ROOT, NO_MAGICLINKS, NO_SYMLINKS, openat2

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_STRAIGHT: Final = IN_ROOT | NO_MAGICLINKS | NO_SYMLINKS
_OVERLAY: Final = ("trusted.overlay.", "user.overlay.")


def inherit(layer: Path, implicit: Sequence[str], below: Sequence[Path]) -> None:
    """Gives each path of `implicit` in `layer` what the first of `below` that has it says; without one, it stays."""
    if not implicit or not below:
        return
    roots = [os.open(root, os.O_PATH | os.O_DIRECTORY) for root in (layer, *below)]
    try:
        for path in implicit:
            _inherit(roots[0], os.fsencode(path), roots[1:])
    finally:
        for root in roots:
            os.close(root)


def _inherit(layer: int, path: bytes, below: Sequence[int]) -> None:
    for root in below:
        try:
            model = openat2(root, path, _DIRECTORY, resolve=_STRAIGHT)
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno in (errno.ENOTDIR, errno.ELOOP):  # a file, a whiteout or a link: further below it is hidden
                return
            raise
        try:
            _copy(model, layer, path)
        finally:
            os.close(model)
        return


def _copy(model: int, layer: int, path: bytes) -> None:
    try:
        directory = openat2(layer, path, _DIRECTORY, resolve=_STRAIGHT)
    except (FileNotFoundError, NotADirectoryError):
        return  # a later entry took its place
    try:
        looks = os.fstat(model)
        os.fchown(directory, looks.st_uid, looks.st_gid)
        os.fchmod(directory, looks.st_mode & 0o7777)
        for name in os.listxattr(model):
            if not name.startswith(_OVERLAY):
                os.setxattr(directory, name, os.getxattr(model, name))
        os.utime(directory, ns=(looks.st_mtime_ns, looks.st_mtime_ns))
    finally:
        os.close(directory)
