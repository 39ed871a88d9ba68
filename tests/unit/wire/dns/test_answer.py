"""Prepared answers: what every client gets of its own, and what does not fit."""

from __future__ import annotations

import pytest

from havre.wire.dns import names
from havre.wire.dns.answer import UNLIMITED, Answer, aged, limit_of, prepare, refusal, reply, ttl_of
from havre.wire.dns.message import (
    AAAA,
    CNAME,
    FORMERR,
    IN,
    NXDOMAIN,
    RECURSION_DESIRED,
    SOA,
    TRUNCATED,
    A,
    Edns,
    Message,
    Query,
    Question,
    Record,
)

NAME = names.name("web.shop")


def asked(text: str = "web.shop", edns: Edns | None = None, flags: int = RECURSION_DESIRED) -> Query:
    question = Question(names.name(text), A).encode()
    return Query(0x1234, flags, names.name(text.lower()), A, IN, question, edns)


def addresses(count: int, name: bytes = NAME) -> list[Record]:
    return [Record(name, A, 5, bytes([10, 42, number >> 8, number & 255])) for number in range(count)]


def test_a_client_gets_its_id_and_its_own_letters_back() -> None:
    data = reply(asked("WeB.sHoP"), prepare(NAME, answers=addresses(1), authoritative=True), limit=512)
    message = Message.parse(data)
    assert message.id == 0x1234
    assert message.questions == [Question(names.name("WeB.sHoP"), A)]
    assert message.answers == [Record(names.name("WeB.sHoP"), A, 5, bytes([10, 42, 0, 0]))]
    assert data[2:4] == b"\x85\x80"  # response, authoritative, recursion desired and available
    assert message.edns is None


def test_edns_is_answered_with_edns() -> None:
    message = Message.parse(reply(asked(edns=Edns(4096, 0x8000)), prepare(NAME), limit=1232))
    assert message.edns == Edns(1232, 0x8000)
    assert Message.parse(reply(asked(edns=Edns(4096, 0, 1)), Answer(16), limit=1232)).edns == Edns(1232)
    assert reply(asked(edns=Edns(4096, 0, 1)), Answer(16), limit=1232)[-6:-4] == b"\x01\x00"  # BADVERS


def test_records_that_do_not_fit_are_left_out_and_said_to_be() -> None:
    answer = prepare(NAME, answers=addresses(100))
    data = reply(asked(), answer, limit=512)
    message = Message.parse(data)
    assert len(data) <= 512
    assert len(message.answers) == 30  # (512 − 12 − 14) / 16
    assert message.flags & TRUNCATED
    assert len(Message.parse(reply(asked(), answer, limit=UNLIMITED)).answers) == 100


def test_additional_records_are_left_out_in_silence() -> None:
    answer = prepare(NAME, answers=addresses(20), additional=addresses(20, names.name("other.shop")))
    message = Message.parse(reply(asked(), answer, limit=512))
    assert (len(message.answers), not message.flags & TRUNCATED) == (20, True)
    assert 0 < len(message.additional) < 20


def test_movable_answers_start_anywhere_and_others_do_not() -> None:
    movable = prepare(NAME, answers=addresses(3), movable=True)
    message = Message.parse(reply(asked(), movable, limit=512, first=2))
    assert [record.data[3] for record in message.answers] == [2, 0, 1]
    still = prepare(NAME, answers=addresses(3))
    assert [record.data[3] for record in Message.parse(reply(asked(), still, limit=512, first=2)).answers] == [0, 1, 2]


def test_an_alias_and_its_end_are_compressed() -> None:
    end = names.name("a.other")
    answer = prepare(NAME, answers=[Record(NAME, CNAME, 5, end), Record(end, A, 5, bytes(4))])
    data = reply(asked(), answer, limit=512)
    assert Message.parse(data).answers == [Record(NAME, CNAME, 5, end), Record(end, A, 5, bytes(4))]
    assert data.count(b"\x05other") == 1


def test_a_no_has_its_soa() -> None:
    soa = Record(names.name("shop"), SOA, 5, names.name("ns") + names.name("x") + bytes(20))
    message = Message.parse(reply(asked(), prepare(NAME, NXDOMAIN, (), [soa]), limit=512))
    assert (message.rcode, message.authority) == (NXDOMAIN, [soa])


@pytest.mark.parametrize(("edns", "limit"), [(None, 512), (Edns(100), 512), (Edns(900), 900), (Edns(65535), 1232)])
def test_the_limit_is_what_both_can_take(edns: Edns | None, limit: int) -> None:
    assert limit_of(asked(edns=edns)) == limit


def test_answers_grow_old() -> None:
    answer = prepare(NAME, answers=[Record(NAME, A, 60, bytes(4)), Record(NAME, AAAA, 5, bytes(16))])
    assert [ttl_of(record) for record in aged(answer, 10).answers] == [50, 0]
    assert aged(answer, 0) is answer


def test_what_cannot_be_understood_is_refused_unless_it_is_an_answer() -> None:
    assert refusal(b"\x12\x34\x01\0" + bytes(8), FORMERR) == b"\x12\x34\x81\x01" + bytes(8)
    assert refusal(b"\x12\x34\x80\0" + bytes(8), FORMERR) is None
    assert refusal(b"\x12", FORMERR) is None
