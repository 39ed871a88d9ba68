from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.wire.streaming import spdy_frames as wire
from havre.wire.streaming.errors import ProtocolError
from havre.wire.streaming.spdy_frames import Data, Decoder, Encoder, GoAway, Leave, Ping, Reset, RstStream, SynStream


def test_the_dictionary_is_the_one_every_peer_has() -> None:
    assert (len(wire.DICTIONARY), zlib.adler32(wire.DICTIONARY)) == (1423, 0xE3C6A7C2)


def test_frames_have_the_bytes_of_the_specification() -> None:
    assert wire.ping(7) == bytes.fromhex("80030006 00000004 00000007")
    assert wire.rst_stream(5, Reset.CANCEL) == bytes.fromhex("80030003 00000008 00000005 00000005")
    assert wire.go_away(9, Leave.OK) == bytes.fromhex("80030007 00000008 00000009 00000000")
    assert wire.window_update(0, 32768) == bytes.fromhex("80030009 00000008 00000000 00008000")
    assert wire.data_head(3, 2, fin=True) + b"ab" == bytes.fromhex("00000003 01000002 6162")
    assert wire.settings({wire.INITIAL_WINDOW_SIZE: 1}) == bytes.fromhex("80030004 0000000c 00000001 00000007 00000001")
    assert Encoder().syn_reply(1, {})[:18] == bytes.fromhex("80030002 00000014 00000001 78bb e3c6a7c2")


def test_what_is_encoded_is_decoded_whatever_the_pieces() -> None:
    encoder = Encoder()
    sent = encoder.syn_stream(1, {"streamType": "stdin"}) + encoder.syn_stream(3, {"streamType": "error"}, fin=True)
    sent += wire.data_head(1, 3) + b"abc" + wire.ping(1) + wire.go_away(3, Leave.OK)
    for size in (1, 2, 7, len(sent)):
        decoder = Decoder()
        frames = [f for at in range(0, len(sent), size) for f in decoder.feed(sent[at : at + size])]
        assert [f for f in frames if not isinstance(f, Data)] == [
            SynStream(1, {"streamtype": "stdin"}),
            SynStream(3, {"streamtype": "error"}, fin=True),
            Ping(1),
            GoAway(3, 0),
        ]
        assert b"".join(f.data for f in frames if isinstance(f, Data)) == b"abc"


def test_a_long_data_frame_comes_in_pieces_and_ends_with_the_last() -> None:
    decoder = Decoder()
    head = wire.data_head(5, 0xFFFFFF, fin=True)
    assert decoder.feed(head + b"a") == [Data(5, b"a")]
    assert decoder.feed(b"b" * 0xFFFFFD) == [Data(5, b"b" * 0xFFFFFD)]
    assert decoder.feed(b"c" + wire.ping(1)) == [Data(5, b"c", fin=True), Ping(1)]


def test_unknown_control_frames_are_skipped() -> None:
    assert Decoder().feed(bytes.fromhex("8003000a 00000004 00000001") + wire.rst_stream(1, Reset.CANCEL)) == [
        RstStream(1, 5)
    ]


def bomb() -> bytes:
    """A header field that decompresses to 16 MiB."""
    deflate = zlib.compressobj(zdict=wire.DICTIONARY)
    plain = b"\0\0\0\1" + b"\0\0\0\1a" + (16 << 20).to_bytes(4, "big") + bytes(16 << 20)
    return deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("80020006 00000004 00000001", "version 2"),
        ("80030001 00ffffff", "at most 16384"),
        ("80030001 00000004 00000001", "too short"),
        ("80030006 00000002 0001", "too short"),
        ("80030004 00000004 ffffffff", "too short"),
        ("80030002 00000008 00000001 ffffffff", "cannot be decompressed"),
    ],
)
def test_broken_frames_are_refused(data: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        Decoder().feed(bytes.fromhex(data))


def test_headers_do_not_grow_beyond_their_limit() -> None:
    block = bomb()
    payload = (1).to_bytes(4, "big") + block[: wire.CONTROL_LIMIT - 4]
    with pytest.raises(ProtocolError, match="more than 65536 bytes"):
        Decoder().feed(bytes.fromhex("80030002") + len(payload).to_bytes(4, "big") + payload)


def test_many_header_fields_are_refused() -> None:
    sent = Encoder().syn_reply(1, {f"h{i}": "" for i in range(200)})
    with pytest.raises(ProtocolError, match="200 header fields: at most 128"):
        Decoder().feed(sent)


_CONTROL = st.builds(
    lambda kind, flags, payload: b"\x80\x03\0" + bytes([kind, flags]) + len(payload).to_bytes(3, "big") + payload,
    st.integers(0, 12),
    st.integers(0, 3),
    st.binary(max_size=40),
)


@given(st.lists(st.one_of(st.binary(max_size=30), _CONTROL), max_size=8))
def test_any_bytes_are_frames_or_a_broken_rule(parts: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for part in parts:
            decoder.feed(part)
    except ProtocolError:
        pass
