"""Volumes that are directories: emptyDir, hostPath, and what a claim is bound to. Blocking; call from a thread.

Source: k8s.io/kubernetes pkg/volume/{emptydir,hostpath,local}.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from havre.api.meta import Obj
from havre.kit.quantity import QuantityError, parse
from havre.node import mounts
from havre.node.agent.protocol import VolumeError

_SHARED: Final = 0o777  # an emptyDir is everybody's, as upstream


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of a pod: where it is on the machine, and whether no container may write to it."""

    host_path: Path
    readonly: bool = False


def empty_dir(path: Path, source: Obj, pod: Obj) -> Mount:
    """An empty directory, on disk or in memory; what is in it stays as long as the pod."""
    medium = source.get("medium") or ""
    if medium not in ("", "Memory"):
        raise VolumeError(f'unknown storage medium "{medium}": this node has only disk ("") and Memory')
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    if medium == "Memory" and mounts.mounted_at(path) is None:
        size = _memory_size(source, pod)
        mounts.mount("tmpfs", path, "tmpfs", 0, f"size={size}" if size else "")
        made = True
    if made:
        path.chmod(_SHARED)
    return Mount(path)


def _memory_size(source: Obj, pod: Obj) -> int:
    """Bytes: no more than its limit, nor than the containers may use together; 0 leaves the kernel's half of memory."""
    sizes = []
    limit = source.get("sizeLimit")
    if limit is not None and (amount := _bytes(limit)):
        sizes.append(amount)
    containers = (pod.get("spec") or {}).get("containers") or ()
    memory = [((c.get("resources") or {}).get("limits") or {}).get("memory") for c in containers]
    if memory and all(memory):
        sizes.append(sum(_bytes(one) for one in memory))
    return min(sizes, default=0)


def _bytes(text: object) -> int:
    try:
        return parse(str(text)).value()
    except QuantityError as e:
        raise VolumeError(f"sizeLimit {text}: {e}") from e


_CHECKS: Final[Mapping[str, tuple[Callable[[int], bool], str]]] = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def host_path(source: Obj) -> Mount:
    """A path of the machine, checked and made as its type says; without a type, a missing one becomes a directory."""
    path = Path(str(source.get("path") or ""))
    kind = source.get("type") or ""
    if not path.is_absolute() or ".." in path.parts:
        raise VolumeError(f"hostPath {path} must be absolute and without '..'")
    if kind and kind not in _CHECKS:
        raise VolumeError(f"{kind} is an invalid hostPath type")
    if not path.exists():
        _make(path, kind)
    if kind:
        fits, words = _CHECKS[kind]
        if not path.exists() or not fits(path.stat().st_mode):
            raise VolumeError(f"hostPath type check failed: {path} is not a {words}")
    return Mount(path)


def _make(path: Path, kind: str) -> None:
    if kind in ("", "DirectoryOrCreate"):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate":  # its directory must be there
        if not path.parent.is_dir():
            raise VolumeError(f"hostPath type check failed: {path.parent}, where the file would be made, is not there")
        path.touch(mode=0o644, exist_ok=True)


def persistent(volume: Obj) -> Mount:
    """What a PersistentVolume is on this machine."""
    spec = volume.get("spec") or {}
    name = volume["metadata"]["name"]
    if (spec.get("volumeMode") or "Filesystem") != "Filesystem":
        raise VolumeError(f"PersistentVolume {name} is a block device, which this node does not pass on")
    if source := spec.get("hostPath"):
        return host_path({"type": "DirectoryOrCreate", **source})
    if source := spec.get("local"):
        path = Path(str(source["path"]))
        if not path.is_dir():
            raise VolumeError(f'path "{path}" does not exist')
        return Mount(path)
    kinds = ", ".join(sorted(spec.keys() - _ABOUT)) or "nothing"
    raise VolumeError(
        f"PersistentVolume {name} is of a kind that this node cannot mount ({kinds}); use hostPath or local"
    )


_ABOUT: Final = frozenset(
    (
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    )
)
