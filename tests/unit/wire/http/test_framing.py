from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.wire.http.framing import PREFACE, HeaderBlocks, head, pieces, split_target
from havre.wire.http.message import BadAnswer

HEADERS, SETTINGS, PING, CONTINUATION = 1, 4, 6, 9


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def test_targets_are_split_without_decoding() -> None:
    assert split_target(b"/a%2Fb?x=1?y#z") == ("/a%2Fb", "x=1?y")
    assert split_target(b"http://host:1/a?b") == ("/a", "b")
    assert split_target(b"https://host") == ("/", "")
    assert split_target(b"*") == ("*", "")
    assert split_target(b"host:443") == ("", "")


def test_the_framing_of_an_answer_is_ours() -> None:
    assert head(200, [("A", "b"), ("Content-Length", "9")], "content-length: 1\r\n") == (
        b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 1\r\n\r\n"
    )
    with pytest.raises(BadAnswer):
        head(200, [("a", "b\n")], "")


@given(st.lists(st.binary(max_size=100_000), max_size=8))
@settings(max_examples=30, deadline=None)
def test_pieces_are_the_same_bytes(parts: list[bytes]) -> None:
    assert b"".join(pieces(parts)) == b"".join(parts)


def test_the_frames_of_one_block_are_counted_however_they_are_cut() -> None:
    block = frame(HEADERS, 1, 1, b"x" * 10) + frame(CONTINUATION, 0, 1, b"y" * 20) * 4
    quiet = PREFACE + frame(SETTINGS, 0, 0) + block + frame(PING, 0, 0, bytes(8)) + block
    for step in (1, 7, 64, 1000):
        blocks = HeaderBlocks(4 * 16_384)
        assert all(blocks.fits(quiet[i : i + step]) for i in range(0, len(quiet), step))
        assert not all(blocks.fits(piece) for piece in [frame(CONTINUATION, 0, 1)])
