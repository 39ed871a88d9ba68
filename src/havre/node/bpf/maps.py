"""Maps: what programs and we both read and write, as typed Python values.

    class Pod(NamedTuple): ifindex: int; mac: bytes
    POD = Layout("pod", "=I6s2x", Pod)
    pods: Map[Address, Pod] = Map(fd, ADDRESS, POD)

A Layout shows a C struct in the notation of the module struct: "=" (no padding but what `x` says, the machine's byte
order), one field a member, padding as `x`. Numbers in network order are bytes here. Batches move thousands of
entries in one call: 0.4 µs an entry where single updates take 2 µs.

Source: bpf(2); kernel Documentation/bpf/maps.rst, map_hash.rst.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar, cast

from havre.node.bpf.call import BpfError, Buffer, Command, address, bpf, buffer_of, info, room

ANY: Final = 0  # flags of an update: create or replace
BATCH = 16_384  # entries a call: 16 Ki × (≤ 64 bytes) = 1 MiB of buffer, and the kernel stays ≤ 10 ms in one call

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Layout(Generic[T]):
    """How the C struct `name` looks: `format` of the module struct, `make` a NamedTuple with one field a member."""

    name: str
    format: str
    make: type[T]
    _struct: struct.Struct = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_struct", struct.Struct(self.format))

    @property
    def size(self) -> int:
        return self._struct.size

    def pack(self, value: T) -> bytes:
        return self._struct.pack(*cast("tuple[object, ...]", value))

    def unpack(self, data: bytes) -> T:
        return self.make(*self._struct.unpack(data))

    def pack_all(self, values: Iterable[T]) -> bytearray:
        pack = self._struct.pack
        return bytearray().join([pack(*cast("tuple[object, ...]", value)) for value in values])

    def unpack_all(self, data: bytes | memoryview) -> Iterator[T]:
        return (self.make(*values) for values in self._struct.iter_unpack(data))


class Number(NamedTuple):
    """A bare u32 or u64."""

    value: int


U32: Final = Layout("unsigned int", "=I", Number)
U64: Final = Layout("unsigned long long", "=Q", Number)


class MapInfo(NamedTuple):
    """The beginning of struct bpf_map_info."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def map_info(fd: int) -> MapInfo:
    return MapInfo(*struct.unpack_from("=6I", info(fd, 88, "ask about a map")))


@cache
def possible_cpus() -> int:
    """How many processors the kernel keeps values for: `0-3` or `0,2-5` in sysfs, counted to the last."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").rpartition("-")[2]
    return int(last) + 1


class Map(Generic[K, V]):
    """A map behind a descriptor, which belongs to whoever opened it."""

    def __init__(self, fd: int, key: Layout[K], value: Layout[V], name: str = "map") -> None:
        self.fd = fd
        self.name = name
        self.key, self.value = key, value
        self.info = map_info(fd)
        if (self.info.key_size, self.info.value_size) != (key.size, value.size):
            raise BpfError(
                errno.EINVAL,
                f"open map {name}: {self.info.key_size}+{self.info.value_size} bytes an entry, "
                f"{key.name} and {value.name} have {key.size}+{value.size}",
                "compile the programs anew: tools/bpf.sh",
            )

    def update(self, key: K, value: V, flags: int = ANY) -> None:
        self._element(Command.MAP_UPDATE_ELEM, self.key.pack(key), buffer_of(self.value.pack(value)), flags)

    def lookup(self, key: K) -> V | None:
        value = room(self.value.size)
        try:
            self._element(Command.MAP_LOOKUP_ELEM, self.key.pack(key), value, 0)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return self.value.unpack(value.raw)

    def lookup_cpus(self, key: K) -> list[V]:
        """Of a map that keeps a value for every processor: all of them."""
        step = -(-self.value.size // 8) * 8
        values = room(step * possible_cpus())
        self._element(Command.MAP_LOOKUP_ELEM, self.key.pack(key), values, 0)
        raw = values.raw
        return [self.value.unpack(raw[at : at + self.value.size]) for at in range(0, len(raw), step)]

    def delete(self, key: K) -> bool:
        """Whether it was there."""
        return self._delete(self.key.pack(key))

    def items(self) -> list[tuple[K, V]]:
        """Every entry. Of a hash that programs write meanwhile some may be missing or come twice."""
        keys, values = self._lookup_all()
        return [*zip(self.key.unpack_all(keys), self.value.unpack_all(values), strict=True)]

    def update_all(self, entries: Mapping[K, V] | Sequence[tuple[K, V]]) -> None:
        """Create or replace; each entry changes at once, all of them one after the other."""
        pairs = [*(entries.items() if isinstance(entries, Mapping) else entries)]
        for part in _parts(pairs):
            keys = buffer_of(self.key.pack_all(k for k, _ in part))
            values = buffer_of(self.value.pack_all(v for _, v in part))
            self._batch(Command.MAP_UPDATE_BATCH, keys, values, len(part))

    def delete_all(self, keys: Iterable[K]) -> None:
        """Delete what is there of `keys`."""
        for part in _parts([*keys]):
            packed = memoryview(self.key.pack_all(part))
            while packed:  # the kernel stops at a key that is not there
                done = self._delete_batch(packed)
                packed = packed[done * self.key.size :]

    def _delete_batch(self, packed: memoryview) -> int:
        keys = buffer_of(packed)
        attr = self._batch_attr(keys, None, len(packed) // self.key.size)
        try:
            bpf(Command.MAP_DELETE_BATCH, attr, f"take from map {self.name}")
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            return _count(attr) + 1
        return _count(attr)

    def _element(self, command: Command, key: bytes, value: Buffer, flags: int) -> None:
        """attr: `<u32 map><pad><u64 key><u64 value><u64 flags>`."""
        packed = buffer_of(key)
        attr = struct.pack("=I4xQQQ", self.fd, address(packed), address(value), flags)
        bpf(command, attr, f"{command.name} of map {self.name}")

    def _delete(self, key: bytes) -> bool:
        packed = buffer_of(key)
        try:
            bpf(
                Command.MAP_DELETE_ELEM,
                struct.pack("=I4xQQQ", self.fd, address(packed), 0, 0),
                f"take from map {self.name}",
            )
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _batch(self, command: Command, keys: Buffer, values: Buffer, count: int) -> None:
        attr = self._batch_attr(keys, values, count)
        bpf(command, attr, f"{command.name} of map {self.name}, {count} entries")

    def _batch_attr(self, keys: Buffer, values: Buffer | None, count: int, *, at: int = 0, then: int = 0) -> Buffer:
        """attr: `<u64 in><u64 out><u64 keys><u64 values><u32 count><u32 map><u64 element flags><u64 flags>`."""
        where = address(values) if values is not None else 0
        attr = struct.pack("=QQQQIIQQ", at, then, address(keys), where, count, self.fd, 0, 0)
        return buffer_of(attr.ljust(128, b"\0"))

    def _lookup_all(self) -> tuple[bytes, bytes]:
        """All keys and values, packed. A batch begins where the one before ended: the kernel's own mark, 4 bytes or
        the size of a key."""
        size = min(self.info.max_entries, BATCH)
        keys, values = room(size * self.key.size), room(size * self.value.size)
        mark = room(max(self.key.size, 8))
        found: tuple[list[bytes], list[bytes]] = ([], [])
        at = 0
        while True:
            attr = self._batch_attr(keys, values, size, at=at, then=address(mark))
            last = self._lookup_batch(attr)
            count = _count(attr)
            found[0].append(keys.raw[: count * self.key.size])
            found[1].append(values.raw[: count * self.value.size])
            if last:
                return b"".join(found[0]), b"".join(found[1])
            at = address(mark)

    def _lookup_batch(self, attr: Buffer) -> bool:
        """Whether it was the last."""
        try:
            bpf(Command.MAP_LOOKUP_BATCH, attr, f"read map {self.name}")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return True
            raise
        return False


def _count(attr: Buffer) -> int:
    """How many entries a batch has done: the kernel writes it into the attr."""
    done: int = struct.unpack_from("=I", attr, 32)[0]
    return done


def _parts(entries: list[T]) -> Iterator[list[T]]:
    return (entries[i : i + BATCH] for i in range(0, len(entries), BATCH))
