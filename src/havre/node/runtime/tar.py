"""Reading a tar archive once, forwards, from a stream that may be hostile.

    source = Source(chunks)
    for entry in entries(source):
        for piece in source.pieces(entry.size): …        # the content, if anybody wants it

Understood: V7, ustar, star, GNU (long names, numbers in base 256) and pax records (names, sizes, owners, times with
fractions, extended attributes as `SCHILY.xattr.*`). Refused: sparse files, archives in several volumes. Ignored: pax
records for all entries, volume labels, unknown pax keywords, as containerd does.

Everything is bounded: entries, names, pax records. Contents are passed on in the pieces in which they came, uncopied.

Source: POSIX.1-2001 pax; tar(5) of libarchive; Go's archive/tar for what to accept where writers differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

BLOCK: Final = 512
ENTRIES: Final = 1 << 20  # headers of one archive: the largest images have some 300,000 files
PAX_BYTES: Final = 1 << 20  # pax records of one entry: extended attributes are at most 64 KiB each
NAME_BYTES: Final = 4096  # PATH_MAX
LARGEST: Final = 1 << 43  # bytes of one file: 8 TiB, half of what ext4 can hold

_ZEROES: Final = bytes(BLOCK)


class TarError(ValueError):
    """The archive is damaged, or goes beyond what is read here."""


class Kind(Enum):
    """What an entry makes."""

    FILE = "file"
    LINK = "hard link"
    SYMLINK = "symbolic link"
    CHAR = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


@dataclass(slots=True)
class Entry:
    """One entry. `name` and `target` are as they were written: clean them before use. `size` is 0 but for files."""

    name: bytes
    kind: Kind
    mode: int  # permissions, with set-id bits
    uid: int
    gid: int
    size: int
    mtime: int  # nanoseconds
    target: bytes = b""  # of a link
    device: tuple[int, int] = (0, 0)  # major, minor
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


# the stream


class Source:
    """Bytes in order, out of chunks of any size."""

    __slots__ = ("_at", "_chunk", "_chunks", "position")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = memoryview(b"")
        self._at = 0
        self.position = 0  # bytes given out or passed over

    def _fill(self) -> bool:
        """A chunk with something in it; False at the end."""
        while self._at == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._chunk, self._at = memoryview(chunk), 0
        return True

    def take(self, count: int) -> bytes:
        """The next `count` bytes in one piece, fewer at the end: for headers, not for contents."""
        at = self._at
        if len(self._chunk) - at >= count:
            self._at = at + count
            self.position += count
            return bytes(self._chunk[at : at + count])
        return b"".join(self._upto(count))

    def _upto(self, count: int) -> Iterator[memoryview]:
        while count and self._fill():
            piece = self._chunk[self._at : self._at + count]
            self._at += len(piece)
            self.position += len(piece)
            count -= len(piece)
            yield piece

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes as they lie in memory. Raises TarError when the stream ends before."""
        for piece in self._upto(count):
            count -= len(piece)
            yield piece
        if count:
            raise TarError(f"the archive ends {count} bytes before the end of an entry")

    def skip(self, count: int) -> None:
        for _ in self.pieces(count):
            pass

    def drain(self) -> None:
        """Reads to the end: what follows the archive belongs to the digest too."""
        while self._fill():
            self.position += len(self._chunk) - self._at
            self._at = len(self._chunk)


# entries


def entries(source: Source) -> Iterator[Entry]:
    """Every entry up to the end of the archive; what is left of a content when the next entry is asked for is skipped.

    Raises TarError."""
    extra = _Extra()
    for number in range(ENTRIES + 1):
        header = source.take(BLOCK)
        if not header or header == _ZEROES:
            return
        if number == ENTRIES:
            raise TarError(f"the archive has more than {ENTRIES} entries")
        if len(header) < BLOCK:
            raise TarError("the archive ends inside a header")
        _verify(header)
        kind = header[156:157]
        if kind in _EXTRAS:
            _read_extra(source, header, kind, extra)
            continue
        entry = _entry(header, kind, extra)
        stored = entry.size if entry.kind is Kind.FILE else 0
        end = source.position + _padded(stored)
        entry.size = stored
        yield entry
        if source.position > end:
            raise TarError(f"{entry.name!r}: read beyond its content")
        source.skip(end - source.position)
        extra = _Extra()


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


@dataclass(slots=True)
class _Extra:
    """What the headers before an entry say about it."""

    name: bytes | None = None
    target: bytes | None = None
    records: dict[bytes, bytes] = field(default_factory=dict)


_EXTRAS: Final = frozenset((b"x", b"X", b"g", b"L", b"K", b"V"))
_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


def _verify(header: bytes) -> None:
    """The checksum: all bytes, its own field as spaces. Some old writers added signed bytes."""
    wanted = _number(header[148:156], "checksum")
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if wanted == total:
        return
    high = sum(1 for byte in header if byte > 127) - sum(1 for byte in header[148:156] if byte > 127)
    if wanted != total - 256 * high:
        raise TarError("a header's checksum is wrong: this is no tar archive, or it is damaged")


def _read_extra(source: Source, header: bytes, kind: bytes, extra: _Extra) -> None:
    size = _number(header[124:136], "size")
    limit = NAME_BYTES + 1 if kind in b"LK" else PAX_BYTES
    if not 0 <= size <= limit:
        raise TarError(f"a header of type {kind!r} is {size} bytes long, more than {limit}")
    content = source.take(size)
    if len(content) < size:
        raise TarError("the archive ends inside a header")
    source.skip(_padded(size) - size)
    if kind == b"L":
        extra.name = content.partition(b"\0")[0]
    elif kind == b"K":
        extra.target = content.partition(b"\0")[0]
    elif kind in b"xX":
        extra.records = pax_records(content)


def pax_records(content: bytes) -> dict[bytes, bytes]:
    """`<length> <keyword>=<value>\\n` …, the length in bytes and of all of it. Raises TarError."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        digits = content[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise TarError("a pax record has no length")
        end = at + int(digits)
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if end > len(content) or end <= space + 1 or content[end - 1 : end] != b"\n" or not equals or not key:
            raise TarError("a pax record is damaged")
        if b"\0" in key or (key in (b"path", b"linkpath") and b"\0" in value):
            raise TarError(f"the pax record {key!r} has a zero byte")
        records[key] = value
        at = end
    return records


# one header


def _entry(header: bytes, kind: bytes, extra: _Extra) -> Entry:
    records = extra.records
    _refuse_what_is_not_read(kind, records)
    name = records.get(b"path") or extra.name or _name(header)
    target = records.get(b"linkpath") or extra.target or _text(header[157:257])
    if max(len(name), len(target)) > NAME_BYTES:
        raise TarError(f"a name is longer than {NAME_BYTES} bytes: {name[:80]!r}…")
    if b"\0" in name or b"\0" in target:
        raise TarError(f"a name has a zero byte: {name[:80]!r}")
    made = _KINDS.get(kind)
    if made is None:
        raise TarError(f"{name!r}: the type {kind!r} of the entry is unknown")
    if made is Kind.FILE and name.endswith(b"/"):
        made = Kind.DIRECTORY
    size = _record(records, b"size") if b"size" in records else _number(header[124:136], "size")
    if not 0 <= size <= LARGEST:
        raise TarError(f"{name!r}: a size of {size} bytes")
    return Entry(
        name=name,
        kind=made,
        mode=_number(header[100:108], "mode") & 0o7777,
        uid=_owner(records, b"uid", header[108:116]),
        gid=_owner(records, b"gid", header[116:124]),
        size=size,
        mtime=_mtime(records, header),
        target=target,
        device=_device(header) if made in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=_xattrs(records) if records else {},
    )


def _refuse_what_is_not_read(kind: bytes, records: dict[bytes, bytes]) -> None:
    if kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in records):
        raise TarError("the archive has a sparse file; write it without (GNU tar: leave out --sparse)")
    if kind in (b"M", b"N"):
        raise TarError("the archive is a part of several volumes; join them")


def _name(header: bytes) -> bytes:
    name = _text(header[0:100])
    if header[257:263] != b"ustar\0":  # GNU keeps other things where ustar has the prefix
        return name
    prefix = _text(header[345:476] if header[508:512] == b"tar\0" else header[345:500])
    return prefix + b"/" + name if prefix else name


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


@lru_cache(maxsize=4096)  # an archive has few modes, owners and times
def _number(raw: bytes, what: str) -> int:
    """Octal digits between spaces and zeroes; or base 256, two's complement, marked by the first bit."""
    if raw[0] & 0x80:
        bits = 8 * len(raw) - 1
        value = int.from_bytes(raw, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if raw[0] & 0x40 else value
    digits = raw.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    try:
        if digits.isdigit():  # int takes more: signs, `0o`, underscores
            return int(digits, 8)
    except ValueError:  # an 8 or a 9
        pass
    raise TarError(f"a header's {what} is no number: {raw!r}")


def _record(records: dict[bytes, bytes], key: bytes) -> int:
    value = records[key]
    if not value.isdigit() or len(value) > 20:
        raise TarError(f"the pax record {key.decode()} is no number: {value[:40]!r}")
    return int(value)


_HIGHEST_ID: Final = 2**32 - 2  # -1 means "leave it" to chown


def _owner(records: dict[bytes, bytes], key: bytes, raw: bytes) -> int:
    number = _record(records, key) if key in records else _number(raw, key.decode())
    if not 0 <= number <= _HIGHEST_ID:
        raise TarError(f"the {key.decode()} {number} is out of range")
    return number


_NS: Final = 10**9
_LAST: Final = 2**63 - 1  # nanoseconds: the year 2262


def _mtime(records: dict[bytes, bytes], header: bytes) -> int:
    """Nanoseconds; a time before 1970 or after 2262 is 1970, as containerd has it."""
    if b"mtime" in records:
        seconds, _, fraction = records[b"mtime"].partition(b".")
        if not seconds.removeprefix(b"-").isdigit() or (fraction and not fraction.isdigit()) or len(seconds) > 20:
            raise TarError(f"the pax record mtime is no time: {records[b'mtime'][:40]!r}")
        time = int(seconds) * _NS + int(fraction[:9].ljust(9, b"0"))
    else:
        time = _number(header[136:148], "time") * _NS
    return time if 0 <= time <= _LAST else 0


_DEVICE_BITS: Final = (12, 20)  # what Linux has for major and minor


def _device(header: bytes) -> tuple[int, int]:
    if header[257:262] != b"ustar":  # V7 has no devices
        return 0, 0
    major, minor = _number(header[329:337], "device"), _number(header[337:345], "device")
    if not (0 <= major < 1 << _DEVICE_BITS[0] and 0 <= minor < 1 << _DEVICE_BITS[1]):
        raise TarError(f"the device {major}:{minor} does not exist")
    return major, minor


_XATTR: Final = b"SCHILY.xattr."


def _xattrs(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {key[len(_XATTR) :]: value for key, value in records.items() if key.startswith(_XATTR)}
