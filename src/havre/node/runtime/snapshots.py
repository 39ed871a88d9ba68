"""Unpacked layers, and the root directories that containers get from them.

    layers/<n>/fs            what one layer adds to the layers below it; never changed once it has its number
    layers/<n>/layer.json    its chain: the digest that names this layer on exactly those others
    layers/.staging-…        being unpacked; what a crash left is removed later
    active/<key>/{fs,work}   what one container wrote; mounted on top of the layers of `parent`
    active/<key>/snapshot.json
    trash/                   on its way out

A layer is there when its directory has its number: everything in it was synced before the rename, so neither a crash
nor a power cut leaves half of one. Mounts are found in /proc/self/mountinfo by their source `havre:<whose>:<key>`, so
a restart and a reboot need no repair: `mount` again does what is missing.

Source: OCI image-spec config.md (chain ids); containerd core/snapshots for the words.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NewType

from havre.node import mounts
from havre.node.removal import remove_tree
from havre.node.runtime import overlay
from havre.node.runtime.compression import Limits
from havre.node.runtime.inheritance import inherit
from havre.node.runtime.unpack import Done, Job
from havre.node.runtime.unpackers import unpack_all
from havre.wire.oci.digest import Digest

__all__ = ["ChainId", "LayerBlob", "SnapshotError", "Snapshots", "Usage", "chain_ids"]

log = logging.getLogger(__name__)

ChainId = NewType("ChainId", str)  # sha256:… of a layer and all below it; "" is no layer at all
NOTHING: Final = ChainId("")

DEEPEST: Final = 128  # layers of one image, as containerd and the page of mount(2) have it; overlayfs itself takes 500
_STAGING: Final = ".staging-"
_plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}").fullmatch


class SnapshotError(RuntimeError):
    """The layers or the snapshot asked for are not there, or not as asked."""


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as it was pulled: the file, what it says it is, and the digest of what comes out of it."""

    path: Path
    media_type: str
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes on disk, its parents excluded."""

    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class _Layer:
    """One directory of `layers`."""

    number: int
    chain: ChainId
    parent: ChainId
    size: int  # bytes of its archive
    files: int
    opaque: bool  # the layers below are not seen


def chain_ids(diff_ids: Iterable[str]) -> list[ChainId]:
    """The chain of each layer, from the bottom up: sha256 of the chain below, a space, and its own digest."""
    chains: list[ChainId] = []
    for diff_id in diff_ids:
        below = f"{chains[-1]} {diff_id}".encode() if chains else b""
        chains.append(ChainId(f"sha256:{hashlib.sha256(below).hexdigest()}" if below else diff_id))
    return chains


class Snapshots:
    """The snapshots of one runtime under `root`. One object per directory and process."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        root = root.absolute()
        whose = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]  # several instances may use the same keys
        self._mark = f"havre:{whose}"
        self._layers_root = root / "layers"
        self._active_root = root / "active"
        self._trash = root / "trash"
        self._limits = limits or Limits()
        for place in (root, self._layers_root, self._active_root, self._trash):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layers = _index(self._layers_root)
        known = {str(layer.number) for layer in self._layers.values()}
        strange = [place for place in self._layers_root.iterdir() if place.name not in known]
        self._left = [*strange, *_hidden(self._active_root), *self._trash.iterdir()]
        self._records = _records(self._active_root)  # of the snapshots, by directory
        self._busy: dict[ChainId, asyncio.Future[None]] = {}
        self._pins: Counter[ChainId] = Counter()  # used at this moment, though no record says so yet
        self._numbering = asyncio.Lock()

    # layers

    def has(self, chain: ChainId) -> bool:
        """Whether all layers up to `chain` are unpacked."""
        return chain == NOTHING or chain in self._layers

    def paths(self, chain: ChainId) -> list[Path]:
        """The directories that overlayfs needs to show `chain`, from the top down. Raises SnapshotError."""
        found = []
        while chain:
            layer = self._layers.get(chain)
            if layer is None:
                raise SnapshotError(f"the layers of {chain} are not unpacked; pull the image again")
            found.append(self._layers_root / str(layer.number) / "fs")
            if layer.opaque:
                break
            chain = layer.parent
        return found

    def layer_usage(self, chain: ChainId) -> Usage:
        """What the one layer `chain` takes, by its archive. Raises SnapshotError."""
        if chain not in self._layers:
            raise SnapshotError(f"the layer {chain} is not unpacked")
        return Usage(self._layers[chain].size, self._layers[chain].files)

    async def unpack(self, layers: Sequence[LayerBlob]) -> ChainId:
        """Unpacks what is missing of `layers`, given from the bottom up; all of it, or nothing. What others unpack at
        this moment is waited for. Raises BadLayer, UnpackFailed."""
        if len(layers) > DEEPEST:
            raise SnapshotError(f"the image has {len(layers)} layers, more than {DEEPEST}")
        chains = chain_ids(layer.diff_id for layer in layers)
        with self._pin(*chains):
            await self._complete(chains, layers)
        return chains[-1] if chains else NOTHING

    async def _complete(self, chains: Sequence[ChainId], layers: Sequence[LayerBlob]) -> None:
        while missing := [i for i, chain in enumerate(chains) if chain not in self._layers]:
            others = [self._busy[chains[i]] for i in missing if chains[i] in self._busy]
            if others:
                await asyncio.wait(others)
            else:
                await self._claim([(chains[i], chains[i - 1] if i else NOTHING, layers[i]) for i in missing])

    @contextmanager
    def _pin(self, *chains: ChainId) -> Iterator[None]:
        """Nobody collects these meanwhile."""
        self._pins.update(chains)
        try:
            yield
        finally:
            self._pins.subtract(chains)
            self._pins += Counter()  # drops those that are at zero

    async def _claim(self, todo: list[tuple[ChainId, ChainId, LayerBlob]]) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._busy |= dict.fromkeys((chain for chain, _, _ in todo), mine)
        staging = self._layers_root / f"{_STAGING}{secrets.token_hex(8)}"
        try:
            await asyncio.to_thread(self._prepare, staging, len(todo))
            jobs = [
                Job(str(blob.path), blob.diff_id, str(staging / str(i) / "fs"), self._limits)
                for i, (_, _, blob) in enumerate(todo)
            ]
            done = await unpack_all(jobs, staging)
            async with self._numbering:
                kept = await asyncio.to_thread(self._keep, staging, todo, done)
                self._layers |= {layer.chain: layer for layer in kept}
        finally:
            for chain, _, _ in todo:
                del self._busy[chain]
            mine.set_result(None)
            await asyncio.shield(asyncio.to_thread(remove_tree, staging))

    def _prepare(self, staging: Path, count: int) -> None:
        self._sweep()
        for i in range(count):
            (staging / str(i) / "fs").mkdir(parents=True, mode=0o755)
            (staging / str(i) / "fs").chmod(0o755)

    def _keep(self, staging: Path, todo: list[tuple[ChainId, ChainId, LayerBlob]], done: list[Done]) -> list[_Layer]:
        """Gives the finished layers their numbers. A parent comes before its child, so a crash leaves no orphan."""
        free = max((int(p.name) for p in self._layers_root.iterdir() if p.name.isdigit()), default=0) + 1
        kept: list[_Layer] = []
        known = dict(self._layers)
        where = {layer.chain: self._layers_root / str(layer.number) / "fs" for layer in known.values()}
        for i, ((chain, parent, _), result) in enumerate(zip(todo, done, strict=True)):
            layer = _Layer(free + i, chain, parent, result.size, result.files, result.opaque)
            where[chain] = staging / str(i) / "fs"
            inherit(where[chain], result.implicit, _below(layer, known, where))
            _write(staging / str(i) / "layer.json", _record(layer))
            known[chain] = layer
            kept.append(layer)
        _sync(staging)
        for i, layer in enumerate(kept):
            (staging / str(i)).rename(self._layers_root / str(layer.number))
        _sync_directory(self._layers_root)
        return kept

    # containers

    async def mount(self, key: str, parent: ChainId, target: Path, *, readonly: bool = False) -> None:
        """Shows the layers of `parent` at `target`, with what was written under `key` before on top. Mounted already:
        nothing happens. `readonly` writes nothing anywhere. Raises SnapshotError, OSError."""
        with self._pin(parent):
            await asyncio.to_thread(self._mount, key, parent, target, readonly)

    def _mount(self, key: str, parent: ChainId, target: Path, readonly: bool) -> None:
        name = _name(key)
        lower = self.paths(parent)
        target = target.resolve()  # as mountinfo has it
        self._own(name, key, parent, target)
        target.mkdir(parents=True, exist_ok=True)
        found = mounts.mounted_at(target)
        if found is not None:
            if found.filesystem == "overlay" and not self._is_own(found, name):
                raise SnapshotError(f"{target} has a mount of {found.source} already; unmount it first")
            return
        place = self._active_root / name
        upper = None if readonly and lower else place / "fs"
        overlay.mount(overlay.Overlay(self._source(name), lower, upper, upper and place / "work"), target)

    def _own(self, name: str, key: str, parent: ChainId, target: Path) -> None:
        place = self._active_root / name
        known = self._records.get(name)
        if known is None:
            self._make_active(place)
        elif known["parent"] != parent:
            raise SnapshotError(f"snapshot {key} stands on {known['parent']}, not on {parent}; remove it first")
        targets = sorted({*(known or {}).get("targets", ()), str(target)})
        if known is None or targets != known["targets"]:
            record: dict[str, Any] = {"key": key, "parent": parent, "targets": targets}
            _write(place / "snapshot.json", record)
            self._records[name] = record

    def _make_active(self, place: Path) -> None:
        if place.exists():  # its record did not reach the disk before a power cut; what was written may have
            return
        made = place.with_name(f".new-{secrets.token_hex(8)}")
        for directory in (made, made / "fs", made / "work"):
            directory.mkdir()
            directory.chmod(0o755)
        made.rename(place)

    async def unmount(self, key: str, target: Path) -> None:
        """Takes the mount away; what was written stays. Nothing mounted: nothing happens."""
        del key
        await asyncio.to_thread(mounts.unmount, target)

    async def remove(self, key: str) -> None:
        """Removes what was written under `key`, and its mounts. Nothing there: nothing happens."""
        await asyncio.to_thread(self._remove, _name(key))

    def _remove(self, name: str) -> None:
        place = self._active_root / name
        if not place.exists():
            return
        for point in self._points(name, self._records.get(name) or {}):
            mounts.unmount(point)
        self._discard(place)
        self._records.pop(name, None)

    def _points(self, name: str, record: dict[str, Any]) -> list[Path]:
        """Where the snapshot is mounted: overlays by their name, a lone layer, which is a bind mount, by its target."""
        targets = set(record.get("targets", ()))
        return [
            Path(m.point)
            for m in reversed(mounts.table())
            if self._is_own(m, name) or (m.filesystem != "overlay" and m.point in targets)
        ]

    def _source(self, name: str) -> str:
        """What mountinfo says of our overlay mounts: `havre:<whose>:<name>`."""
        return f"{self._mark}:{name}"

    def _is_own(self, found: mounts.Mounted, name: str) -> bool:
        writes = f"upperdir={self._active_root / name / 'fs'}"
        return found.filesystem == "overlay" and (found.source == self._source(name) or writes in found.super_options)

    def keys(self) -> list[str]:
        """Every key with a snapshot."""
        return sorted(record["key"] for record in list(self._records.values()))

    def usage(self, key: str) -> Usage:
        """What was written under `key`. O(files): call from a thread. Raises SnapshotError."""
        place = self._active_root / _name(key) / "fs"
        if not place.exists():
            raise SnapshotError(f"there is no snapshot {key}")
        return disk_usage(place)

    # the end

    async def collect(self, keep: set[ChainId]) -> None:
        """Removes every layer that neither `keep`, nor a snapshot, nor an unpacking stands on."""
        roots = [*keep, *self._roots()]
        needed: set[ChainId] = set()
        for root in roots:
            chain = root
            while chain in self._layers and chain not in needed:
                needed.add(chain)
                chain = self._layers[chain].parent
        gone = [layer for chain, layer in self._layers.items() if chain not in needed]
        for layer in gone:
            del self._layers[layer.chain]
        await asyncio.to_thread(self._throw, gone)

    def _roots(self) -> set[ChainId]:
        """What is used at this moment, or by a snapshot. A mount is pinned until its record is known."""
        return {*self._pins, *(ChainId(record["parent"]) for record in list(self._records.values()))}

    def _throw(self, gone: list[_Layer]) -> None:
        """The youngest first: a child has a higher number than its parent, and no crash may leave it alone."""
        self._sweep()
        for layer in sorted(gone, key=lambda layer: layer.number, reverse=True):
            self._discard(self._layers_root / str(layer.number))

    def _discard(self, place: Path) -> None:
        """Out of sight in one step, then file by file."""
        gone = self._trash / secrets.token_hex(8)
        place.rename(gone)
        remove_tree(gone)

    def _sweep(self) -> None:
        """What an earlier process left half-made or half-removed."""
        left, self._left = self._left, []
        for place in left:
            remove_tree(place)

    async def destroy(self) -> None:
        """Unmounts and removes everything of these snapshots."""
        await asyncio.to_thread(self._destroy)

    def _destroy(self) -> None:
        for place in [p for p in self._active_root.iterdir() if not p.name.startswith(".")]:
            self._remove(place.name)
        self._layers.clear()
        remove_tree(self._layers_root.parent)


# names and records


def _name(key: str) -> str:
    """The directory of a key; keys of containerd's clients may hold anything."""
    return key if _plain(key) else f"k.{hashlib.sha256(key.encode()).hexdigest()}"


def _hidden(directory: Path) -> list[Path]:
    return [place for place in directory.iterdir() if place.name.startswith(".")]


def _index(root: Path) -> dict[ChainId, _Layer]:
    """The layers on disk whose parents are there too."""
    found = [_layer(place) for place in root.iterdir() if place.name.isdigit()]
    layers: dict[ChainId, _Layer] = {}
    for layer in sorted((layer for layer in found if layer), key=lambda layer: layer.number):
        if not layer.parent or layer.parent in layers:
            layers[layer.chain] = layer
    return layers


def _records(root: Path) -> dict[str, dict[str, Any]]:
    found = {place.name: _read(place / "snapshot.json") for place in root.iterdir() if not place.name.startswith(".")}
    return {name: record for name, record in found.items() if record}


def _layer(place: Path) -> _Layer | None:
    record = _read(place / "layer.json")
    if record is None:
        log.warning("a layer without its record will be removed", extra={"path": str(place)})
        return None
    chain, parent = ChainId(record["chain"]), ChainId(record["parent"])
    return _Layer(int(place.name), chain, parent, record["size"], record["files"], record["opaque"])


def _record(layer: _Layer) -> dict[str, object]:
    return {
        "chain": layer.chain,
        "parent": layer.parent,
        "size": layer.size,
        "files": layer.files,
        "opaque": layer.opaque,
    }


def _below(layer: _Layer, known: dict[ChainId, _Layer], where: dict[ChainId, Path]) -> list[Path]:
    """The directories under `layer`, from the top down."""
    found = []
    at = layer
    while not at.opaque and at.parent:
        at = known[at.parent]
        found.append(where[at.chain])
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _write(path: Path, record: dict[str, object]) -> None:
    made = path.with_name(f"{path.name}.new")
    made.write_text(json.dumps(record))
    made.rename(path)


# the disk

_libc = ctypes.CDLL(None, use_errno=True)


def _sync(directory: Path) -> None:
    """Everything of the file system that `directory` is on, to the disk: one call instead of one per file."""
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(place) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"syncing the layers: {os.strerror(number)}", str(directory))
    finally:
        os.close(place)


def _sync_directory(directory: Path) -> None:
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def disk_usage(directory: Path) -> Usage:
    """Blocks and inodes of a tree; a file with several links counts once."""
    blocks = inodes = 0
    seen: set[int] = set()
    waiting: list[str | os.DirEntry[str]] = [str(directory)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if info.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if info.st_ino in seen:
                        continue
                    seen.add(info.st_ino)
                blocks += info.st_blocks
                inodes += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry)
    return Usage(blocks * 512, inodes)
