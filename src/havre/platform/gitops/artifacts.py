"""Artifacts: what a source controller fetched, packed, kept on disk and served by HTTP; and how others fetch it.

    storage = Storage(root, "http://127.0.0.1:9790")
    artifact = await storage.archive(ref, tree, revision="main@sha1:…")     # the source's side
    await fetch(source["status"]["artifact"], directory)                    # the consumer's side

The path of an artifact is `<kind>/<namespace>/<name>/<sha256 of its bytes>.tar.gz`: a file never changes, so a reader
of the old one is not disturbed by the new one. Equal trees give equal bytes. Writing is atomic. Superseded artifacts
stay for a while, since somebody may have read their URL a moment ago.

Source: fluxcd/source-controller, docs/spec/v1 ("Artifact"); fluxcd/pkg, apis/meta (Artifact), artifact/storage.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast
from urllib.parse import urlsplit

from havre.api.meta import Obj, rfc3339
from havre.machinery.api import Ref
from havre.platform.gitops.tar import (
    LIMITS,
    File,
    Limits,
    TarError,
    Wanted,
    everything,
    tree,
    unpack,
    write_files,
)
from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError
from havre.wire.http.files import send
from havre.wire.http.message import Answer, Request, Response, Stream, Writer
from havre.wire.http.server import Server
from havre.wire.http.server import serve as listen

RETAINED = 2  # artifacts of one object that stay, the current one included; upstream's --artifact-retention-records
RETENTION = 60.0  # seconds that a superseded one stays; upstream's --artifact-retention-ttl
PACKED_BYTES = 512 * 1024 * 1024  # of one artifact
FETCH_SECONDS = 60.0  # a whole download; the servers are near
LEVEL = 6  # of gzip, Go's default
_PIECE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,252}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPES: Final = {".gz": "application/gzip", ".tgz": "application/gzip", ".yaml": "application/yaml"}


class ArtifactError(Exception):
    """An artifact that cannot be made, kept or fetched; the message says which."""


class ArtifactGone(ArtifactError):
    """The URL answers 404: a newer artifact has replaced it, or the server lost it; read the source again."""


class ArtifactCorrupt(ArtifactError):
    """What came is not what the digest promises, or no archive that may be unpacked."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact, as `status.artifact` shows it."""

    path: str  # inside the storage
    url: str
    revision: str  # "main@sha1:<commit>"; human readable
    digest: str  # "sha256:<hex>" of the packed bytes
    size: int
    last_update_time: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def status(self) -> Obj:
        shown: Obj = {
            "path": self.path,
            "url": self.url,
            "revision": self.revision,
            "digest": self.digest,
            "size": self.size,
            "lastUpdateTime": self.last_update_time,
        }
        return {**shown, "metadata": dict(self.metadata)} if self.metadata else shown

    @classmethod
    def of(cls, shown: Mapping[str, object]) -> Artifact:
        """Of `status.artifact`, which anybody may have written. Raises ArtifactError."""
        texts = [shown.get(key, "") for key in ("path", "url", "revision", "digest", "lastUpdateTime")]
        size, metadata = shown.get("size", 0), shown.get("metadata") or {}
        if not (all(isinstance(text, str) for text in texts) and isinstance(size, int) and isinstance(metadata, dict)):
            raise ArtifactError("status.artifact: a field of the wrong type")
        path, url, revision, digest, updated = cast("list[str]", texts)
        return cls(path, url, revision, digest, size, updated, metadata)


# the source's side


def _files(content: Path | Mapping[str, bytes] | Mapping[str, File], wanted: Wanted) -> dict[str, File]:
    if isinstance(content, Path):
        return tree(content, wanted)
    return {
        path: File(len(data), False, partial(BytesIO, data)) if isinstance(data, bytes) else data
        for path, data in content.items()
        if wanted(path)
    }


class Storage:
    """A directory of artifacts."""

    def __init__(
        self, root: Path, url: str, *, clock: Callable[[], float] = time.time, limits: Limits = LIMITS
    ) -> None:
        """`url` is where `serve` is reached from the consumers, without a slash at the end."""
        self.root = root
        self.url = url.rstrip("/")
        self._clock = clock
        self._limits = limits

    async def archive(
        self,
        owner: Ref,
        content: Path | Mapping[str, bytes] | Mapping[str, File],
        *,
        revision: str,
        wanted: Wanted = everything,
        metadata: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Pack a directory (what is `wanted` of it) or files as a new artifact. Raises ArtifactError."""

        def write(out: BinaryIO) -> None:
            with gzip.GzipFile("", "wb", LEVEL, out, mtime=0) as packed:
                write_files(_files(content, wanted), cast("BinaryIO", packed), limits=self._limits)

        return await self._store(owner, write, "{hex}.tar.gz", revision, metadata)

    async def put(
        self, owner: Ref, data: bytes, filename: str, *, revision: str, metadata: Mapping[str, str] | None = None
    ) -> Artifact:
        """Keep a file as it is (a Helm chart, an index); `{hex}` in its name becomes the digest."""
        return await self._store(owner, lambda out: _write(out, data), filename, revision, metadata)

    async def intact(self, artifact: Artifact) -> bool:
        """The file is there with the right bytes; a wrong one is removed."""
        return await asyncio.to_thread(self._intact, artifact)

    async def collect(self, owner: Ref, current: Artifact) -> list[str]:
        """Remove what `current` has superseded for long enough, or too many times; the paths that went."""
        return await asyncio.to_thread(self._collect, self._folder(owner), current.path)

    async def remove(self, owner: Ref) -> None:
        """Everything of an object that is gone."""
        await asyncio.to_thread(shutil.rmtree, self._folder(owner), True)

    def file(self, path: str) -> Path | None:
        """The file of a path as it stands in URLs; None if it cannot be one of ours."""
        pieces = path.split("/")
        if len(pieces) != 4 or not all(map(_PIECE.fullmatch, pieces)):
            return None
        return self.root.joinpath(*pieces)

    def here(self, artifact: Artifact) -> Artifact:
        """The same, at the address of today."""
        return replace(artifact, url=f"{self.url}/{artifact.path}")

    def artifact(self, path: str, revision: str, digest: str, size: int, metadata: Mapping[str, str]) -> Artifact:
        """Says what is in a file of this storage."""
        return Artifact(path, f"{self.url}/{path}", revision, digest, size, rfc3339(self._clock()), metadata)

    def _folder(self, owner: Ref) -> Path:
        return self.root / owner.gvk.kind.lower() / owner.namespace / owner.name

    async def _store(
        self,
        owner: Ref,
        write: Callable[[BinaryIO], None],
        filename: str,
        revision: str,
        metadata: Mapping[str, str] | None,
    ) -> Artifact:
        folder = self._folder(owner)
        try:
            name, digest, size = await asyncio.to_thread(_replace, folder, filename, write)
        except (OSError, TarError) as error:
            raise ArtifactError(f"pack an artifact of {owner}: {error}") from error
        path = f"{owner.gvk.kind.lower()}/{owner.namespace}/{owner.name}/{name}"
        return self.artifact(path, revision, digest, size, metadata or {})

    def _intact(self, artifact: Artifact) -> bool:
        file = self.file(artifact.path)
        if file is None or not file.is_file():
            return False
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if f"sha256:{digest}" == artifact.digest:
            return True
        file.unlink(missing_ok=True)
        return False

    def _collect(self, folder: Path, current: str) -> list[str]:
        if not folder.is_dir():
            return []
        keep, now = self.root / current, self._clock()
        others = sorted(
            ((entry.stat().st_mtime, entry) for entry in folder.iterdir() if entry != keep), key=lambda pair: -pair[0]
        )
        gone = [e for rank, (made, e) in enumerate(others, 2) if rank > RETAINED or now - made > RETENTION]
        for entry in gone:
            entry.unlink(missing_ok=True)
        return [entry.relative_to(self.root).as_posix() for entry in gone]


def _write(out: BinaryIO, data: bytes) -> None:
    out.write(data)


class _Hashing:
    """A file to write to that also hashes, and has an end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        if self.size > PACKED_BYTES:
            raise TarError(f"it is larger than {PACKED_BYTES} bytes")
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _replace(folder: Path, filename: str, write: Callable[[BinaryIO], None]) -> tuple[str, str, int]:
    """Write a file whole or not at all; its name, digest and size."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            hashing = _Hashing(file)
            write(cast("BinaryIO", hashing))
            file.flush()
            os.fsync(descriptor)
        digest = hashing.hash.hexdigest()
        name = filename.replace("{hex}", digest)
        if _PIECE.fullmatch(name) is None:
            raise TarError(f"{name!r} is no name of an artifact")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(folder)
    return name, f"sha256:{digest}", hashing.size


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_body(_writer: Writer) -> None:
    raise AssertionError("HEAD is answered without a body")


async def serve(storage: Storage, host: str, port: int) -> Server:
    """Serve the files of a storage (GET and HEAD of their paths); 0 picks a free port. Raises OSError."""

    def handle(request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return Response(405, [("allow", "GET, HEAD")])
        file = storage.file(request.path.removeprefix("/"))
        try:
            size = file.stat().st_size if file is not None else -1
            if file is None:
                raise FileNotFoundError
            headers = [("content-type", _MEDIA_TYPES.get(file.suffix, "application/octet-stream"))]
            if request.method == "HEAD":
                return Stream(200, headers, _no_body, length=size)
            return Stream(200, headers, send(file, 0, size), length=size)
        except OSError:
            return Response(404, [("content-type", "text/plain")], b"no such artifact\n")

    return await listen(handle, host=host, port=port)


# the consumer's side


async def fetch(
    artifact: Mapping[str, object], into: Path, *, limits: Limits = LIMITS, timeout: float = FETCH_SECONDS
) -> None:
    """Download, verify and unpack `status.artifact` into the empty (or absent) directory `into`.

    Raises ArtifactGone, ArtifactCorrupt, ArtifactError; then `into` may hold a part.
    """
    wanted = Artifact.of(artifact)
    await asyncio.to_thread(into.mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=into.parent) as file:
        await _download(wanted, cast("BinaryIO", file), timeout)
        try:
            await asyncio.to_thread(_unpack, cast("BinaryIO", file), into, limits)
        except (TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArtifactCorrupt(f"unpack {wanted.url}: {error}") from error
        except OSError as error:
            raise ArtifactError(f"unpack {wanted.url} into {into}: {error}") from error


async def download(artifact: Mapping[str, object], *, timeout: float = FETCH_SECONDS) -> bytes:
    """The verified bytes of an artifact that is not to be unpacked (a chart). Raises as `fetch`."""
    with tempfile.SpooledTemporaryFile() as file:
        await _download(Artifact.of(artifact), cast("BinaryIO", file), timeout)
        file.seek(0)
        return file.read()


async def _download(artifact: Artifact, out: BinaryIO, timeout: float) -> None:
    """The bytes of the URL, which must be those of the digest."""
    if _DIGEST.fullmatch(artifact.digest) is None:
        raise ArtifactCorrupt(f"fetch {artifact.url}: {artifact.digest!r} is no sha256 digest")
    url = urlsplit(artifact.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ArtifactError(f"fetch {artifact.url!r}: not a URL of an artifact")
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        async with (
            asyncio.timeout(timeout),
            Client(f"{url.scheme}://{url.netloc}") as client,
            client.stream("GET", target, timeout=timeout) as reply,
        ):
            _judge(artifact, reply.status)
            digest, size = hashlib.sha256(), 0
            async for chunk in reply.chunks:
                size += len(chunk)
                if size > (artifact.size or PACKED_BYTES):
                    raise ArtifactCorrupt(f"fetch {artifact.url}: it is longer than {artifact.size} bytes")
                digest.update(chunk)
                out.write(chunk)
    except TimeoutError:
        raise ArtifactError(f"fetch {artifact.url}: not complete within {timeout:g} s") from None
    except (HttpError, ValueError) as error:
        raise ArtifactError(f"fetch {artifact.url}: {error}") from error
    if f"sha256:{digest.hexdigest()}" != artifact.digest:
        raise ArtifactCorrupt(f"fetch {artifact.url}: the digest is sha256:{digest.hexdigest()}, not {artifact.digest}")


def _judge(artifact: Artifact, status: int) -> None:
    if status == 404:
        raise ArtifactGone(f"fetch {artifact.url}: the artifact is not there (404)")
    if status != 200:
        raise ArtifactError(f"fetch {artifact.url}: the server answered {status}")


def _unpack(file: BinaryIO, into: Path, limits: Limits) -> None:
    file.seek(0)
    with gzip.GzipFile(fileobj=file) as packed:
        unpack(cast("BinaryIO", packed), into, limits=limits)


def extract(storage: Storage, artifact: Artifact, into: Path, *, limits: Limits = LIMITS) -> None:
    """Unpack an artifact of our own storage into `into`; blocks. Raises ArtifactError, OSError."""
    file = storage.file(artifact.path)
    if file is None:
        raise ArtifactGone(f"{artifact.path}: not of this storage")
    into.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("rb") as opened:
            _unpack(opened, into, limits)
    except (TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArtifactCorrupt(f"unpack {artifact.path}: {error}") from error


def sweep(root: Path) -> None:
    """Remove half-written files of a process that died: at the start, before anything is written."""
    for leftover in root.glob("*/*/*/.tmp-*"):
        with suppress(OSError):
            leftover.unlink()
