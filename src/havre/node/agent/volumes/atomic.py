"""Files that change all at once: a reader sees the old ones or the new ones, never some of each.

    volume/..2026_01_31_07_00_00.123456789/key    the files
    volume/..data → ..2026_01_31_07_00_00.…       replaced by one rename
    volume/key → ..data/key                       what containers open

Source: k8s.io/kubernetes pkg/volume/util/atomic_writer.go, for the layout that programs have learned to watch.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from havre.node.agent.volumes.payloads import Payload
from havre.node.removal import remove_tree

DATA: Final = "..data"


def write(volume: Path, payload: Payload, own: Callable[[Path], None]) -> bool:
    """Makes `volume` show exactly `payload`; False if it did already. `own` sets owners before anybody sees the files.

    A crash in the middle leaves the old files in sight, and what the next call removes."""
    old = _current(volume)
    if old is not None and _is(old, payload):
        _names(volume, payload)
        return False
    new = volume / f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{secrets.randbelow(10**9):09d}"
    new.mkdir(mode=0o755)
    new.chmod(0o755)
    for path, file in payload.items():
        _file(new, path, file.content, file.mode, file.uid)
    own(new)
    link = volume / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(new.name)
    link.rename(volume / DATA)
    _names(volume, payload)
    _drop(volume, new.name)
    return True


def _current(volume: Path) -> Path | None:
    try:
        return volume / (volume / DATA).readlink()
    except OSError:
        return None


def _file(root: Path, path: str, content: bytes, mode: int, uid: int | None) -> None:
    target = root / path
    for parent in reversed(target.relative_to(root).parents[:-1]):
        if not (root / parent).exists():
            (root / parent).mkdir()
            (root / parent).chmod(0o755)  # whatever our umask is
    with open(target, "xb", opener=_private) as file:
        file.write(content)
        if uid is not None:
            os.fchown(file.fileno(), uid, -1)
        os.fchmod(file.fileno(), mode)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _is(directory: Path, payload: Payload) -> bool:
    """Whether the files are there with this content and mode (a group may have been let in), and no others."""
    there = {str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir()}
    if there != set(payload):
        return False
    for path, file in payload.items():
        found = (directory / path).stat()
        if (
            stat.S_IMODE(found.st_mode) & ~0o440 != file.mode & ~0o440
            or (directory / path).read_bytes() != file.content
        ):
            return False
    return True


def _names(volume: Path, payload: Payload) -> None:
    """The links that containers see: one for each first component."""
    wanted = {path.partition("/")[0] for path in payload}
    there = {entry.name for entry in volume.iterdir() if not entry.name.startswith("..")}
    for name in wanted - there:
        (volume / name).symlink_to(f"{DATA}/{name}")
    for name in there - wanted:
        remove_tree(volume / name)


def _drop(volume: Path, keep: str) -> None:
    for entry in list(volume.iterdir()):
        if entry.name.startswith("..") and entry.name not in (keep, DATA):
            remove_tree(entry)
