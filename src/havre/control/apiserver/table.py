"""Tables: what `kubectl get` prints, made on the server; and objects reduced to their metadata.

A row is made once per object and kept with it; only ages are written anew, since they change with the clock.

Source: KEP-365 (server-side get and partial objects); k8s.io/apimachinery, pkg/apis/meta/v1 Table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import orjson

from havre.api.meta import Obj
from havre.control.apiserver.cache import Entry
from havre.control.apiserver.resources import Resource

INCLUDES = ("None", "Metadata", "Object")
LONGEST = 9223372036  # seconds; Go counts the time between two moments in 63 bits of nanoseconds


class Since(NamedTuple):
    """A cell that shows how long ago something was, `3 (5m ago)`; `at` is in seconds since the epoch, None shows
    <unknown>.
    """

    at: float | None
    prefix: str = ""
    suffix: str = ""


class Completed(list[object]):
    """The cells of an object that has done its work: the row says so, and clients may leave it out."""

    __slots__ = ("message", "reason")

    def __init__(self, cells: Iterable[object], reason: str, message: str) -> None:
        super().__init__(cells)
        self.reason = reason
        self.message = message


class _Metadata(msgspec.Struct):
    metadata: msgspec.Raw


_decode_metadata = msgspec.json.Decoder(_Metadata).decode


@dataclass(frozen=True, slots=True)
class Row:
    """The bytes of a row between its ages: `parts[0] age(stamps[0]) parts[1] …`."""

    parts: tuple[bytes, ...]
    stamps: tuple[float | None, ...]

    def render(self, now: float) -> bytes:
        out = [self.parts[0]]
        for stamp, part in zip(self.stamps, self.parts[1:], strict=True):
            out += (b"<unknown>" if stamp is None else age(now - stamp), part)
        return b"".join(out)


def age(seconds: float) -> bytes:
    """One or two units, as precise as people ask: 45s, 3m20s, 25m, 7h5m, 3d2h, 2y11d.

    Source: k8s.io/apimachinery, pkg/util/duration (HumanDuration).
    """
    total = int(min(seconds, LONGEST))
    if total < -1:
        return b"<invalid>"
    if total < 0:
        return b"0s"
    if total < 120:
        return b"%ds" % total
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if minutes < 10:
        return _pair(minutes, b"m", total % 60, b"s")
    if minutes < 180:
        return b"%dm" % minutes
    if hours < 8:
        return _pair(hours, b"h", minutes % 60, b"m")
    if hours < 48:
        return b"%dh" % hours
    if hours < 192:
        return _pair(days, b"d", hours % 24, b"h")
    if days < 730:
        return b"%dd" % days
    if days < 2920:
        return _pair(days // 365, b"y", days % 365, b"d")
    return b"%dy" % (days // 365)


def _pair(big: int, big_unit: bytes, small: int, small_unit: bytes) -> bytes:
    return b"%d%b%d%b" % (big, big_unit, small, small_unit) if small else b"%d%b" % (big, big_unit)


def metadata_only(value: bytes, version: str = "v1") -> bytes:
    """The PartialObjectMetadata of a stored object."""
    raw = bytes(_decode_metadata(value).metadata)
    return b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/%b","metadata":%b}' % (version.encode(), raw)


def row(resource: Resource, entry: Entry, obj: Obj | None, include: str) -> Row:
    """The row of one object; `obj` is the object in the served version, None to decode it from the entry."""
    memo_key = (resource.table, include)
    if entry.memo is None:
        entry.memo = {}
    found = entry.memo.get(memo_key)
    if found is None:
        found = entry.memo[memo_key] = _make_row(resource, entry, obj or entry.decode(), include)
    return found


def _make_row(resource: Resource, entry: Entry, obj: Obj, include: str) -> Row:
    # Two built-in kinds are also served in a version that cannot say everything: the stored one is printed.
    cells = resource.table.cells(entry.decode() if resource.decode and resource.builtin else obj)
    parts, stamps = _split(cells)
    if isinstance(cells, Completed):
        parts[-1] += b',"conditions":[%b]' % orjson.dumps(
            {"type": "Completed", "status": "True", "reason": cells.reason, "message": cells.message}
        )
    shown = b"null"
    if include == "Metadata":
        shown = metadata_only(entry.value)
    elif include == "Object":
        shown = orjson.dumps(obj)
    parts[-1] += b',"object":%b}' % shown
    return Row(tuple(parts), tuple(stamps))


def _split(cells: Iterable[object]) -> tuple[list[bytes], list[float | None]]:
    """The bytes of `"cells"` around its ages."""
    parts: list[bytes] = []
    stamps: list[float | None] = []
    text, comma = b'{"cells":[', b""
    for cell in cells:
        if isinstance(cell, Since):
            parts.append(text + comma + orjson.dumps(cell.prefix)[:-1])
            stamps.append(cell.at)
            text = orjson.dumps(cell.suffix)[1:]
        else:
            text += comma + orjson.dumps(cell)
        comma = b","
    parts.append(text + b"]")
    return parts, stamps


def document(resource: Resource, rows: Iterable[bytes], list_meta: bytes, *, version: str, columns: bool) -> bytes:
    """The whole Table; watch events after the first carry no columns."""
    head = b'{"kind":"Table","apiVersion":"meta.k8s.io/%b","metadata":%b,"columnDefinitions":%b,"rows":[' % (
        version.encode(),
        list_meta,
        orjson.dumps(resource.table.columns) if columns else b"null",
    )
    return b"".join((head, b",".join(rows), b"]}"))
