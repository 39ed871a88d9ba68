"""Tar archives, as artifacts need them: made so that equal content gives equal bytes, and read so that nothing escapes.

Only directories and regular files exist here. Links and devices are neither written nor made: whoever reads a tree of
an artifact may follow any path in it without leaving it.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format" (long
names, sizes in base 256).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

BLOCK: Final = 512
COPY = 256 * 1024  # bytes at a time
META_BYTES = 64 * 1024  # of one extended header or long name; PATH_MAX is 4 KiB
NAME_BYTES = 255  # of one component; NAME_MAX
_FILE_MODE, _PROGRAM_MODE = 0o600, 0o700  # what Flux puts into its archives
_LINKS_AND_DEVICES = (b"1", b"2", b"3", b"4", b"6")  # hard, symbolic, character, block, fifo
_REGULAR, _DIRECTORY = (b"0", b"\0", b"7"), b"5"


class TarError(ValueError):
    """An archive that is damaged, hostile, or larger than its limits; a tree that is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold."""

    size: int = 1 << 30  # bytes of all files: ten times the largest configuration repository we know of
    entries: int = 200_000  # files and directories; Linux itself has 90,000
    depth: int = 64  # directories inside each other
    path: int = 4096  # bytes; PATH_MAX


LIMITS = Limits()
Wanted = Callable[[str], bool]
"""Does the file of this path (with slashes, relative) belong to the artifact?"""


def everything(_path: str) -> bool:
    return True


# writing


@dataclass(frozen=True, slots=True)
class File:
    """A file that is not read yet."""

    size: int
    program: bool
    open: Callable[[], BinaryIO]  # gives exactly `size` bytes; read to the end before the next file is opened


def write_files(files: Mapping[str, File], out: BinaryIO, *, limits: Limits = LIMITS) -> None:
    """Files by path, sorted, without directories, as Flux does; blocks. Raises TarError, OSError."""
    if len(files) > limits.entries or sum(file.size for file in files.values()) > limits.size:
        raise TarError(f"pack: more than {limits.entries} files or {limits.size} bytes")
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files, key=lambda path: path.split("/")):
            file = files[path]
            with file.open() as opened:
                archive.addfile(_header(path, file), opened)


def tree(root: Path, wanted: Wanted = everything) -> dict[str, File]:
    """The regular files under `root` that are `wanted`, by path; blocks. Raises TarError, OSError."""
    return {
        path: File(found.st_size, bool(found.st_mode & 0o100), partial(_open, root / path))
        for path, found in _walk(root, "", LIMITS.depth)
        if wanted(path)
    }


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _walk(root: Path, folder: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    if depth == 0:
        raise TarError(f"pack {root.name}: {folder} is nested too deeply")
    with os.scandir(root / folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(root, path, depth - 1)
        elif stat.S_ISREG(found.st_mode):
            yield path, found


def _header(path: str, file: File) -> tarfile.TarInfo:
    """Nothing of the machine: no owner, no time."""
    info = tarfile.TarInfo(path)
    info.size = file.size
    info.mode = _PROGRAM_MODE if file.program else _FILE_MODE
    return info


# reading


@dataclass(frozen=True, slots=True)
class Entry:
    """What the next bytes of an archive are."""

    path: str  # cleaned: relative, no `.` or `..`; "" is the root
    directory: bool
    size: int
    program: bool


def unpack(source: BinaryIO, into: Path, *, limits: Limits = LIMITS) -> None:
    """Make the files of an archive in the empty directory `into`; blocks. Links and devices are left out.

    Nothing in `into` is a link, so no path can lead out of it. Raises TarError, OSError.
    """
    size = count = 0
    reader = _Reader(source, limits)
    while (entry := reader.next()) is not None:
        count, size = count + 1, size + entry.size
        if count > limits.entries or size > limits.size:
            raise TarError(f"unpack: more than {limits.entries} files or {limits.size} bytes")
        try:
            _make(reader, entry, into)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise TarError(f"unpack {entry.path}: it is there twice, as a file and as a directory") from error


def _make(reader: _Reader, entry: Entry, into: Path) -> None:
    target = into / entry.path
    if entry.directory:
        target.mkdir(parents=True, exist_ok=True)
        return
    if not entry.path:
        raise TarError("unpack: a file without a name")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a later entry of the same name is the one that counts
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(target, flags, 0o755 if entry.program else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        reader.copy(entry.size, file)


class _Reader:
    """The entries of an archive, one after the other; in memory is one header."""

    def __init__(self, source: BinaryIO, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._left = 0  # bytes of the current entry that nobody has read, with the padding

    def next(self) -> Entry | None:
        """The next directory or regular file; None at the end."""
        name, size = "", -1  # what extended headers say of the entry that follows
        for _ in range(self._limits.entries * 2):
            header = self._header()
            if header is None:
                return None
            kind, length = header[156:157], _number(header[124:136])
            if kind in (b"x", b"L"):
                meta = self._meta(length)
                name, size = (_text(meta.rstrip(b"\0")), size) if kind == b"L" else _pax(meta, name, size)
                continue
            length = size if size >= 0 else length
            if kind in _REGULAR or kind == _DIRECTORY:
                return self._entry(header, name or _name(header), 0 if kind == _DIRECTORY else length)
            if kind not in _LINKS_AND_DEVICES and kind not in (b"g", b"K"):
                raise TarError(f"unpack: an entry of the unknown kind {kind!r}")
            self._left = _padded(0 if kind in _LINKS_AND_DEVICES else length)
            name, size = ("", -1) if kind in _LINKS_AND_DEVICES else (name, size)
        raise TarError("unpack: more entries than allowed")

    def copy(self, size: int, out: BinaryIO) -> None:
        """The content of the current entry."""
        while size:
            data = self._exactly(min(size, COPY))
            size -= len(data)
            self._left -= len(data)
            out.write(data)

    def _entry(self, header: bytes, name: str, size: int) -> Entry:
        self._left = _padded(size)
        path = _clean(name, self._limits)
        directory = header[156:157] == _DIRECTORY or (name.endswith("/") and size == 0)
        return Entry(path, directory, size, bool(_number(header[100:108]) & 0o100))

    def _header(self) -> bytes | None:
        self._skip()
        header = self._source.read(BLOCK)
        if not header or header == bytes(BLOCK):  # a second empty block follows; nobody misses it
            return None
        if len(header) < BLOCK:
            raise TarError("unpack: the archive ends in the middle of a header")
        if _number(header[148:156]) != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
            raise TarError("unpack: a header with a wrong checksum")
        return header

    def _skip(self) -> None:
        while self._left:
            self._left -= len(self._exactly(min(self._left, COPY)))

    def _meta(self, length: int) -> bytes:
        if length > META_BYTES:
            raise TarError(f"unpack: an extended header of {length} bytes")
        self._left = _padded(length) - length
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = self._source.read(count)
        if len(data) != count:
            raise TarError("unpack: the archive ends too early")
        return data


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(field: bytes) -> int:
    """Octal digits, or base 256 when the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40 or value >= 1 << 62:
            raise TarError("unpack: a negative or absurd size")
        return value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise TarError(f"unpack: {digits!r} is no octal number")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise TarError(f"unpack: the name {raw[:80]!r} is not UTF-8") from None


def _pax(data: bytes, name: str, size: int) -> tuple[str, int]:
    """`<length> <key>=<value>\\n` …: path and size, everything else is of no use here."""
    while data:
        digits, _, rest = data.partition(b" ")
        if not digits.isdigit() or len(digits) > 6 or not len(digits) + 3 < int(digits) <= len(data):
            raise TarError("unpack: a broken extended header")
        key, equals, value = rest[: int(digits) - len(digits) - 2].partition(b"=")
        data = data[int(digits) :]
        if not equals:
            raise TarError("unpack: a broken extended header")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise TarError("unpack: a broken extended header")
            size = int(value)
    return name, size


def _clean(name: str, limits: Limits) -> str:
    """Raises TarError for a name that points elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise TarError(f"unpack {name[:80]!r}: the path leads out of the archive")
    if (
        len(parts) > limits.depth
        or len(name.encode()) > limits.path
        or any(len(p.encode()) > NAME_BYTES for p in parts)
    ):
        raise TarError(f"unpack {name[:80]!r}…: the path is too long")
    return "/".join(parts)
