"""Images in a file: what `docker save`, `skopeo copy docker-archive:` and OCI image layouts put into a tar archive.

The archive is read once, forwards, and may be compressed. Every file in it becomes a blob of the content store, named
by its own hash; names inside the archive are only looked up, never used as paths, so there is nothing to traverse. What
nothing names in the end is garbage and collected as such.

Source: opencontainers/image-spec, image-layout.md; moby, image/tarexport (manifest.json); containerd,
core/images/archive/importer.go (which of both is read, and the annotations that hold names).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from havre.node.runtime.compression import CompressionError, Limits, decompressed
from havre.node.runtime.content import Content, ContentError
from havre.node.runtime.errors import Failed
from havre.node.runtime.tar import Kind, Source, TarError, entries
from havre.wire.oci.digest import Digest, digest_of
from havre.wire.oci.documents import CONFIG_LIMIT, MANIFEST_LIMIT, MAX_LAYERS, Descriptor, Index, parse_manifest
from havre.wire.oci.errors import InvalidDocument, InvalidReference
from havre.wire.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from havre.wire.oci.reference import Reference

MAX_FILES = 20_000  # of one archive: a hundred images of a hundred layers with two files each
MAX_IMAGES = 1000
MAX_HOPS = 8  # links from name to name
ARCHIVE_BYTES = 1 << 40  # unpacked
NAMELESS = "localhost/imported"  # for images that the archive gives no name
_FULL_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


class ArchiveError(Failed):
    """A file that is no archive of images, or a damaged or hostile one."""


@dataclass(frozen=True, slots=True)
class Found:
    """One image of an archive, whose blobs are in the content store."""

    names: tuple[Reference, ...]  # at least one
    target: Descriptor


@dataclass(slots=True)
class _Files:
    """What the archive holds, by cleaned name."""

    content: Content
    blobs: dict[str, tuple[Digest, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> tuple[Digest, int] | None:
        name = _clean(name)
        for _ in range(MAX_HOPS):
            if name in self.blobs:
                return self.blobs[name]
            if name not in self.links:
                return None
            name = self.links[name]
        return None

    def read(self, name: str, limit: int) -> bytes | None:
        found = self.get(name)
        return self.content.read(found[0], limit) if found is not None else None


def read_archive(path: Path, content: Content, hold: Callable[[Digest], None], name: str | None = None) -> list[Found]:
    """Store all blobs and say which images they make; blocks, so call it in a thread.

    `hold` protects each blob; `name` is for images without one. Raises ArchiveError, OciError, ContentError.
    """
    try:
        base = Reference.parse(name or NAMELESS)
        with path.open("rb") as file:
            files = _store(file, path.stat().st_size, content, hold)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from error
    except (TarError, CompressionError) as error:
        raise ArchiveError(f"{path}: {error}") from error
    index = files.read("index.json", MANIFEST_LIMIT)
    if index is not None and files.get("oci-layout") is not None:
        found = list(_layout(index, files, base))
    else:
        manifest = files.read("manifest.json", MANIFEST_LIMIT)
        if manifest is None:
            raise ArchiveError(f"{path}: neither an OCI layout (index.json) nor a Docker archive (manifest.json)")
        found = list(_docker(manifest, files, base, hold))
    if not found:
        raise ArchiveError(f"{path}: it holds no image")
    return found


def _store(file: BinaryIO, size: int, content: Content, hold: Callable[[Digest], None]) -> _Files:
    files = _Files(content)
    chunks = decompressed(file, size, Limits(total=ARCHIVE_BYTES))
    try:
        _store_entries(Source(chunks), files, hold)
    finally:
        if isinstance(chunks, Generator):
            chunks.close()  # while its file is open
    return files


def _store_entries(source: Source, files: _Files, hold: Callable[[Digest], None]) -> None:
    for entry in entries(source):
        name = _clean(entry.name.decode("utf-8", "replace"))
        if entry.kind in (Kind.LINK, Kind.SYMLINK):
            target = entry.target.decode("utf-8", "replace")
            base = posixpath.dirname(name) if entry.kind is Kind.SYMLINK else ""
            files.links[name] = _clean(posixpath.join(base, target))
        elif entry.kind is Kind.FILE and name not in files.blobs:
            digest, length = files.content.store(map(bytes, source.pieces(entry.size)))
            hold(digest)
            files.blobs[name] = (digest, length)
        if len(files.blobs) + len(files.links) > MAX_FILES:
            raise ArchiveError(f"the archive holds more than {MAX_FILES} files")


def _clean(name: str) -> str:
    """One spelling per name; what climbs out of the archive ends at its top, where nothing is."""
    return posixpath.normpath("/" + name).lstrip("/")


# OCI image layout


def _layout(data: bytes, files: _Files, base: Reference) -> Iterator[Found]:
    index = parse_manifest(data, OCI_INDEX)
    assert isinstance(index, Index)
    for entry in index.manifests[:MAX_IMAGES]:
        if entry.annotations.get("vnd.docker.reference.type"):
            continue  # an attestation
        if files.content.size(entry.digest) != entry.size:
            raise ContentError(f"manifest {entry.digest}: its size is not that of index.json")
        target = Descriptor(entry.media_type, entry.digest, entry.size)
        yield Found(_layout_names(entry, base), target)


def _layout_names(entry: Descriptor, base: Reference) -> tuple[Reference, ...]:
    said = entry.annotations.get(_FULL_NAME, ""), entry.annotations.get(_REF_NAME, "")
    for text in said:
        if "/" in text or ":" in text:
            return (Reference.parse(text),)
    tag = said[1]
    if tag:
        return (Reference.parse(f"{base.name}:{tag}"),)
    return (base if base.name != NAMELESS else base.with_digest(entry.digest),)


# docker save


def _docker(data: bytes, files: _Files, base: Reference, hold: Callable[[Digest], None]) -> Iterator[Found]:
    for number, image in enumerate(_images(data)):
        where = f"manifest.json[{number}]"
        config = _file(files, image.get("Config"), f"{where}.Config")
        if config[1] > CONFIG_LIMIT:
            raise InvalidDocument(f"{where}.Config: {config[1]} bytes, the limit is {CONFIG_LIMIT}")
        layers = image.get("Layers") or []
        if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
            raise InvalidDocument(f"{where}.Layers: it must be a list of at most {MAX_LAYERS} names")
        blobs = [_file(files, layer, f"{where}.Layers") for layer in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, *config).to_json(),
            "layers": [Descriptor(_layer_type(files.content, blob[0]), *blob).to_json() for blob in blobs],
        }
        written = orjson.dumps(document)
        hold(digest_of(written))
        digest, size = files.content.store([written])
        names = tuple(map(Reference.parse, _tags(image, where)))
        fallback = base if base.name != NAMELESS else base.with_digest(digest)
        yield Found(names or (fallback,), Descriptor(OCI_MANIFEST, digest, size))


def _images(data: bytes) -> list[dict[str, object]]:
    try:
        images = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidDocument(f"manifest.json: not JSON: {error}") from error
    if not isinstance(images, list) or len(images) > MAX_IMAGES or not all(isinstance(i, dict) for i in images):
        raise InvalidDocument(f"manifest.json: it must be a list of at most {MAX_IMAGES} images")
    return images


def _tags(image: dict[str, object], where: str) -> list[str]:
    tags = image.get("RepoTags") or []
    if not isinstance(tags, list) or len(tags) > MAX_IMAGES or not all(isinstance(tag, str) for tag in tags):
        raise InvalidReference(f"{where}.RepoTags: it must be a list of names")
    return tags


def _file(files: _Files, name: object, where: str) -> tuple[Digest, int]:
    found = files.get(name) if isinstance(name, str) else None
    if found is None:
        raise ArchiveError(f"{where}: the archive does not hold {str(name)[:100]!r}")
    return found


def _layer_type(content: Content, digest: Digest) -> str:
    with content.path(digest).open("rb") as file:
        start = file.read(4)
    if start.startswith(b"\x1f\x8b"):
        return f"{OCI_LAYER}+gzip"
    return f"{OCI_LAYER}+zstd" if start == b"\x28\xb5\x2f\xfd" else OCI_LAYER
