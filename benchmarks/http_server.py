"""Requests and watch deliveries per CPU-second of the HTTP server, over TLS, with a client certificate.

    python benchmarks/http_server.py [seconds per measurement]

The server runs in its own process and reports its own CPU time, so that a slow client or a busy machine changes little.
The client writes prepared bytes and counts answers; nothing of it is measured.

    GET      2 kB answered by a plain handler: 32 connections of HTTP/1.1, 4 × 8 streams of HTTP/2
    fan-out  1,000 open streams that all get a 1 kB event, one or ten per turn of the loop
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import ssl
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import uvloop

from havre.wire import tls
from havre.wire.http.client import Client
from havre.wire.http.message import Answer, Request, Response, Stream, Writer
from havre.wire.http.server import Limits, serve

BODY = b'{"kind":"ConfigMap","apiVersion":"v1","data":{"k":"' + b"v" * 1946 + b'"}}'
EVENT = b'{"type":"MODIFIED","object":{"kind":"ConfigMap","data":{"k":"' + b"v" * 958 + b'"}}}\n'
HEADERS = [
    ("audit-id", "7f9c1d7e-9a1c-4c0b-8d4d-5d35a4f1c5d2"),
    ("cache-control", "no-cache, private"),
    ("content-type", "application/json"),
    ("x-kubernetes-pf-flowschema-uid", "7f9c1d7e-9a1c-4c0b-8d4d-5d35a4f1c5d2"),
    ("x-kubernetes-pf-prioritylevel-uid", "7f9c1d7e-9a1c-4c0b-8d4d-5d35a4f1c5d3"),
]
CORES = (0, (os.cpu_count() or 1) - 1)  # the server's and the client's; sharing one would halve every figure
WATCHERS = 1000
BACKLOG = 1 << 20  # bytes a watcher may be behind before the producer waits


class Bench:
    """The handler: `/get`, `/cpu`, `/watch`, and `/fan` that writes to all watchers for a while."""

    def __init__(self) -> None:
        self.writers: list[Writer] = []

    def __call__(self, request: Request) -> Answer | asyncio.Task[Answer]:
        if request.path == "/get":
            return Response(200, HEADERS, BODY)
        if request.path == "/watch":
            return Stream(200, HEADERS, self.writers.append)
        if request.path == "/cpu":
            return Response(200, [], str(time.process_time()).encode())
        return asyncio.ensure_future(self.fan(int(request.query), float(request.headers["x-seconds"])))

    async def fan(self, burst: int, seconds: float) -> Answer:
        while len(self.writers) < WATCHERS:  # noqa: ASYNC110 - a benchmark may poll before it measures
            await asyncio.sleep(0.01)
        cpu, end, events = time.process_time(), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for writer in self.writers:
                for _ in range(burst):
                    writer.write(EVENT)
            events += burst
            await asyncio.sleep(0)
            while any(w.buffered > BACKLOG for w in self.writers[::50]):  # noqa: ASYNC110 - as a producer that waits
                await asyncio.sleep(0.001)
        return Response(200, [], f"{events * len(self.writers)} {time.process_time() - cpu}".encode())


def server_process(directory: Path, pipe: Connection) -> None:
    async def run() -> None:
        context = tls.server_context(directory / "srv.crt", directory / "srv.key", client_ca=directory / "ca.crt")
        server = await serve(Bench(), port=0, ssl=context, limits=Limits(streams=2 * WATCHERS))
        pipe.send(server.port)
        await asyncio.to_thread(pipe.recv)
        await server.close()

    os.sched_setaffinity(0, {CORES[0]})
    uvloop.run(run())


class Load(asyncio.Protocol):
    """Keeps `width` requests in flight on one connection and counts the answers."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.answers = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)


class Load1(Load):
    request = b"GET /get HTTP/1.1\r\nhost: x\r\nuser-agent: bench\r\naccept: application/json\r\n\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer.endswith(BODY[-20:]):
            self.answers += 1
            self.buffer = b""
            self.transport.write(self.request)


class Load2(Load):
    """HTTP/2 by hand: the header block is constant, only stream numbers change."""

    block = b"\x82\x87\x04\x04/get\x41\x01x" + b"\x0f\x2b\x05bench" + b"\x0f\x04\x10application/json"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.next = 1
        window = (0x7FFFFFFF - 65535).to_bytes(4, "big")
        self.transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(8, 0, 0, window))
        self.ask(self.width)

    def ask(self, count: int) -> None:
        out = []
        for _ in range(count):
            out.append(frame(1, 0x5, self.next, self.block))
            self.next += 2
        self.transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        place = ended = 0
        while place + 9 <= len(data):
            size = int.from_bytes(data[place : place + 3], "big")
            if place + 9 + size > len(data):
                break
            if data[place + 3] == 4 and not data[place + 4] & 1:
                self.transport.write(frame(4, 1, 0))
            ended += data[place + 3] in (0, 1) and data[place + 4] & 1
            place += 9 + size
        self.buffer = data[place:]
        self.answers += ended
        if ended:
            self.ask(ended)


class Watch2(Load2):
    """Opens `width` watches and gives the windows back."""

    block = b"\x82\x87\x04\x06/watch\x41\x01x"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.settings = frame(4, 0, 0, b"\x00\x04\x7f\xff\xff\xff")
        Load.connection_made(self, transport)
        self.next = 1
        window = (0x7FFFFFFF - 65535).to_bytes(4, "big")
        self.transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.settings + frame(8, 0, 0, window))
        self.ask(self.width)

    def data_received(self, data: bytes) -> None:
        self.answers += len(data)
        if self.answers > 1 << 30:
            self.transport.write(frame(8, 0, 0, self.answers.to_bytes(4, "big")))
            self.answers = 0


class Watch1(Load):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(b"GET /watch HTTP/1.1\r\nhost: x\r\n\r\n")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def context(directory: Path, alpn: str) -> ssl.SSLContext:
    ca, crt, key = (directory / name for name in ("ca.crt", "cl.crt", "cl.key"))
    return tls.client_context(ca.read_bytes(), crt.read_bytes(), key.read_bytes(), alpn=(alpn,))


async def connect(port: int, tls_context: ssl.SSLContext, loads: list[Load]) -> None:
    loop = asyncio.get_running_loop()
    for load in loads:
        await loop.create_connection(lambda load=load: load, "127.0.0.1", port, ssl=tls_context)  # type: ignore[misc]


async def cpu(port: int, directory: Path) -> float:
    async with Client(f"https://127.0.0.1:{port}", ssl=context(directory, "http/1.1")) as client:
        return float((await client.request("GET", "/cpu")).body)


async def gets(port: int, directory: Path, alpn: str, loads: list[Load], seconds: float) -> float:
    """Answers per CPU-second of the server."""
    await connect(port, context(directory, alpn), loads)
    await asyncio.sleep(0.2)
    before, start = sum(load.answers for load in loads), await cpu(port, directory)
    await asyncio.sleep(seconds)
    after, end = sum(load.answers for load in loads), await cpu(port, directory)
    for load in loads:
        load.transport.abort()
    return (after - before) / (end - start)


async def fans(port: int, directory: Path, alpn: str, loads: list[Load], burst: int, seconds: float) -> float:
    """Deliveries per CPU-second of the server."""
    await connect(port, context(directory, alpn), loads)
    async with Client(f"https://127.0.0.1:{port}", ssl=context(directory, "http/1.1"), timeout=60) as client:
        reply = await client.request("GET", f"/fan?{burst}", headers={"x-seconds": str(seconds)})
    for load in loads:
        load.transport.abort()
    deliveries, used = reply.body.split()
    return int(deliveries) / float(used)


def measure(name: str, directory: Path, seconds: float) -> float:
    """One measurement on a fresh server."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server_process, args=(directory, there))
    process.start()
    port = here.recv()
    kind, _, burst = name.partition("x")
    if kind == "GET h1 ":
        work = gets(port, directory, "http/1.1", [Load1(1) for _ in range(32)], seconds)
    elif kind == "GET h2 ":
        work = gets(port, directory, "h2", [Load2(8) for _ in range(4)], seconds)
    elif kind == "fan-out h1 ":
        work = fans(port, directory, "http/1.1", [Watch1(1) for _ in range(WATCHERS)], int(burst), seconds)
    else:
        work = fans(port, directory, "h2", [Watch2(100) for _ in range(WATCHERS // 100)], int(burst), seconds)
    try:
        return uvloop.run(work)
    finally:
        here.send(None)
        process.join(5)
        process.kill()


def main() -> None:
    os.sched_setaffinity(0, {CORES[-1]})
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ca = tls.new_authority("bench")
        tls.save(directory, "ca", ca)
        tls.save(directory, "srv", tls.issue(ca, tls.Subject("srv"), server=True, names=["127.0.0.1"]))
        tls.save(directory, "cl", tls.issue(ca, tls.Subject("client", ("group",)), client=True))
        for what in ("GET h1 ", "GET h2 ", "fan-out h1 x1", "fan-out h1 x10", "fan-out h2 x1", "fan-out h2 x10"):
            print(f"{what:15} {measure(what, directory, seconds):>10,.0f} per CPU-second", flush=True)


if __name__ == "__main__":
    main()
