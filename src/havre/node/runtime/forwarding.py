"""Port-forward: connections of a client to `localhost` inside a sandbox, without a process in it.

A socket belongs to the network namespace in which it was made. It is made by a thread that enters the sandbox's, then
used like any other.

Source: CRI PortForward; containerd internal/cri/server/sandbox_portforward_linux.go (127.0.0.1 first, then ::1).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

from havre.node.runtime import netns
from havre.node.runtime.host import Host
from havre.wire.streaming.portforward import Forwarded, PortForward

__all__ = ["forward"]

CONNECT_SECONDS = 10.0  # to the loopback: it answers at once or refuses; a full backlog is waited for
CHUNK = 64 * 1024
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def forward(host: Host, namespace: Path | None, session: PortForward) -> None:
    """Serve the connections of a client until it leaves."""
    async with asyncio.TaskGroup() as tasks:
        async for connection in session:
            tasks.create_task(_one(host, namespace, connection))


async def _one(host: Host, namespace: Path | None, forwarded: Forwarded) -> None:
    try:
        reader, writer = await _connect(host, namespace, forwarded.port)
    except (OSError, TimeoutError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no answer"
        await forwarded.fail(f"connect to localhost:{forwarded.port} inside the pod: {why}")
        forwarded.close()
        return
    incoming = asyncio.create_task(_send(forwarded, writer))
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                await forwarded.write(data)
    finally:
        incoming.cancel()
        await asyncio.gather(incoming, return_exceptions=True)
        writer.close()
        forwarded.close()


async def _send(forwarded: Forwarded, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await forwarded.read():
            writer.write(data)
            await writer.drain()
        writer.write_eof()  # the client may be done sending and still wait for an answer


async def _connect(host: Host, namespace: Path | None, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError or TimeoutError of the first address when none answers."""
    failure: OSError | TimeoutError | None = None
    for family, address in _LOOPBACK:
        connection = await host.blocking(netns.open_socket, namespace, family)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
                return await asyncio.open_connection(sock=connection, limit=CHUNK)
        except (OSError, TimeoutError) as error:
            connection.close()
            failure = failure or error
    assert failure is not None
    raise failure
