"""The codec of netlink against bytes written by hand, and against noise."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.netlink import route
from havre.wire.netlink.message import (
    ACK_ATTRIBUTES,
    CAPPED,
    ERROR,
    Malformed,
    Message,
    Refused,
    Request,
    attribute,
    attributes,
    messages,
    nested,
    outcome,
    text,
    u32,
)


def test_a_request_has_a_header_and_is_padded_to_four_bytes() -> None:
    encoded = Request("x", 16, 0x400, b"abcde").encode(7)
    assert encoded == struct.pack("=IHHII", 21, 16, 0x401, 7, 0) + b"abcde\0\0\0"


def test_attributes_are_padded_and_nested() -> None:
    assert attribute(3, b"eth0\0") == struct.pack("=HH", 9, 3) + b"eth0\0\0\0\0"
    assert (
        nested(18, text(1, "veth")) == struct.pack("=HH", 16, 0x8000 | 18) + struct.pack("=HH", 9, 1) + b"veth\0\0\0\0"
    )


def test_attributes_are_read_back() -> None:
    assert attributes(text(3, "eth0") + u32(4, 1500) + nested(18, u32(1, 2)), 0) == {
        3: b"eth0\0",
        4: struct.pack("=I", 1500),
        18: u32(1, 2),
    }


def test_an_attribute_that_claims_too_much_is_malformed() -> None:
    with pytest.raises(Malformed, match="attribute 3 claims 12 bytes, 8 are left"):
        attributes(struct.pack("=HHI", 12, 3, 0))
    with pytest.raises(Malformed, match="attribute 3 claims 2 bytes"):
        attributes(struct.pack("=HHI", 2, 3, 0))


def test_several_messages_come_in_one_datagram() -> None:
    one = struct.pack("=IHHII", 18, 16, 2, 5, 0) + b"ab\0\0"
    two = struct.pack("=IHHII", 16, 3, 2, 5, 0)
    assert [*messages(one + two)] == [Message(16, 2, 5, b"ab"), Message(3, 2, 5, b"")]


def test_a_message_longer_than_its_datagram_is_malformed() -> None:
    with pytest.raises(Malformed, match="kind 16 claims 99 bytes, 16 are left"):
        [*messages(struct.pack("=IHHII", 99, 16, 0, 1, 0))]


def test_the_kernels_own_words_are_read_from_an_acknowledgement() -> None:
    request = struct.pack("=IHHII", 20, 24, 0, 1, 0)
    body = struct.pack("=i", -101) + request + text(1, "Nexthop has invalid gateway")
    assert outcome(Message(ERROR, CAPPED | ACK_ATTRIBUTES, 1, body)) == (101, "Nexthop has invalid gateway")
    whole = struct.pack("=i", -17) + request + b"abcd" + text(1, "there")
    assert outcome(Message(ERROR, ACK_ATTRIBUTES, 1, whole)) == (17, "there")
    assert outcome(Message(ERROR, 0, 1, struct.pack("=i", 0) + request)) == (0, "")


def test_a_refusal_says_what_was_attempted_and_why() -> None:
    refused = Refused("add route 10.42.0.5/32 dev 3", errno.EEXIST, "there is one")
    assert str(refused) == "add route 10.42.0.5/32 dev 3: EEXIST File exists (there is one)"
    assert refused.errno == errno.EEXIST


@given(st.binary(max_size=200))
def test_noise_is_malformed_or_understood(data: bytes) -> None:
    readers = [route.read_links, route.read_addresses, route.read_routes]
    try:
        found = [*messages(data)]
    except Malformed:
        return
    for reader in readers:
        try:
            reader(found)
        except Malformed:
            continue


@given(st.sampled_from([16, 20, 24]), st.binary(max_size=120), st.binary(max_size=40))
def test_messages_with_noise_inside_are_malformed_or_understood(kind: int, fixed: bytes, rest: bytes) -> None:
    message = Message(kind, 0, 1, fixed + attribute(1, rest) + attribute(15, rest))
    reader = {16: route.read_links, 20: route.read_addresses, 24: route.read_routes}[kind]
    try:
        reader([message])
    except Malformed:
        return


@given(st.binary(max_size=80), st.integers(0, 0x300))
def test_outcomes_of_noise_are_malformed_or_understood(body: bytes, flags: int) -> None:
    try:
        outcome(Message(ERROR, flags, 1, body))
    except Malformed:
        return
