"""Images of this machine: pulled, imported or pushed to us; verified, unpacked, and only then named.

    image = await images.pull("nginx:1", auth)
    images.find("nginx:1"), images.find(image.id), images.find(image.id[7:19])

A name stands for what the registry gave (often an index); the image is what of it runs on this machine. A name is
recorded when all of its image is on the disk, so a name never leads to half an image, whenever the machine dies.
An image is its configuration: names that lead to the same configuration are names of one image.

Labels of an image are shown and never acted on: nothing here passes them to anything (CVE-2026-53488).

Source: containerd, client/pull.go and internal/cri/store/image (names, references, ids); CRI v1, ImageService.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from havre.node.runtime.archive import Found, read_archive
from havre.node.runtime.content import Content, ContentError, Mismatch, in_thread
from havre.node.runtime.errors import Failed, Invalid, NotFound
from havre.node.runtime.fetch import LAYERS_AT_ONCE, Fetcher, fetch_all
from havre.node.runtime.hosts import Hosts
from havre.node.runtime.names import Names, Record
from havre.node.runtime.snapshots import NOTHING, ChainId, LayerBlob, SnapshotError
from havre.node.runtime.unpackers import BadLayer, UnpackFailed
from havre.wire.oci import errors as oci
from havre.wire.oci.auth import Auth
from havre.wire.oci.digest import Digest, encoded, is_digest
from havre.wire.oci.documents import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    check_image,
    parse_config,
    parse_manifest,
)
from havre.wire.oci.media_types import LAYERS
from havre.wire.oci.platform import Platform, best, this_machine
from havre.wire.oci.reference import Reference
from havre.wire.oci.registry import RegistryClient

__all__ = ["Auth", "Image", "ImageError", "Images", "Layer", "Unpacker"]

log = logging.getLogger(__name__)

INDEX_DEPTH = 3  # an index of indexes of indexes; beyond it nobody means well
SHORT_ID = 4  # hex digits of an id that may stand for it, when they are unique


class ImageError(Failed):
    """An image that could not be fetched, read or unpacked; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the blob, and the hash of what is in it."""

    descriptor: Descriptor
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is complete on this machine."""

    id: Digest  # of its configuration
    tags: tuple[str, ...]  # registry/repository:tag
    digests: tuple[str, ...]  # registry/repository@digest
    manifest: Digest
    config: ImageConfig
    layers: tuple[Layer, ...]
    size: int  # bytes of all blobs, compressed as they came
    pinned: bool = False  # not to be removed for want of space

    @property
    def chain(self) -> ChainId:
        """The snapshot to put a container on."""
        chain = self.config.chain_ids
        return ChainId(chain[-1]) if chain else NOTHING


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` freed."""

    blobs: int
    bytes: int


class Unpacker(Protocol):
    """What images need of the snapshots."""

    async def unpack(self, layers: Sequence[LayerBlob]) -> ChainId: ...

    async def collect(self, keep: set[ChainId]) -> object: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """An image without its names."""

    manifest: Digest
    document: Manifest
    config: ImageConfig
    size: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        pairs = zip(self.document.layers, self.config.diff_ids, strict=True)
        return tuple(Layer(descriptor, diff_id) for descriptor, diff_id in pairs)


class Images:
    """All images below one directory; one object per directory."""

    def __init__(
        self,
        root: Path,
        content: Content,
        snapshots: Unpacker,
        *,
        hosts: Hosts | None = None,
        platform: Platform | None = None,
    ) -> None:
        """Read the names that are there. Blocks for a moment."""
        self.content = content
        self._snapshots = snapshots
        self._hosts = hosts or Hosts()
        self._platform = platform or this_machine()
        self._names = Names(root / "names")
        self._fetcher = Fetcher(content)
        self._parts: dict[Digest, _Parts] = {}  # by digest of the manifest
        self._by_id: dict[Digest, Image] | None = None
        self._held: Counter[Digest] = Counter()  # blobs that work in progress needs: no garbage
        self._building: Counter[ChainId] = Counter()  # chains likewise
        self._sweep = asyncio.Lock()
        for record in self._names:
            self._recall(record)

    # looking

    def list(self) -> Sequence[Image]:
        return tuple(self._all().values())

    def find(self, reference_or_id: str) -> Image | None:
        """By name with the usual defaults, `repository@digest`, id, or the unique beginning of an id."""
        text = reference_or_id.strip()
        if is_digest(text):
            return self._all().get(Digest(text))
        with contextlib.suppress(oci.InvalidReference):
            reference = Reference.parse(text)
            record = self._names.get(_key(reference))
            if record is not None:
                return self._of(record)
        prefix = text.removeprefix("sha256:")
        if len(prefix) < SHORT_ID:
            return None
        found = [image for image in self._all().values() if encoded(image.id).startswith(prefix)]
        return found[0] if len(found) == 1 else None

    def records(self) -> Iterator[Record]:
        """Every name, of images and of other things that were pushed."""
        return iter(self._names)

    def record(self, name: str) -> Record | None:
        return self._names.get(name)

    # bringing in

    async def pull(self, reference: str, auth: Auth | None = None) -> Image:
        """Fetch what is missing, verify all, unpack, name it. Raises Invalid, NotFound, ImageError."""
        try:
            wanted = Reference.parse(reference)
        except oci.InvalidReference as error:
            raise Invalid(str(error)) from error
        endpoints = await in_thread(self._hosts.endpoints, wanted.registry)
        started = time.monotonic()
        try:
            with self._holding() as hold:
                async with RegistryClient(wanted.registry, endpoints, auth) as client:
                    target = await client.resolve(wanted.repository, wanted.target)
                    parts = await self._fetch(client, wanted.repository, target, hold)
                image = await self._name(parts, target, wanted)
        except oci.NotFound as error:
            raise NotFound(f"pull {wanted}: {error}") from error
        except (oci.OciError, ContentError, ImageError) as error:
            raise ImageError(f"pull {wanted}: {error}") from error
        seconds = round(time.monotonic() - started, 3)
        log.info("pulled", extra={"reference": str(wanted), "bytes": image.size, "seconds": seconds})
        return image

    async def import_archive(self, path: Path, name: str | None = None) -> Sequence[Image]:
        """All images of a `docker save` or OCI layout archive; `name` is for those without one.

        Raises ImageError, Invalid.
        """
        with self._holding() as hold:
            try:
                found = await in_thread(read_archive, path, self.content, hold, name)
                return [await self._import(entry, hold) for entry in found]
            except (oci.OciError, ContentError, ImageError) as error:
                raise ImageError(f"import {path}: {error}") from error

    async def put(self, name: str, descriptor: Descriptor, *, pinned: bool = False) -> Image | None:
        """Name what is in the content store already; what is no image for this machine is kept and gives None."""
        with self._holding() as hold:
            hold(descriptor.digest)
            try:
                parts = self._load(descriptor)
                await self._unpack(parts, hold)
            except (oci.OciError, ContentError, Failed) as error:
                log.info("kept, but not an image to run here", extra={"image": name, "reason": str(error)})
                await self._record(Record(name, descriptor, None, pinned))
                return None
            self._parts[parts.manifest] = parts
            await self._record(Record(name, descriptor, parts.manifest, pinned))
        return self._all()[parts.document.config.digest]

    # letting go

    async def remove(self, reference_or_id: str) -> None:
        """By name: that name, and the image with its last tag. By id: all names. What is not there is fine."""
        image = self.find(reference_or_id)
        name = self._named(reference_or_id)
        if image is None:
            await self.forget([name] if name else [])
            return
        if name is None:
            await self.forget([*image.tags, *image.digests])
            return
        repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
        gone = [name]
        if not any(tag.rpartition(":")[0] == repository for tag in image.tags if tag != name):
            gone += [digest for digest in image.digests if digest.partition("@")[0] == repository]
        await self.forget(gone)

    async def pin(self, reference: str, *, pinned: bool = True) -> None:
        """Keep the image however little space is left, or no longer. Raises NotFound."""
        name = self._named(reference)
        record = self._names.get(name) if name else None
        if record is None:
            raise NotFound(f"pin {reference}: no image has this name")
        await self._record(Record(record.name, record.target, record.manifest, pinned))

    async def collect(self, in_use: Collection[ChainId] = ()) -> Collected:
        """Remove the blobs and chains that no name, no container (`in_use`) and no work in progress needs."""
        async with self._sweep:
            blobs, chains = self._reachable()
            freed = count = 0
            for blob in tuple(self.content.blobs()):
                if blob.digest in blobs or self._held[blob.digest]:
                    continue
                await self.content.delete(blob.digest)
                freed, count = freed + blob.size, count + 1
            await self._snapshots.collect(chains | set(in_use) | set(+self._building))
            await self.content.expire()
        return Collected(count, freed)

    def reachable(self, target: Descriptor) -> set[Digest]:
        """The blobs that `target` leads to, itself included."""
        blobs: set[Digest] = set()
        self._mark(target, blobs, INDEX_DEPTH)
        return blobs

    def hold(self, digest: Digest) -> None:
        """Protect a blob from `collect` until `unhold`: it was uploaded and nothing names it yet."""
        self._held[digest] += 1

    def building(self, chains: Iterable[ChainId]) -> None:
        """These are being unpacked."""
        self._building.update(chains)

    def unhold(self, digest: Digest) -> None:
        self._held[digest] -= 1
        if self._held[digest] <= 0:
            del self._held[digest]

    # fetching

    async def _fetch(self, client: RegistryClient, repository: str, target: Descriptor, hold: _Hold) -> _Parts:
        """Everything of the image that runs here, unpacked."""
        descriptor = target
        for _ in range(INDEX_DEPTH + 1):
            hold(descriptor.digest)
            document = await self._fetcher.manifest(client, repository, descriptor)
            if isinstance(document, Manifest):
                break
            descriptor = self._choose(document)
        else:
            raise ImageError(f"{target.digest}: an index in an index, more than {INDEX_DEPTH} times")
        _must_be_image(document)
        for blob in (document.config, *document.layers):
            hold(blob.digest)
        await self._fetcher.blob(client, repository, document.config)
        parts = self._assemble(descriptor.digest, document)
        await self._fetch_layers(client, repository, parts, hold)
        return parts

    async def _fetch_layers(self, client: RegistryClient, repository: str, parts: _Parts, hold: _Hold) -> None:
        """Several at once; each is unpacked as soon as those below it are there."""
        layers = parts.document.layers
        async with contextlib.aclosing(fetch_all(self._fetcher, client, repository, layers, LAYERS_AT_ONCE)) as fetched:
            async for ready in fetched:
                await self._unpack(parts, hold, ready)

    def _choose(self, index: Index) -> Descriptor:
        place = best([entry.platform for entry in index.manifests], self._platform)
        if place is not None:
            return index.manifests[place]
        if len(index.manifests) == 1 and index.manifests[0].platform is None:
            return index.manifests[0]  # the configuration says what it runs on
        offered = ", ".join(sorted({str(e.platform) for e in index.manifests if e.platform is not None})[:20])
        raise oci.NoPlatform(f"no image for {self._platform}; there are: {offered or 'none with a platform'}")

    def _assemble(self, digest: Digest, document: Manifest) -> _Parts:
        config = parse_config(self.content.read(document.config.digest, CONFIG_LIMIT))
        check_image(document, config)
        if config.platform.os and best([config.platform], self._platform) is None:
            raise oci.NoPlatform(f"the image is for {config.platform}, this machine is {self._platform}")
        sizes = document.config.size + sum(layer.size for layer in document.layers)
        return _Parts(digest, document, config, sizes + self.content.size(digest))

    async def _unpack(self, parts: _Parts, hold: _Hold, count: int | None = None) -> None:
        """The first `count` layers."""
        async with self._sweep:
            hold.build(map(ChainId, parts.config.chain_ids))
        layers = [
            LayerBlob(self.content.path(layer.descriptor.digest), layer.descriptor.media_type, layer.diff_id)
            for layer in parts.layers[:count]
        ]
        try:
            await self._snapshots.unpack(layers)
        except BadLayer as error:
            await self._drop_damaged(layer.descriptor.digest for layer in parts.layers[:count])
            raise ImageError(f"unpack: {error}") from error
        except (UnpackFailed, SnapshotError) as error:
            raise ImageError(f"unpack: {error}") from error

    async def _drop_damaged(self, digests: Iterable[Digest]) -> None:
        """A layer that the disk spoiled must not spoil the next pull too."""
        for digest in digests:
            if not await in_thread(self.content.verify, digest):
                log.warning("a blob is damaged on the disk and was removed", extra={"digest": digest})
                await self.content.delete(digest)

    # names

    async def _name(self, parts: _Parts, target: Descriptor, wanted: Reference) -> Image:
        by_digest = wanted.with_digest(target.digest)
        return await self._named_as(parts, target, [by_digest] if wanted.digest else [by_digest, wanted])

    async def _named_as(self, parts: _Parts, target: Descriptor, references: Sequence[Reference]) -> Image:
        self._parts[parts.manifest] = parts
        known = {str(reference): self._names.get(str(reference)) for reference in references}
        pinned = {name: record is not None and record.pinned for name, record in known.items()}
        await self._record(*(Record(name, target, parts.manifest, pinned[name]) for name in known))
        return self._all()[parts.document.config.digest]

    async def _import(self, found: Found, hold: _Hold) -> Image:
        parts = self._load(found.target)
        for blob in (parts.document.config, *parts.document.layers):
            hold(blob.digest)
        await self._unpack(parts, hold)
        return await self._named_as(parts, found.target, found.names)

    async def _record(self, *records: Record) -> None:
        await self._names.put(*records)
        self._by_id = None

    async def forget(self, names: Sequence[str]) -> None:
        """Exactly these names, as they were recorded."""
        await self._names.remove(*names)
        self._by_id = None

    def _named(self, text: str) -> str | None:
        """The recorded name that `text` means."""
        try:
            name = _key(Reference.parse(text))
        except oci.InvalidReference:
            return None
        return name if self._names.get(name) is not None else None

    def _recall(self, record: Record) -> None:
        """At the start: what a name stands for, if it is still whole."""
        if record.manifest is None or record.manifest in self._parts:
            return
        try:
            self._parts[record.manifest] = self._load(record.target)
        except (oci.OciError, ContentError, Failed) as error:
            log.warning("an image is damaged, pull it again", extra={"image": record.name, "reason": str(error)})

    def _of(self, record: Record) -> Image | None:
        parts = self._parts.get(record.manifest) if record.manifest is not None else None
        return self._all().get(parts.document.config.digest) if parts is not None else None

    def _all(self) -> dict[Digest, Image]:
        if self._by_id is None:
            self._by_id = self._grouped()
        return self._by_id

    def _grouped(self) -> dict[Digest, Image]:
        named: dict[Digest, list[Record]] = {}
        for record in self._names:
            parts = self._parts.get(record.manifest) if record.manifest is not None else None
            if parts is not None:
                named.setdefault(parts.document.config.digest, []).append(record)
        return {key: self._image(key, records) for key, records in named.items()}

    def _image(self, key: Digest, records: Sequence[Record]) -> Image:
        manifest = records[-1].manifest
        assert manifest is not None
        parts = self._parts[manifest]
        names = sorted(record.name for record in records)
        return Image(
            key,
            tuple(name for name in names if "@" not in name),
            tuple(name for name in names if "@" in name),
            manifest,
            parts.config,
            parts.layers,
            parts.size,
            any(record.pinned for record in records),
        )

    # content

    def _load(self, target: Descriptor) -> _Parts:
        """The image for this machine below `target`, all of whose blobs must be there."""
        descriptor = target
        for _ in range(INDEX_DEPTH + 1):
            document = parse_manifest(self.content.read(descriptor.digest, MANIFEST_LIMIT), descriptor.media_type)
            if isinstance(document, Manifest):
                _must_be_image(document)
                for layer in document.layers:
                    if self.content.size(layer.digest) != layer.size:
                        raise Mismatch(f"blob {layer.digest}: its size is not that of the manifest")
                return self._assemble(descriptor.digest, document)
            descriptor = self._choose(document)
        raise ImageError(f"{target.digest}: an index in an index, more than {INDEX_DEPTH} times")

    def _reachable(self) -> tuple[set[Digest], set[ChainId]]:
        blobs: set[Digest] = set()
        chains: set[ChainId] = set()
        for record in self._names:
            self._mark(record.target, blobs, INDEX_DEPTH)
            parts = self._parts.get(record.manifest) if record.manifest is not None else None
            if parts is not None:
                chains.update(map(ChainId, parts.config.chain_ids))
        self._parts = {d: p for d, p in self._parts.items() if d in blobs}
        return blobs, chains

    def _mark(self, descriptor: Descriptor, blobs: set[Digest], depth: int) -> None:
        if descriptor.digest in blobs:
            return
        blobs.add(descriptor.digest)
        known = self._parts.get(descriptor.digest)
        try:
            document = known.document if known else parse_manifest(self.content.read(descriptor.digest, MANIFEST_LIMIT))
        except (oci.OciError, ContentError):
            return
        if isinstance(document, Manifest):
            blobs.update(blob.digest for blob in (document.config, *document.layers))
        elif depth:
            for entry in document.manifests:
                self._mark(entry, blobs, depth - 1)

    @contextlib.contextmanager
    def _holding(self) -> Iterator[_Hold]:
        hold = _Hold(self)
        try:
            yield hold
        finally:
            for digest in hold.digests:
                self.unhold(digest)
            self._building = self._building - Counter(hold.chains)


class _Hold:
    """What one piece of work needs: safe from `collect` until it ends."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.digests: set[Digest] = set()
        self.chains: set[ChainId] = set()

    def __call__(self, digest: Digest) -> None:
        if digest not in self.digests:
            self.digests.add(digest)
            self._images.hold(digest)

    def build(self, chains: Iterable[ChainId]) -> None:
        new = set(chains) - self.chains
        self.chains |= new
        self._images.building(new)


def _key(reference: Reference) -> str:
    """The name under which a reference is recorded: with a digest the tag says nothing."""
    return str(reference.with_digest(reference.digest) if reference.digest else reference)


def _must_be_image(document: Manifest) -> None:
    if not document.is_image:
        raise oci.InvalidDocument(f"not an image: its configuration is a {document.config.media_type[:100]!r}")
    for layer in document.layers:
        if layer.media_type not in LAYERS:
            raise oci.InvalidDocument(f"layer {layer.digest}: type {layer.media_type[:100]!r} cannot be unpacked")
