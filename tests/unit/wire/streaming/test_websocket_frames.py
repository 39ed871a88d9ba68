from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.streaming.far import masked

from havre.wire.streaming.errors import ProtocolError
from havre.wire.streaming.websocket_frames import Control, Decoder, Opcode, Piece, accept_key, close_frame, encode


def test_the_key_of_the_specification_is_accepted() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_frames_of_the_specification_are_understood() -> None:
    hello = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
    assert Decoder().feed(hello) == [Piece(b"Hello", first=True, last=True, text=True)]
    ping = bytes.fromhex("89 85 37 fa 21 3d 7f 9f 4d 51 58")
    assert Decoder().feed(ping) == [Control(Opcode.PING, b"Hello")]


def test_frames_of_all_lengths_are_encoded() -> None:
    assert encode(Opcode.TEXT, b"Hello") == bytes.fromhex("81 05 48 65 6c 6c 6f")
    assert encode(Opcode.BINARY, bytes(256))[:4] == bytes.fromhex("82 7e 01 00")
    assert encode(Opcode.BINARY, bytes(65536))[:10] == bytes.fromhex("82 7f 00 00 00 00 00 01 00 00")
    assert close_frame(1002, "no") == bytes.fromhex("88 04 03 ea 6e 6f")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 3, 5, 1000])
def test_a_message_in_fragments_with_a_ping_between(size: int) -> None:
    sent = masked(Opcode.BINARY, b"ab", final=False) + masked(Opcode.PING, b"p")
    sent += masked(Opcode.CONTINUATION, b"", final=False) + masked(Opcode.CONTINUATION, b"c" * 300)
    decoder = Decoder()
    events = [e for at in range(0, len(sent), size) for e in decoder.feed(sent[at : at + size])]
    pieces = [e for e in events if isinstance(e, Piece)]
    assert b"".join(p.data for p in pieces) == b"ab" + b"c" * 300
    assert [p.first for p in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [p.last for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [e for e in events if isinstance(e, Control)] == [Control(Opcode.PING, b"p")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("81 05", "not masked"),
        ("c1 80", "extension"),
        ("83 80", "unknown opcode 3"),
        ("89 fe", "too long"),
        ("09 80", "in fragments"),
        ("80 80 00000000", "without a beginning"),
        ("01 80 00000000 01 80 00000000", "inside another"),
        ("82 ff ffffffffffffffff 00000000", "2⁶³"),
    ],
)
def test_broken_frames_are_refused(data: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        Decoder().feed(bytes.fromhex(data))


def test_a_frame_of_any_announced_length_is_never_kept() -> None:
    decoder = Decoder()
    decoder.feed(bytes.fromhex("82 ff 7fffffffffffffff 00000000"))
    assert [len(e.data) for e in decoder.feed(bytes(100_000))] == [100_000]
    assert len(decoder._buffer) == 0


@given(st.binary(max_size=300), st.integers(1, 50))
def test_what_a_client_masks_is_unmasked(data: bytes, size: int) -> None:
    decoder, sent = Decoder(), masked(Opcode.BINARY, data)
    events = [e for at in range(0, len(sent), size) for e in decoder.feed(sent[at : at + size])]
    assert b"".join(e.data for e in events) == data


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_are_events_or_a_broken_rule(parts: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for part in parts:
            decoder.feed(part)
    except ProtocolError:
        pass
