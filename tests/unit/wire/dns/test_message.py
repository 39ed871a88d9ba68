"""Whole messages: real ones as dig and resolvers send them, and noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.dns import names
from havre.wire.dns.message import (
    CNAME,
    DNSSEC_OK,
    IN,
    MX,
    NS,
    PTR,
    RESPONSE,
    SOA,
    SRV,
    TXT,
    A,
    Edns,
    Malformed,
    Message,
    Query,
    Question,
    Record,
)

DIG = bytes.fromhex(  # dig web.Shop.svc: one question, EDNS with a cookie
    "1bc301200001000000000001037765620453686f7003737663000001000100002904d000008000000c000a00081122334455667788"
)


def name(text: str) -> bytes:
    return names.name(text)


def test_a_query_is_folded_but_keeps_its_question() -> None:
    query = Query.parse(DIG)
    assert (query.id, query.name, query.kind, query.klass) == (0x1BC3, name("web.shop.svc"), A, IN)
    assert query.question == b"\x03web\x04Shop\x03svc\0\0\1\0\1"
    assert query.edns == Edns(1232, DNSSEC_OK)


@pytest.mark.parametrize(
    "data",
    [
        DIG[:11],
        DIG[:20],
        DIG[:30],
        DIG[:-1],
        b"\0\0\x80\0\0\1\0\0\0\0\0\0\0\0\1\0\1",
        b"\0\0\0\0\0\2\0\0\0\0\0\0\0\0\1\0\1\0\0\1\0\1",
        b"\0\0\0\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",
        b"\0\0\0\0\0\1\0\0\0\0\0\0" + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1",
        b"\0\0\0\0\0\1\0\0\0\0\0\2\0\0\1\0\1" + Edns(512).encode() * 2,
    ],
)
def test_what_is_not_one_question_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Query.parse(data)


def test_a_message_is_compressed_and_read_back() -> None:
    own, other = name("web.shop"), name("other.shop")
    message = Message(
        7,
        RESPONSE,
        [Question(own, A)],
        [Record(own, CNAME, 5, other), Record(other, A, 5, bytes([192, 0, 2, 1]))],
        [Record(name("shop"), SOA, 5, name("ns.shop") + name("x.shop") + bytes(20))],
        [Record(name("ns.shop"), A, 5, bytes([192, 0, 2, 2]))],
        Edns(1232, DNSSEC_OK),
    )
    data = message.encode()
    assert Message.parse(data) == message
    assert data.count(b"\x04shop") == 4  # the question, and names inside of data, which are written out
    assert data.count(b"\x05other") == 1


def test_names_inside_of_data_are_written_out_on_reading() -> None:
    data = (
        b"\0\7\x80\0\0\1\0\5\0\0\0\0\x04shop\0\0\1\0\1"
        b"\xc0\x0c\0\5\0\1\0\0\0\5\0\5\x02aa\xc0\x0c"
        b"\xc0\x0c\0\x21\0\1\0\0\0\5\0\x08\0\1\0\2\0\3\xc0\x0c"
        b"\xc0\x0c\0\x0f\0\1\0\0\0\5\0\4\0\x0a\xc0\x0c"
        b"\xc0\x0c\0\x06\0\1\0\0\0\5\0\x18\xc0\x0c\xc0\x0c" + bytes(20) + b"\xc0\x0c\0\x10\0\1\0\0\0\5\0\3\2hi"
    )
    shop = name("shop")
    assert [(record.kind, record.data) for record in Message.parse(data).answers] == [
        (CNAME, name("aa.shop")),
        (SRV, b"\0\1\0\2\0\3" + shop),
        (MX, b"\0\x0a" + shop),
        (SOA, shop + shop + bytes(20)),
        (TXT, b"\2hi"),
    ]


def test_data_whose_names_are_longer_than_it_is_malformed() -> None:
    with pytest.raises(Malformed, match="the names of a CNAME record are longer than its data"):
        Message.parse(b"\0\7\x80\0\0\0\0\1\0\0\0\0\0\0\5\0\1\0\0\0\5\0\1\x04shop\0")


def test_a_message_that_claims_a_million_records_costs_nothing() -> None:
    with pytest.raises(Malformed, match="claims 262140 records"):
        Message.parse(b"\0\7\x80\0" + b"\xff" * 8)


NAME = st.lists(st.binary(min_size=1, max_size=8), max_size=4).map(lambda labels: names.join(*labels))
PLAIN = st.builds(Record, NAME, st.just(A), st.integers(0, 2**32 - 1), st.binary(max_size=8))
NAMED = st.builds(Record, NAME, st.sampled_from([CNAME, NS, PTR]), st.integers(0, 100), NAME)
RECORDS = st.lists(PLAIN | NAMED, max_size=5)


@given(st.integers(0, 65535), st.lists(st.builds(Question, NAME, st.just(A)), max_size=2), RECORDS, RECORDS, RECORDS)
def test_every_message_is_read_back(
    number: int, questions: list[Question], one: list[Record], two: list[Record], three: list[Record]
) -> None:
    message = Message(number, RESPONSE, questions, one, two, three)
    assert Message.parse(message.encode()) == message


@given(st.binary(max_size=120))
def test_noise_is_malformed_or_a_message(noise: bytes) -> None:
    for data in (noise, DIG[:12] + noise, b"\0\7\x80\0\0\1\0\2\0\1\0\1\0\0\1\0\1" + noise):
        for parse in (Query.parse, Message.parse):
            try:
                parse(data)
            except Malformed:
                continue


@given(st.integers(0, len(DIG) - 1), st.integers(0, 255))
def test_a_changed_byte_is_malformed_or_another_query(at: int, byte: int) -> None:
    try:
        Query.parse(DIG[:at] + bytes([byte]) + DIG[at + 1 :])
    except Malformed:
        return
