"""A log as messages of a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.unit.wire.streaming.far import Far, closed, masked, messages, request, until

from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.output import Output, negotiate_output
from havre.wire.streaming.websocket_frames import Opcode

ASKED = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def negotiated(protocol: str) -> Output:
    return negotiate_output(request(ASKED | ({"sec-websocket-protocol": protocol} if protocol else {})))


async def two_lines() -> AsyncGenerator[bytes]:
    yield b"one\n"
    yield b"two\n"


@pytest.mark.parametrize(
    ("protocol", "opcode", "first"),
    [
        ("binary.k8s.io", Opcode.BINARY, b"one\n"),
        ("", Opcode.BINARY, b"one\n"),
        ("base64.binary.k8s.io", Opcode.TEXT, b"b25lCg=="),
    ],
)
async def test_every_chunk_is_a_message_and_the_end_a_goodbye(protocol: str, opcode: Opcode, first: bytes) -> None:
    far = Far()
    talk = asyncio.ensure_future(negotiated(protocol).upgrade(two_lines()).run(far.tunnel))
    await until(lambda: closed(far.heard))
    assert messages(far.heard)[0] == (opcode, first)
    far.say(masked(Opcode.CLOSE, b"\x03\xe8"))
    await talk


async def test_a_client_that_leaves_ends_an_endless_log() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        try:
            yield b"one\n"
            await asyncio.Event().wait()
        finally:
            ended.set()

    far, chunks = Far(), endless()
    talk = asyncio.ensure_future(negotiated("binary.k8s.io").upgrade(chunks).run(far.tunnel))
    await until(lambda: b"one" in far.heard)
    far.leave()
    await talk
    assert ended.is_set()


async def test_another_subprotocol_is_refused() -> None:
    with pytest.raises(StreamingError, match="offer one of"):
        negotiated("v5.channel.k8s.io")
