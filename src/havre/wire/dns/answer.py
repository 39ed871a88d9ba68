"""A prepared answer: everything after the question, made once, sent many times.

An `Answer` belongs to a question's name (its records point at offset 12, where every question stands) but not to a
client: id, the question with the client's own upper and lower case, EDNS and the size limit are added by `reply`.

Source: RFC 1035 §4.2, RFC 2181 §9 (truncation), RFC 6891 §6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from havre.wire.dns.message import (
    AUTHORITATIVE,
    DNSSEC_OK,
    HEADER,
    NOERROR,
    RCODE,
    RECURSION_AVAILABLE,
    RECURSION_DESIRED,
    RESPONSE,
    TRUNCATED,
    UNCHECKED,
    Edns,
    Query,
    Record,
    encode_record,
    remember,
)

SMALLEST_LIMIT = 512  # a client without EDNS takes this much over UDP
LARGEST_LIMIT = 1232  # what passes every network in one piece: 1280 (IPv6) − 40 − 8
UNLIMITED = 65535  # TCP

_TTL = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Answer:
    """The records of the three sections, encoded for a message that begins with a question of this name."""

    rcode: int = NOERROR
    answers: tuple[bytes, ...] = ()
    authority: tuple[bytes, ...] = ()
    additional: tuple[bytes, ...] = ()
    authoritative: bool = False
    movable: bool = False  # the answers may be given in any order
    chase: bytes = b""  # the name at which the answer goes on, elsewhere

    @property
    def fixed(self) -> bool:
        """Every client gets the same bytes."""
        return not self.chase and not (self.movable and len(self.answers) > 1)


def prepare(
    name: bytes,
    rcode: int = NOERROR,
    answers: Iterable[Record] = (),
    authority: Iterable[Record] = (),
    additional: Iterable[Record] = (),
    *,
    authoritative: bool = False,
    movable: bool = False,
    chase: bytes = b"",
) -> Answer:
    """An answer to questions about `name`."""
    known: dict[bytes, int] = {}
    position = HEADER.size
    remember(known, name, position)
    position += len(name) + 4
    sections: list[tuple[bytes, ...]] = []
    for section in (answers, authority, additional):
        encoded: list[bytes] = []
        for record in section:
            # records of a section that may be moved or left out must not be pointed at
            part = encode_record(record, known if not (movable or sections) else {**known}, position)
            encoded.append(part)
            position += len(part)
        sections.append(tuple(encoded))
    return Answer(rcode, sections[0], sections[1], sections[2], authoritative, movable, chase)


def reply(query: Query, answer: Answer, *, limit: int, first: int = 0) -> bytes:
    """The message for one client; `first` is which of movable answers comes first."""
    flags = (
        RESPONSE
        | (query.flags & (RECURSION_DESIRED | UNCHECKED))
        | RECURSION_AVAILABLE
        | (AUTHORITATIVE if answer.authoritative else 0)
        | (answer.rcode & RCODE)
    )
    answers = answer.answers
    if first and answer.movable:
        first %= len(answers) or 1
        answers = answers[first:] + answers[:first]
    own = _own_edns(query, answer.rcode)
    room = limit - HEADER.size - len(query.question) - len(own)
    sections: list[Sequence[bytes]] = [answers, answer.authority, answer.additional]
    if sum(len(part) for section in sections for part in section) > room:
        sections, cut = _fit(sections, room)
        flags |= TRUNCATED if cut else 0
    counts = len(sections[0]), len(sections[1]), len(sections[2]) + bool(own)
    head = HEADER.pack(query.id, flags, 1, *counts)
    return b"".join((head, query.question, *sections[0], *sections[1], *sections[2], own))


def limit_of(query: Query) -> int:
    """How long an answer over UDP may be."""
    if query.edns is None:
        return SMALLEST_LIMIT
    return min(max(query.edns.size, SMALLEST_LIMIT), LARGEST_LIMIT)


def refusal(data: bytes, rcode: int) -> bytes | None:
    """The answer to a message that cannot be understood; None to one that must not be answered at all."""
    if len(data) < HEADER.size:
        return None
    number, flags, *_ = HEADER.unpack_from(data)
    if flags & RESPONSE:
        return None
    return HEADER.pack(number, RESPONSE | (flags & (0x7800 | RECURSION_DESIRED)) | rcode, 0, 0, 0, 0)


def with_ttl(record: bytes, ttl: int) -> bytes:
    """An encoded record with another time to live."""
    at = _end_of_owner(record) + 4
    return record[:at] + _TTL.pack(ttl) + record[at + 4 :]


def ttl_of(record: bytes) -> int:
    ttl: int = _TTL.unpack_from(record, _end_of_owner(record) + 4)[0]
    return ttl


def aged(answer: Answer, seconds: int) -> Answer:
    """The answer as it is some seconds later: every record lives that much shorter."""
    if seconds <= 0:
        return answer

    def later(section: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return tuple(with_ttl(record, max(0, ttl_of(record) - seconds)) for record in section)

    return replace(
        answer,
        answers=later(answer.answers),
        authority=later(answer.authority),
        additional=later(answer.additional),
    )


def _own_edns(query: Query, rcode: int) -> bytes:
    if query.edns is None:
        return b""
    return Edns(LARGEST_LIMIT, query.edns.flags & DNSSEC_OK).encode(rcode >> 4)


def _fit(sections: Sequence[Sequence[bytes]], room: int) -> tuple[list[Sequence[bytes]], bool]:
    """What fits, in order; it counts as truncated unless only additional records were left out."""
    fitting: list[Sequence[bytes]] = []
    cut = False
    for number, section in enumerate(sections):
        kept: list[bytes] = []
        for record in section:
            if len(record) > room or cut:
                cut = cut or number < 2
                break
            kept.append(record)
            room -= len(record)
        fitting.append(kept)
    return fitting, cut


def _end_of_owner(record: bytes) -> int:
    """Behind the owner of a record: labels, then a zero or a pointer."""
    position = 0
    while size := record[position]:
        if size >= 0xC0:
            return position + 2
        position += 1 + size
    return position + 1
