"""Names of images and what they stand for: one small JSON file each, replaced in one step, read once at the start.

    root/<hash of the name>.json     {"name": "docker.io/library/nginx:1", "target": {descriptor}, …}

A name is `registry/repository:tag` or `registry/repository@digest`. A file that cannot be read is reported and left
out; it never stops the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from havre.node.runtime.content import in_thread
from havre.node.runtime.errors import Failed
from havre.wire.oci.digest import Digest, parse_digest
from havre.wire.oci.documents import Descriptor, parse_descriptor
from havre.wire.oci.errors import InvalidDocument, OciError

log = logging.getLogger(__name__)

RECORD_LIMIT = 64 * 1024  # bytes; a record is some 500


class NamesError(Failed):
    """A name that could not be written or removed."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a name stands for."""

    name: str
    target: Descriptor  # what the registry or the archive gave: an index or a manifest
    manifest: Digest | None = None  # of the image for this machine; None for what is no image to run
    pinned: bool = False  # not to be removed for want of space

    def to_json(self) -> bytes:
        fields = {"name": self.name, "target": self.target.to_json(), "manifest": self.manifest, "pinned": self.pinned}
        return orjson.dumps(fields)

    @classmethod
    def of(cls, data: bytes) -> Record:
        """Raises OciError, ValueError."""
        fields = orjson.loads(data)
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
            raise InvalidDocument("it is not a record of a name")
        manifest = fields.get("manifest")
        return cls(
            fields["name"],
            parse_descriptor(fields.get("target")),
            parse_digest(manifest) if manifest is not None else None,
            fields.get("pinned") is True,
        )


class Names:
    """All names; reads are from memory, writes return when they are durable."""

    def __init__(self, root: Path) -> None:
        """Read what is there. Blocks for a moment."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root
        self._records: dict[str, Record] = {}
        self._writing = asyncio.Lock()
        for file in sorted(root.glob("*.json")):
            record = _read(file)
            if record is not None and file == self._file(record.name):
                self._records[record.name] = record
        for leftover in root.glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def get(self, name: str) -> Record | None:
        return self._records.get(name)

    async def put(self, *records: Record) -> None:
        """Set or replace them, in their order. Raises NamesError."""
        async with self._writing:
            new = [record for record in records if self._records.get(record.name) != record]
            try:
                await in_thread(self._write, new)
            except OSError as error:
                raise NamesError(f"record {', '.join(r.name for r in new)}: {error.strerror}") from error
            self._records.update((record.name, record) for record in new)

    async def remove(self, *names: str) -> None:
        """Forget them; those that are not there are fine. Raises NamesError."""
        async with self._writing:
            there = [name for name in names if self._records.pop(name, None) is not None]
            try:
                await in_thread(self._unlink, there)
            except OSError as error:
                raise NamesError(f"remove {', '.join(there)}: {error.strerror}") from error

    def _file(self, name: str) -> Path:
        return self._root / f"{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:32]}.json"

    def _write(self, records: list[Record]) -> None:
        for record in records:
            target = self._file(record.name)
            temporary = target.with_suffix(".tmp")
            with temporary.open("wb") as file:
                file.write(record.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        if records:
            self._sync()

    def _unlink(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._file(name).unlink()
        if names:
            self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(file: Path) -> Record | None:
    try:
        with file.open("rb") as opened:
            return Record.of(opened.read(RECORD_LIMIT))
    except (OSError, ValueError, OciError) as error:
        log.warning("a record of an image name is left out", extra={"file": str(file), "reason": str(error)})
        return None
