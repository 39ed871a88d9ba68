"""Messages: a header of 12 bytes, questions, and three sections of records.

`Query.parse` reads what a server needs of a client's message, quickly; `Message` is a whole one, both ways. Names in
the data of records are written out in full on reading, so that a record can be moved to another message.

Source: RFC 1035 §4; RFC 2782 (SRV), RFC 3597 (unknown types), RFC 6891 (EDNS).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from havre.wire.dns import names
from havre.wire.dns.names import Malformed

__all__ = ["Edns", "Malformed", "Message", "Query", "Question", "Record"]

HEADER = struct.Struct(">HHHHHH")  # id, flags, counts of questions, answers, authority, additional
_TYPE_CLASS = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")  # type, class, ttl, length of data

LONGEST_MESSAGE = 65535
MOST_RECORDS = 1000  # in all sections; a message of 64 KiB could hold 5,000 empty ones

# types
A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 41
IXFR, AXFR, ANY = 251, 252, 255
TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
    41: "OPT", 64: "SVCB", 65: "HTTPS", 255: "ANY",
}  # fmt: skip

IN, CHAOS = 1, 3  # classes

# flags
RESPONSE, AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x400, 0x200, 0x100, 0x80
AUTHENTIC, UNCHECKED = 0x20, 0x10
OPCODE, RCODE = 0x7800, 0xF
DNSSEC_OK = 0x8000  # of EDNS

# results
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
BADVERS = 16

# types whose data holds names, as (bytes before, names, bytes after)
_NAMES_IN = {NS: (0, 1), CNAME: (0, 1), PTR: (0, 1), SOA: (0, 2), MX: (2, 1), SRV: (6, 1)}


@dataclass(frozen=True, slots=True)
class Question:
    name: bytes
    kind: int
    klass: int = IN

    def encode(self) -> bytes:
        return self.name + _TYPE_CLASS.pack(self.kind, self.klass)


@dataclass(frozen=True, slots=True)
class Record:
    name: bytes
    kind: int
    ttl: int
    data: bytes
    klass: int = IN


@dataclass(frozen=True, slots=True)
class Edns:
    """What a sender says of itself: the size it can take, and whether it wants signatures."""

    size: int
    flags: int = 0
    version: int = 0

    def encode(self, extended: int = 0) -> bytes:
        return b"\0" + _RECORD.pack(OPT, self.size, extended << 24 | self.version << 16 | self.flags, 0)


@dataclass(frozen=True, slots=True)
class Query:
    """A client's message with one question; `question` are the bytes of it as they came."""

    id: int
    flags: int
    name: bytes  # folded
    kind: int
    klass: int
    question: bytes
    edns: Edns | None

    @property
    def opcode(self) -> int:
        return self.flags & OPCODE

    @classmethod
    def parse(cls, data: bytes) -> Query:
        """Raises Malformed."""
        if len(data) < HEADER.size:
            raise Malformed(f"a message of {len(data)} bytes")
        number, flags, questions, answers, authority, additional = HEADER.unpack_from(data)
        if flags & RESPONSE or questions != 1 or answers or authority:
            raise Malformed("not a query with one question")
        end = _end_of_name(data)
        if len(data) < end + 4:
            raise Malformed("a question without its type")
        kind, klass = _TYPE_CLASS.unpack_from(data, end)
        edns = _edns(data, end + 4, additional) if additional else None
        return cls(number, flags, data[12:end].lower(), kind, klass, data[12 : end + 4], edns)


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message; `edns` stands in the additional section on the wire."""

    id: int
    flags: int
    questions: list[Question] = field(default_factory=list)
    answers: list[Record] = field(default_factory=list)
    authority: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)
    edns: Edns | None = None

    @property
    def rcode(self) -> int:
        return self.flags & RCODE

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """Raises Malformed."""
        if not HEADER.size <= len(data) <= LONGEST_MESSAGE:
            raise Malformed(f"a message of {len(data)} bytes")
        number, flags, *counts = HEADER.unpack_from(data)
        if sum(counts) > MOST_RECORDS:
            raise Malformed(f"a message that claims {sum(counts)} records")
        position = HEADER.size
        questions: list[Question] = []
        for _ in range(counts[0]):
            question, position = _read_question(data, position)
            questions.append(question)
        sections: list[list[Record]] = []
        for count in counts[1:]:
            records, position = _read_records(data, position, count)
            sections.append(records)
        answers, authority, additional = sections
        options = [record for record in additional if record.kind == OPT]
        if len(options) > 1:
            raise Malformed("more than one EDNS record")
        plain = [record for record in additional if record.kind != OPT]
        edns = _edns_of(options[0]) if options else None
        return cls(number, flags, questions, answers, authority, plain, edns)

    def encode(self) -> bytes:
        additional = len(self.additional) + (self.edns is not None)
        head = HEADER.pack(self.id, self.flags, len(self.questions), len(self.answers), len(self.authority), additional)
        asked = b"".join(question.encode() for question in self.questions)
        known: dict[bytes, int] = {}
        position = HEADER.size
        for question in self.questions:
            remember(known, question.name, position)
            position += len(question.name) + 4
        parts = [head, asked]
        for record in (*self.answers, *self.authority, *self.additional):
            part = encode_record(record, known, position)
            parts.append(part)
            position += len(part)
        return b"".join(parts) + (self.edns.encode() if self.edns is not None else b"")


def remember(known: dict[bytes, int], name: bytes, position: int) -> None:
    """A name stands at a position: it, and what it ends with, can be pointed at from now on."""
    while len(name) > 1 and position < 0x4000:
        known.setdefault(name.lower(), position)
        position += 1 + name[0]
        name = names.parent(name)


def encode_record(record: Record, known: dict[bytes, int], position: int) -> bytes:
    """A record for `position` of a message in which the names of `known` stand; adds its own."""
    owner = _pointed(record.name, known)
    remember(known, record.name, position)
    if record.kind in {CNAME, NS, PTR}:  # often the owner of the next record
        remember(known, record.data, position + len(owner) + _RECORD.size)
    return owner + _RECORD.pack(record.kind, record.klass, record.ttl, len(record.data)) + record.data


def _pointed(name: bytes, known: dict[bytes, int]) -> bytes:
    rest, kept = name, 0
    while len(rest) > 1:
        at = known.get(rest.lower())
        if at is not None:
            return name[:kept] + (0xC000 | at).to_bytes(2, "big")
        kept += 1 + rest[0]
        rest = names.parent(rest)
    return name


def _end_of_name(data: bytes) -> int:
    """Where the name of the first question ends; it has no pointers, since there is nothing to point at."""
    position = HEADER.size
    try:
        while size := data[position]:
            if size > names.LONGEST_LABEL:
                raise Malformed("a question with a label of a kind that does not exist")
            position += 1 + size
    except IndexError:
        raise Malformed("a question ends outside the message") from None
    if position + 1 - HEADER.size > names.LONGEST:
        raise Malformed(f"a name of {position + 1 - HEADER.size} bytes")
    return position + 1


def _edns(data: bytes, position: int, count: int) -> Edns | None:
    """The EDNS record among a query's additional records."""
    if count > MOST_RECORDS:
        raise Malformed(f"a query with {count} additional records")
    if count == 1 and len(data) >= position + 11 and data[position : position + 3] == b"\0\0\x29":
        _, size, ttl, length = _RECORD.unpack_from(data, position + 1)
        if position + 11 + length > len(data):
            raise Malformed("an EDNS record ends outside the message")
        return Edns(size, ttl & 0xFFFF, ttl >> 16 & 0xFF)
    records, _ = _read_records(data, position, count)
    options = [record for record in records if record.kind == OPT]
    if len(options) > 1:
        raise Malformed("more than one EDNS record")
    return _edns_of(options[0]) if options else None


def _edns_of(record: Record) -> Edns:
    return Edns(record.klass, record.ttl & 0xFFFF, record.ttl >> 16 & 0xFF)


def _read_question(data: bytes, position: int) -> tuple[Question, int]:
    name, position = names.read(data, position)
    if position + 4 > len(data):
        raise Malformed("a question without its type")
    kind, klass = _TYPE_CLASS.unpack_from(data, position)
    return Question(name, kind, klass), position + 4


def _read_records(data: bytes, position: int, count: int) -> tuple[list[Record], int]:
    found: list[Record] = []
    for _ in range(count):
        name, position = names.read(data, position)
        if position + _RECORD.size > len(data):
            raise Malformed("a record ends outside the message")
        kind, klass, ttl, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        end = position + length
        if end > len(data):
            raise Malformed(f"the data of a record claims {length} bytes")
        found.append(Record(name, kind, ttl, _data(data, position, end, kind), klass))
        position = end
    return found, position


def _data(message: bytes, start: int, end: int, kind: int) -> bytes:
    """The data of a record with its names written out."""
    form = _NAMES_IN.get(kind)
    if form is None or start == end:
        return message[start:end]
    before, count = form
    parts, position = [message[start : start + before]], start + before
    for _ in range(count):
        name, position = names.read(message, position)
        parts.append(name)
    if position > end:
        raise Malformed(f"the names of a {TYPES[kind]} record are longer than its data")
    return b"".join(parts) + message[position:end]
