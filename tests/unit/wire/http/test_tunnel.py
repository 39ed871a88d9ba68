"""A client leaves while its connection becomes a tunnel: whoever answers hears of it, and pumps nothing for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from havre.wire.http.h1 import Http1
from havre.wire.http.message import Answer, Request, Upgrade
from havre.wire.http.server import plain_error
from havre.wire.http.service import Limits, Service
from havre.wire.http.tunnel import Tunnel, splice

UPGRADE = b"GET /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Wire:
    """A transport. Like uvloop's over TLS, it does not say that it is closing when the other side has closed it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.closed = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.sent += data

    def writelines(self, parts: list[bytes]) -> None:
        self.sent += b"".join(parts)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


class Exchange:
    """An HTTP connection whose only request is answered, on demand, by a tunnel that is read to its end."""

    def __init__(self) -> None:
        self.wire = _transport()
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.connection = Http1(Service(self.handle, Limits(), plain_error), self.wire, None, "")
        self.connection.data_received(UPGRADE)

    async def handle(self, request: Request) -> Answer:
        await asyncio.shield(self.decided)
        return Upgrade([("upgrade", "websocket")], self.run)

    async def run(self, tunnel: Tunnel) -> None:
        while await tunnel.read():
            pass
        self.ended.set()


async def test_the_end_that_was_on_its_way_to_the_http_protocol_reaches_the_tunnel() -> None:
    exchange = Exchange()
    exchange.decided.set_result(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert isinstance(exchange.wire.protocol, Tunnel)
    exchange.connection.connection_lost(None)  # as the loop calls what was bound before set_protocol
    async with asyncio.timeout(1):
        await exchange.ended.wait()


async def test_a_tunnel_for_a_client_that_left_meanwhile_is_run_to_its_end() -> None:
    exchange = Exchange()
    exchange.connection._turn = None  # it left in the moment in which the handler was done
    exchange.decided.set_result(None)
    async with asyncio.timeout(1):
        await exchange.ended.wait()
    assert exchange.wire.sent == b""


class Source(Tunnel):
    """Something that never stops sending."""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return b"\0" * 1024


async def test_nothing_is_pumped_into_a_connection_that_is_closing() -> None:
    source, sink = Source(_transport()), Tunnel(_transport())
    sink.close()
    async with asyncio.timeout(1):
        await splice(source, sink)
    with pytest.raises(ConnectionResetError):
        await sink.drain()


def _transport() -> Any:
    return Wire()
