from __future__ import annotations

import asyncio

import pytest
from tests.unit.wire.streaming.far import Far, SpdyClient, masked, messages, request, talking, until

from havre.wire.streaming import portforward
from havre.wire.streaming.negotiate import negotiate_port_forward
from havre.wire.streaming.portforward import Forwarded, PortForward
from havre.wire.streaming.spdy_frames import GoAway, RstStream
from havre.wire.streaming.websocket_frames import Opcode

SPDY = {"connection": "Upgrade", "upgrade": "SPDY/3.1", "x-stream-protocol-version": "portforward.k8s.io"}
WEBSOCKET = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def shout(forwarded: Forwarded) -> None:
    """Answers in capitals; nothing listens on port 9."""
    if forwarded.port == 9:
        await forwarded.fail("nobody listens on port 9")
    else:
        while data := await forwarded.read():
            await forwarded.write(data.upper())
    forwarded.close()


async def run(session: PortForward) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for forwarded in session:
            tasks.create_task(shout(forwarded))


def pair(client: SpdyClient, port: int, request_id: str = "0") -> tuple[int, int]:
    """(error, data), opened as kubectl does."""
    headers = {"port": str(port), "requestID": request_id}
    return client.open({**headers, "streamType": "error"}), client.open({**headers, "streamType": "data"})


async def test_connections_beside_each_other_over_spdy() -> None:
    async with talking(negotiate_port_forward(request(SPDY, method="POST")).upgrade(run)) as (far, _):
        client = SpdyClient(far)
        _, one = pair(client, 80, "1")
        _, two = pair(client, 443, "2")
        client.send(one, b"ab")
        client.send(two, b"yz", fin=True)
        await until(lambda: client.ended(two))
        client.send(one, b"cd", fin=True)
        await until(lambda: client.ended(one))
        assert (client.data(one), client.data(two)) == (b"ABCD", b"YZ")


async def test_a_failure_is_told_on_the_error_stream() -> None:
    async with talking(negotiate_port_forward(request(SPDY)).upgrade(run)) as (far, _):
        client = SpdyClient(far)
        error, data = pair(client, 9)
        await until(lambda: client.ended(error) and client.ended(data))
        assert (client.data(error), client.data(data)) == (b"nobody listens on port 9", b"")


async def test_a_client_of_old_names_no_request() -> None:
    async with talking(negotiate_port_forward(request(SPDY)).upgrade(run)) as (far, _):
        client = SpdyClient(far)
        client.open({"port": "80", "streamType": "error"})
        data = client.open({"port": "80", "streamType": "data"})
        client.send(data, b"x", fin=True)
        await until(lambda: client.ended(data))
        assert client.data(data) == b"X"


@pytest.mark.parametrize(
    "headers",
    [{"port": "80"}, {"port": "80", "streamType": "other"}, {"streamType": "data"}, {"port": "0", "streamType": "data"},
     {"port": "65536", "streamType": "data"}, {"port": "-1", "streamType": "data"},
     {"port": "٣", "streamType": "data"}],
)  # fmt: skip
async def test_a_stream_that_forwards_nothing_is_reset(headers: dict[str, str]) -> None:
    async with talking(negotiate_port_forward(request(SPDY)).upgrade(run)) as (far, _):
        client = SpdyClient(far)
        client.open({name: value.encode().decode("latin-1") for name, value in headers.items()})
        await until(client.got)
        assert client.got() == [RstStream(1, 1)]


async def test_a_second_stream_of_the_same_request_and_kind_is_reset() -> None:
    async with talking(negotiate_port_forward(request(SPDY)).upgrade(run)) as (far, _):
        client = SpdyClient(far)
        for _ in range(2):
            client.open({"port": "80", "requestID": "1", "streamType": "data"})
        await until(lambda: RstStream(3, 1) in client.got())


async def test_a_stream_that_stays_alone_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "PAIR_SECONDS", 0.01)
    async with talking(negotiate_port_forward(request(SPDY)).upgrade(run)) as (far, _):
        client = SpdyClient(far)
        client.open({"port": "80", "requestID": "1", "streamType": "data"})
        await until(lambda: RstStream(1, 5) in client.got())


async def test_spdy_inside_websocket_messages() -> None:
    negotiated = negotiate_port_forward(request({**WEBSOCKET, "sec-websocket-protocol": "SPDY/3.1+portforward.k8s.io"}))
    async with talking(negotiated.upgrade(run)) as (far, _):
        inner, outer = Far(), far
        client = SpdyClient(inner)
        _, data = pair(client, 80)
        client.send(data, b"abc", fin=True)
        sent = b"".join([await inner.read() for _ in range(inner.unread)])
        outer.say(*(masked(Opcode.BINARY, sent[at : at + 7]) for at in range(0, len(sent), 7)))

        def answered() -> bool:
            inner.heard[:] = b"".join(data for opcode, data in messages(outer.heard) if opcode == Opcode.BINARY)
            return client.ended(data)

        await until(answered)
        assert client.data(data) == b"ABC"


async def test_channels_of_the_old_websocket_protocol_begin_with_their_port() -> None:
    headers = {**WEBSOCKET, "sec-websocket-protocol": "v4.channel.k8s.io"}
    async with talking(negotiate_port_forward(request(headers, query="port=80&port=9")).upgrade(run)) as (far, _):
        far.say(masked(Opcode.BINARY, b"\0abc"))
        await until(lambda: len(messages(far.heard)) == 6)
        shown = [data for _, data in messages(far.heard)]
        assert shown[:4] == [b"\0\x50\0", b"\1\x50\0", b"\2\x09\0", b"\3\x09\0"]
        assert sorted(shown[4:]) == [b"\0ABC", b"\3nobody listens on port 9"]


async def test_leaving_the_session_says_goodbye() -> None:
    async def nothing(session: PortForward) -> None:
        return

    async with talking(negotiate_port_forward(request(SPDY)).upgrade(nothing)) as (far, _):
        client = SpdyClient(far)
        await until(lambda: GoAway(0, 0) in client.got())
