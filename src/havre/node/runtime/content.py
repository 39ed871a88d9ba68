"""The content store: blobs named by their hash, written once, durable before anybody is told.

    root/blobs/sha256/<hex>      complete, verified, never changed
    root/ingest/<key>/{ref,data} being written, or left by a crash; `key` is a hash of the ref
    root/trash/                  being deleted

`commit` returns after fsync of the file, its rename and fsync of the directory: a machine that loses power keeps every
blob it acknowledged (containerd syncs its metadata but not always what it points to). One writer per ref; a writer that
was closed or killed is resumed by the next of the same ref, or removed a day later.

Source: containerd, core/content (semantics of refs, resume and commit); opencontainers/image-spec, image-layout.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from havre.node.runtime.errors import Failed
from havre.wire.oci.digest import Digest, algorithm, encoded, hasher, matches, parse_digest
from havre.wire.oci.errors import InvalidReference

BATCH = 1024 * 1024  # bytes handed to the disk at once: a thread costs 50 µs, hashing and writing this much 1–2 ms
READ = 1024 * 1024
INGEST_SECONDS = 24 * 3600.0  # how long an abandoned ingest can be resumed, as containerd keeps it
MAX_REF = 1024  # characters
ONCE = "havre-once-"  # refs that nobody can resume, because nobody knows them

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ContentError(Failed):
    """A blob that could not be written, read or found."""


class Busy(ContentError):
    """Somebody else is writing this ref."""


class Missing(ContentError):
    """No such blob."""


class Mismatch(ContentError):
    """The bytes have another hash or length than was promised; what was written is gone."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One complete blob."""

    digest: Digest
    size: int
    modified: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Ingest:
    """One unfinished blob."""

    ref: str
    offset: int
    modified: float
    busy: bool


class Content:
    """All blobs below one directory, which belongs to this object alone."""

    def __init__(self, root: Path) -> None:
        """Make the directories, and end the deletions that a crash interrupted. Blocks for a moment."""
        self.root = root
        self._busy: set[str] = set()
        self._serial = 0
        for name in ("blobs/sha256", "blobs/sha512", "ingest"):
            (root / name).mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        self._trash = root / "trash"
        shutil.rmtree(self._trash, ignore_errors=True)
        self._trash.mkdir()
        for ingest in self.ingests():
            if ingest.ref.startswith(ONCE):
                shutil.rmtree(self._place(ingest.ref), ignore_errors=True)

    # reading

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.root / "blobs" / algorithm(digest) / encoded(digest)

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Raises Missing."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise Missing(f"blob {digest}: not in the content store") from None

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob, whole and verified again: disks lie. Raises Missing, ContentError when longer than `limit`."""
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise Missing(f"blob {digest}: not in the content store") from None
        if len(data) > limit:
            raise ContentError(f"blob {digest}: longer than {limit} bytes")
        if not matches(digest, data):
            raise Mismatch(f"blob {digest}: damaged on the disk; remove and pull again")
        return data

    def verify(self, digest: Digest) -> bool:
        """Whether the whole blob still has its hash; blocks, so call it in a thread. Raises Missing."""
        try:
            with self.path(digest).open("rb") as file:
                return hashlib.file_digest(file, algorithm(digest)).hexdigest() == encoded(digest)
        except FileNotFoundError:
            raise Missing(f"blob {digest}: not in the content store") from None

    def blobs(self) -> Iterator[Blob]:
        """Every complete blob."""
        for kind in ("sha256", "sha512"):
            with os.scandir(self.root / "blobs" / kind) as entries:
                for entry in entries:
                    with contextlib.suppress(InvalidReference, FileNotFoundError):  # a stray file; one just deleted
                        facts = entry.stat()
                        yield Blob(parse_digest(f"{kind}:{entry.name}"), facts.st_size, facts.st_mtime)

    # writing

    async def writer(self, ref: str, *, expected: Digest | None = None, size: int | None = None) -> Writer:
        """Open or resume the ingest `ref`; leave it by `commit`, `abort` or `close`. Raises Busy."""
        if not ref or len(ref) > MAX_REF:
            raise ContentError(f"write of {ref[:100]!r}: a ref has 1 to {MAX_REF} characters")
        if ref in self._busy:
            raise Busy(f"write of {ref}: it is being written already")
        self._busy.add(ref)
        writer = Writer(self, ref, self._place(ref), expected, size)
        try:
            await in_thread(writer.open_file)
        except BaseException as error:
            writer.end()
            if isinstance(error, OSError):
                raise _failed(f"open the ingest {ref}", error) from error
            raise
        return writer

    async def put(self, data: bytes, digest: Digest | None = None) -> Digest:
        """A small blob at once. Raises Mismatch."""
        if digest is not None and self.has(digest):
            return digest
        self._serial += 1
        async with await self.writer(f"{ONCE}{self._serial}", expected=digest) as writer:
            await writer.write(data)
            return await writer.commit()

    def store(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        """A blob of unknown hash; blocks, so call it in a thread. Raises ContentError."""
        self._serial += 1
        ref = f"{ONCE}{self._serial}"
        self._busy.add(ref)
        writer = Writer(self, ref, self._place(ref), None, None)
        try:
            return writer.fill(chunks)
        except OSError as error:
            raise _failed(f"write of {ref}", error) from error
        finally:
            writer.end()

    def release(self, ref: str) -> None:
        """The writer of `ref` ended."""
        self._busy.discard(ref)

    async def delete(self, digest: Digest) -> None:
        """Gone when this is called; freed when it returns. Nothing happens when it is not there."""
        self._serial += 1
        grave = self._trash / f"{self._serial}"
        try:
            self.path(digest).rename(grave)
        except FileNotFoundError:
            return
        await in_thread(_bury, grave, self.path(digest).parent)

    def ingests(self) -> list[Ingest]:
        """What is being written, and what waits to be resumed."""
        found = []
        for place in (self.root / "ingest").iterdir():
            with contextlib.suppress(FileNotFoundError):
                ref, facts = (place / "ref").read_text(), (place / "data").stat()
                found.append(Ingest(ref, facts.st_size, facts.st_mtime, ref in self._busy))
        return found

    async def expire(self, now: float | None = None) -> int:
        """Remove ingests that nobody resumed for a day; returns how many."""
        before = (time.time() if now is None else now) - INGEST_SECONDS
        busy = {self._place(ref) for ref in self._busy}
        old = [
            place
            for place in (self.root / "ingest").iterdir()
            if place not in busy and _modified(place / "data", place) < before
        ]
        for place in old:
            await in_thread(shutil.rmtree, place, ignore_errors=True)
        return len(old)

    async def forget(self, ref: str) -> None:
        """Remove what an ended writer left of `ref`. Raises Busy."""
        if ref in self._busy:
            raise Busy(f"abort of {ref}: it is being written")
        await in_thread(shutil.rmtree, self._place(ref), ignore_errors=True)

    def _place(self, ref: str) -> Path:
        return self.root / "ingest" / hashlib.sha256(ref.encode()).hexdigest()[:32]


class Writer:
    """One blob on its way in; leaving `async with` without `commit` keeps it for the next writer of the ref."""

    def __init__(self, content: Content, ref: str, place: Path, expected: Digest | None, size: int | None) -> None:
        self.ref = ref
        self.expected = expected
        self.size = size
        self.offset = 0  # bytes accepted, those of an earlier writer included
        self._content = content
        self._place = place
        self._hash = hasher(expected)
        self._fd = -1
        self._pending: list[bytes] = []
        self._held = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def write(self, data: bytes) -> None:
        """Append; returns when it is taken, not when it is on the disk. Raises Mismatch past the promised size."""
        if self.size is not None and self.offset + len(data) > self.size:
            await self.abort()
            raise Mismatch(f"write of {self.ref}: longer than the promised {self.size} bytes")
        self._pending.append(data)
        self._held += len(data)
        self.offset += len(data)
        if self._held >= BATCH:
            await self._flush()

    async def commit(self, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Verify, make durable, and give the blob its name. Raises Mismatch."""
        wanted, length = expected or self.expected, self.size if size is None else size
        await self._flush()
        if length is not None and self.offset != length:
            got = self.offset
            await self.abort()
            raise Mismatch(f"commit of {self.ref}: {got} bytes, {length} were promised")
        try:
            digest = await in_thread(self._finish, wanted)
        except OSError as error:
            raise _failed(f"commit of {self.ref}", error) from error
        except Mismatch:
            await self.abort()
            raise
        self.end()
        return digest

    async def abort(self) -> None:
        """Throw away what was written."""
        self._close_file()
        await in_thread(shutil.rmtree, self._place, ignore_errors=True)
        self.end()

    async def close(self) -> None:
        """Keep what was written for the next writer of this ref; nothing happens after `commit` or `abort`."""
        if self._fd >= 0:
            try:
                await self._flush()
            finally:
                self._close_file()
                self.end()

    async def _flush(self) -> None:
        pending, self._pending, self._held = self._pending, [], 0
        if not pending:
            return
        if self._fd < 0:
            raise ContentError(f"write of {self.ref}: the writer has ended")
        try:
            await in_thread(self._append, pending)
        except OSError as error:
            raise _failed(f"write of {self.ref}", error) from error

    def end(self) -> None:
        """Let the next writer of this ref in."""
        self._close_file()
        self._content.release(self.ref)

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # in a thread

    def open_file(self) -> None:
        """Open the data, and hash what is there already."""
        self._place.mkdir(exist_ok=True)
        self._fd = os.open(self._place / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        (self._place / "ref").write_text(self.ref)
        while data := os.read(self._fd, READ):
            self._hash.update(data)
            self.offset += len(data)
        if self.size is not None and self.offset > self.size:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._hash, self.offset = hasher(self.expected), 0

    def fill(self, chunks: Iterable[bytes]) -> tuple[Digest, int]:
        """All of it at once; what a failure leaves is removed."""
        try:
            self.open_file()
            for chunk in chunks:
                self._append([chunk])
                self.offset += len(chunk)
            return self._finish(None), self.offset
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise

    def _append(self, pending: Sequence[bytes]) -> None:
        for data in pending:
            self._hash.update(data)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def _finish(self, wanted: Digest | None) -> Digest:
        digest = self._digest(wanted)
        if wanted is not None and digest != wanted:
            raise Mismatch(f"commit of {self.ref}: its digest is {digest}, {wanted} was promised")
        os.fsync(self._fd)
        os.fchmod(self._fd, 0o400)
        target = self._content.path(digest)
        (self._place / "data").rename(target)
        _sync(target.parent)
        shutil.rmtree(self._place, ignore_errors=True)
        return digest

    def _digest(self, wanted: Digest | None) -> Digest:
        if wanted is None or algorithm(wanted) == self._hash.name:
            return Digest(f"{self._hash.name}:{self._hash.hexdigest()}")
        with (self._place / "data").open("rb") as file:  # an upload says only at its end which hash it is named by
            other = hashlib.file_digest(file, algorithm(wanted))
        return Digest(f"{algorithm(wanted)}:{other.hexdigest()}")


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work to its end, also when the caller is cancelled: a descriptor must not be closed under it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


def _failed(what: str, error: OSError) -> ContentError:
    hint = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return ContentError(f"{what}: {error.strerror}{hint}")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bury(grave: Path, parent: Path) -> None:
    _sync(parent)
    grave.unlink(missing_ok=True)


def _modified(*paths: Path) -> float:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
    return time.time()
