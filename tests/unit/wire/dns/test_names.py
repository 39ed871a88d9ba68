"""Names on the wire: text, folding, pointers that go back, on and on, or nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.dns import names
from havre.wire.dns.names import Malformed

LABEL = st.binary(min_size=1, max_size=63)


def test_a_name_is_labels_behind_their_lengths() -> None:
    assert names.name("cluster.local") == b"\x07cluster\x05local\0"
    assert names.name("cluster.local.") == names.name("cluster.local")
    assert names.name(".") == names.name("") == b"\0"
    assert names.text(b"\x07cluster\x05local\0") == "cluster.local"
    assert names.text(b"\0") == "."


@pytest.mark.parametrize("text", ["a..b", ".a", "x" * 64, "a." * 128, "ä.de", "a\\", "a\\25", "a\\999"])
def test_text_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        names.name(text)


def test_dots_and_bytes_inside_labels_are_escaped() -> None:
    wire = b"\x04a.b\x07\0"
    assert names.text(wire) == "a\\.b\\007"
    assert names.name("a\\.b\\007") == wire


@given(st.lists(LABEL, max_size=3))
def test_every_name_survives_being_written_and_read(labels: list[bytes]) -> None:
    wire = names.join(*labels)
    assert names.name(names.text(wire)) == wire
    assert [*names.labels(wire)] == labels
    assert names.read(b"xx" + wire + b"y", 2) == (wire, 2 + len(wire))


def test_a_pointer_is_followed_and_reading_goes_on_behind_it() -> None:
    message = b"\x05local\0\x07cluster\xc0\x00!"
    assert names.read(message, 7) == (b"\x07cluster\x05local\0", 17)


@pytest.mark.parametrize(
    "message",
    [b"\xc0\x00", b"\xc0\x02\x01a\0", b"\x01a\xc0\x00", b"\x40a", b"\x80a", b"\x05a", b"\xc0", b"", b"\x01a"],
)
def test_pointers_that_never_end_and_labels_that_do_not_exist_are_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        names.read(message, 0)


def test_a_chain_of_pointers_ends_soon() -> None:
    message = b"\0" * 2 + b"".join((0xC000 | 2 * at).to_bytes(2, "big") for at in range(100))
    assert names.read(message, 2 * 32) == (b"\0", 2 * 32 + 2)
    with pytest.raises(Malformed, match="on and on"):
        names.read(message, 2 * 34)


def test_a_name_of_more_than_255_bytes_is_malformed() -> None:
    with pytest.raises(Malformed):
        names.read((b"\x3f" + b"x" * 63) * 4 + b"\0", 0)


def test_names_stand_under_others_at_the_borders_of_labels_only() -> None:
    top = names.name("cluster.local")
    assert names.is_under(names.name("a.cluster.local"), top)
    assert names.is_under(top, top)
    assert not names.is_under(b"\x0fxx\x07cluster\x05local\0", top)
    assert not names.is_under(names.name("local"), top)


def test_names_above_leave_out_both_ends() -> None:
    found = names.above(names.name("a.b.c.d"), names.name("d"))
    assert [names.text(name) for name in found] == ["b.c.d", "c.d"]


def test_addresses_have_reverse_names() -> None:
    assert names.text(names.reversed_ip(bytes([10, 96, 0, 5]))) == "5.0.96.10.in-addr.arpa"
    assert names.text(names.reversed_ip(bytes([0xFD] + [0] * 14 + [0x21]))).startswith("1.2.0.0.")
    assert names.ip_of(names.name("5.0.96.10.in-addr.arpa")) == bytes([10, 96, 0, 5])
    for text in ("96.10.in-addr.arpa", "256.0.96.10.in-addr.arpa", "x.0.96.10.in-addr.arpa", "1.2.3.4.a.b"):
        assert names.ip_of(names.name(text)) is None
