"""Small images, a registry that serves them, and snapshots that only take notes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from havre.node.runtime.content import Content
from havre.node.runtime.hosts import Hosts
from havre.node.runtime.images import Images
from havre.node.runtime.snapshots import ChainId, LayerBlob, chain_ids
from havre.wire.http.message import Answer, Request, Response
from havre.wire.http.server import serve
from havre.wire.oci.digest import Digest, digest_of
from havre.wire.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from havre.wire.oci.platform import Platform

AMD64 = Platform("linux", "amd64")


@dataclass
class Notes:
    """Snapshots that unpack nothing."""

    unpacked: list[ChainId] = field(default_factory=list)
    kept: set[ChainId] = field(default_factory=set)
    refuse: Exception | None = None
    on_unpack: Callable[[], None] = lambda: None

    async def unpack(self, layers: Sequence[LayerBlob]) -> ChainId:
        if self.refuse is not None:
            raise self.refuse
        assert all(layer.path.exists() for layer in layers)
        self.on_unpack()
        chain = chain_ids(layer.diff_id for layer in layers)
        self.unpacked.append(chain[-1] if chain else ChainId(""))
        return self.unpacked[-1]

    async def collect(self, keep: set[ChainId]) -> None:
        self.kept = keep


@dataclass
class Node:
    """The image half of a runtime."""

    root: Path
    hosts: Hosts | None = None

    def __post_init__(self) -> None:
        self.snapshots = Notes()
        self.content = Content(self.root / "content")
        self.images = Images(self.root / "images", self.content, self.snapshots, hosts=self.hosts, platform=AMD64)


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def described(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


@dataclass
class Built:
    """An image as bytes."""

    manifest: bytes
    config: bytes
    layers: list[bytes]

    @property
    def digest(self) -> Digest:
        return digest_of(self.manifest)

    @property
    def id(self) -> Digest:
        return digest_of(self.config)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {digest_of(data): data for data in (self.config, *self.layers)}


def build(*contents: bytes, platform: str = "linux/amd64", **config: Any) -> Built:
    """An image with one layer for each content."""
    archives = [tar({"file": content}) for content in contents]
    layers = [gzip.compress(archive, mtime=0) for archive in archives]
    system, architecture = platform.split("/")
    document = {
        "os": system,
        "architecture": architecture,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(a).hexdigest() for a in archives]},
    }
    written = json.dumps(document).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(OCI_CONFIG, written),
        "layers": [described(f"{OCI_LAYER}+gzip", layer) for layer in layers],
    }
    return Built(json.dumps(manifest).encode(), written, layers)


def index_of(*images: tuple[str, Built]) -> bytes:
    entries = []
    for platform, image in images:
        system, architecture = platform.split("/")
        entries.append(described(OCI_MANIFEST, image.manifest, platform={"os": system, "architecture": architecture}))
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


@dataclass
class Store:
    """A registry out of dictionaries."""

    manifests: dict[str, bytes] = field(default_factory=dict)  # by tag and by digest
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    name: str = ""

    def add(self, tag: str, image: Built) -> None:
        self.manifests |= {tag: image.manifest, image.digest: image.manifest}
        self.blobs |= image.blobs

    def __call__(self, request: Request) -> Answer:
        kind, what = request.path.split("/")[-2:]
        self.asked.append(f"{request.method} {kind}/{what}")
        if kind == "manifests" and what in self.manifests:
            data = self.manifests[what]
            media_type = json.loads(data)["mediaType"]
            return Response(200, [("content-type", media_type), ("docker-content-digest", digest_of(data))], data)
        if kind == "blobs" and what in self.blobs:
            return Response(200, [], self.blobs[what])
        return Response(404, [])

    def fetched(self, kind: str) -> list[str]:
        return [line.rpartition("/")[2] for line in self.asked if line.startswith(f"GET {kind}/")]


@asynccontextmanager
async def registry(*, blobs: Mapping[str, bytes] | None = None) -> AsyncIterator[Store]:
    store = Store(blobs=dict(blobs or {}))
    server = await serve(store)
    store.name = f"127.0.0.1:{server.port}"
    try:
        yield store
    finally:
        await server.close()
