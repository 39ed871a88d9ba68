"""How many durable writes a second, and how much CPU each costs: Havre's store beside etcd, same disk, same run.

    python benchmarks/store.py [--seconds 3] [--folder DIR] [--peers DIR]

Each writer puts 1 KiB to one of 10,000 keys and waits until it is on the disk. Havre's store runs in the process of the
writers, as it does in the product; etcd is another process, reached by gRPC over plain HTTP/2, as it is in a cluster.
CPU is that of the store: of etcd the server process alone, of Havre everything, writers included. Then restart, LIST
and watches.

etcd is found in --peers (or $PEERS, or the PATH); without it only Havre is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from havre.control.apiserver.cache import Cache
from havre.control.store.log import PUT, Store

KEYS = 10_000
VALUE = os.urandom(512).hex().encode()  # 1 KiB, as little compressible as JSON can be
OBJECTS = 100_000
TICK = os.sysconf("SC_CLK_TCK")
WRITERS = (1, 8, 64)


@dataclass(frozen=True, slots=True)
class Result:
    rate: float  # puts/s
    median: float  # ms
    p99: float  # ms
    cpu: float  # µs a put


Put = Callable[[int], Awaitable[object]]


async def drive(put: Put, writers: int, seconds: float, cpu: Callable[[], float]) -> Result:
    """Let the writers write, each waiting for its own write."""
    latencies: list[float] = []
    used, begun = cpu(), time.perf_counter()
    end = begun + seconds

    async def write(writer: int) -> None:
        numbers = random.Random(writer)  # noqa: S311
        while (started := time.perf_counter()) < end:
            await put(numbers.randrange(KEYS // writers) * writers + writer)
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*map(write, range(writers)))
    took, used = time.perf_counter() - begun, cpu() - used
    latencies.sort()
    count = len(latencies)
    return Result(count / took, latencies[count // 2] * 1e3, latencies[int(count * 0.99)] * 1e3, used / count * 1e6)


async def havre(folder: Path, writers: int, seconds: float, *, compacting: bool = False) -> Result:
    store = Store.open(folder / f"havre-{writers}-{compacting}" / "store.db")
    store.start(lambda rows: None)
    newest = [0] * KEYS

    async def put(number: int) -> None:
        row = await store.append(f"core/configmaps/ns/{number:06d}", PUT, 0, newest[number], lambda _: VALUE)
        newest[number] = row.revision

    async def compact() -> None:
        while True:
            await store.compact(store.revision)
            await asyncio.sleep(0.05)

    tidying = asyncio.create_task(compact()) if compacting else None
    result = await drive(put, writers, seconds, time.process_time)
    if tidying is not None:
        tidying.cancel()
    await store.close()
    return result


# etcd, through a client that costs little: on two cores a costly one would measure itself


class Wire(asyncio.Protocol):
    """Just enough of HTTP/2 and gRPC to call KV.Put: fixed headers, no decoding of replies but their end.

    frame: <u24 length><u8 type><u8 flags><u32 stream><payload>; gRPC message: <u8 0><u32 length><message>
    """

    DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
    END_STREAM, ACK, END_HEADERS = 1, 1, 4

    def __init__(self, authority: str) -> None:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Put"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        self._head = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)  # literals, not indexed
        self._stream = -1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._window = 65535  # bytes the server is ready to take
        self._held: list[bytes] = []
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own
        transport = self._transport
        # Announce great windows, so that replies never wait for us.
        settings = b"\0\x04" + (1 << 30).to_bytes(4)
        grow = ((1 << 30) - 65535).to_bytes(4)
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(self.SETTINGS, 0, 0, settings)
            + _frame(self.WINDOW_UPDATE, 0, 0, grow)
        )

    def put(self, key: bytes, value: bytes) -> asyncio.Future[None]:
        message = b"\x0a" + _size(len(key)) + key + b"\x12" + _size(len(value)) + value
        message = b"\0" + len(message).to_bytes(4) + message
        self._stream += 2
        future = asyncio.get_running_loop().create_future()
        self._waiting[self._stream] = future
        head = _frame(self.HEADERS, self.END_HEADERS, self._stream, self._head)
        self._send(head, _frame(self.DATA, self.END_STREAM, self._stream, message), len(message))
        return future

    def _send(self, head: bytes, data: bytes, size: int) -> None:
        if self._held or self._window < size:
            self._held.append(head + data)
            return
        self._window -= size
        self._transport.write(head + data)

    def _grant(self, size: int) -> None:
        self._window += size
        while self._held and self._window >= len(self._held[0]):
            request = self._held.pop(0)
            self._window -= len(request)  # a little too much: the headers do not count; it errs on the safe side
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        place = 0
        while len(data) - place >= 9:
            length = int.from_bytes(data[place : place + 3])
            if len(data) - place - 9 < length:
                break
            kind, flags = data[place + 3], data[place + 4]
            self._take(kind, flags, int.from_bytes(data[place + 5 : place + 9]), data[place + 9 : place + 9 + length])
            place += 9 + length
        self._rest = data[place:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == self.HEADERS and flags & self.END_STREAM:
            self._waiting.pop(stream).set_result(None)
        elif kind == self.WINDOW_UPDATE and stream == 0:
            self._grant(int.from_bytes(payload))
        elif kind in (self.SETTINGS, self.PING) and not flags & self.ACK:
            self._transport.write(_frame(kind, self.ACK, 0, payload if kind == self.PING else b""))
        elif kind == self.GOAWAY:
            raise ConnectionError(f"etcd went away: {payload!r}")

    def close(self) -> None:
        self._transport.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()  # below 127 bytes, no Huffman code


def _size(number: int) -> bytes:
    """A protobuf varint below 2^14."""
    return bytes((number,)) if number < 128 else bytes((number & 127 | 128, number >> 7))


async def etcd(port: int, pid: int, writers: int, seconds: float) -> Result:
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: Wire(f"127.0.0.1:{port}"), "127.0.0.1", port)
    before = await _etcd_revision(port)
    calls = 0

    def put(number: int) -> Awaitable[None]:
        nonlocal calls
        calls += 1
        return wire.put(b"/registry/configmaps/ns/%06d" % number, VALUE)

    result = await drive(put, writers, seconds, lambda: _cpu_seconds(pid))
    wire.close()
    assert await _etcd_revision(port) - before == calls, "etcd did not take every put"
    return result


async def _etcd_revision(port: int) -> int:
    """From its HTTP gateway."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'POST /v3/kv/range HTTP/1.0\r\nContent-Length: 14\r\n\r\n{"key":"AAAA"}')
    answer = await reader.read()
    writer.close()
    return int(answer.split(b'"revision":"')[1].split(b'"')[0])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def running_etcd(binary: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A single etcd with its usual settings; its port and process id."""
    client, peer = _free_port(), _free_port()
    here, there = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    command = [binary, "--data-dir", str(folder / "etcd"), "--log-level", "error", "--listen-client-urls", here]
    command += ["--advertise-client-urls", here, "--listen-peer-urls", there]
    command += ["--initial-advertise-peer-urls", there, "--initial-cluster", f"default={there}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _await_port(client)
        yield client, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            time.sleep(1)  # it listens before it has a leader
            return
    raise TimeoutError(f"etcd does not listen on port {port}")


# restart, list, watch


async def fill(path: Path) -> None:
    """100,000 objects, written as the verbs write them."""
    cache = Cache(Store.open(path))
    await cache.start()
    values = [b'{"metadata":{"name":"%06d","labels":{"app":"web"}},"data":"%b"}' % (i, VALUE) for i in range(OBJECTS)]
    for start in range(0, OBJECTS, 1000):
        await asyncio.gather(*[_create(cache, i, values[i]) for i in range(start, start + 1000)])
    await cache.close()


async def _create(cache: Cache, number: int, value: bytes) -> None:
    await cache.put(f"core/configmaps/ns{number % 10}/{number:06d}", None, lambda _: value)


async def restart(path: Path) -> None:
    """In a fresh process, as a restart is."""
    before, begun = _resident(), time.perf_counter()
    cache = Cache(Store.open(path))
    await cache.start()
    took = time.perf_counter() - begun
    print(f"restart with {OBJECTS} objects ({_size_of(path)} MiB): {took:.2f} s, {_resident() - before} MiB of memory")
    whole, entries = _best(lambda: _list(cache)), _best(lambda: _range(cache))
    print(f"LIST 10,000 objects: {whole:.2f} ms, of which {entries:.2f} ms to find them")
    await fan_out(cache)
    await cache.close()


async def fan_out(cache: Cache) -> None:
    """1,000 watches of one resource, each of which only counts."""
    counts = [0]

    def count(events: object) -> None:
        counts[0] += 1

    watches = [cache.watch("core/configmaps/", None, count) for _ in range(1000)]
    used = time.process_time()
    for i in range(200):
        key = f"core/configmaps/ns{i % 10}/{i:06d}"
        await cache.put(key, cache.get(key), lambda _: VALUE)
    used = time.process_time() - used
    print(f"1,000 watches: {used / counts[0] * 1e6:.2f} µs CPU a delivery, the write included")
    for watch in watches:
        watch.cancel()


def _range(cache: Cache) -> int:
    return len(cache.range("core/configmaps/ns3/")[0])


def _list(cache: Cache) -> int:
    entries, _ = cache.range("core/configmaps/ns3/")
    parts = [entry.value for entry in entries]
    parts[0] = b'{"items":[' + parts[0]  # so that the ten megabytes are copied once, not twice
    parts[-1] += b"]}"
    return len(b",".join(parts))


def _best(function: Callable[[], int]) -> float:
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times) * 1e3


def _size_of(path: Path) -> int:
    return path.stat().st_size >> 20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


def show(name: str, writers: int, result: Result, beside: Result | None = None) -> None:
    ratio = f"   {result.rate / beside.rate:.1f}× puts/s, {beside.cpu / result.cpu:.1f}× less CPU" if beside else ""
    print(
        f"{name:18s} {writers:3d} writers {result.rate:8.0f} puts/s   p50 {result.median:6.2f} ms   "
        f"p99 {result.p99:6.2f} ms   {result.cpu:6.1f} µs CPU a put{ratio}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where to write: the disk to be measured")
    parser.add_argument("--peers", default=os.environ.get("PEERS", ""), help="folder that holds etcd")
    parser.add_argument("--restart", type=Path, help=argparse.SUPPRESS)  # the second half, in a process of its own
    arguments = parser.parse_args()
    if arguments.restart:
        uvloop.run(restart(arguments.restart))
        return
    binary = shutil.which("etcd", path=f"{arguments.peers}:{os.environ['PATH']}")
    load = "/".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Linux {platform.release()}", end=", ")
    print(f"Python {platform.python_version()}")
    if binary:
        print(subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0])
    else:
        print("etcd not found: set PEERS to measure beside it", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for writers in WRITERS:
            theirs = None
            if binary:
                with running_etcd(binary, folder / f"etcd-{writers}") as (port, pid):
                    theirs = uvloop.run(etcd(port, pid, writers, arguments.seconds))
                show("etcd", writers, theirs)
            show("havre", writers, uvloop.run(havre(folder, writers, arguments.seconds)), theirs)
        show("havre, compacting", 64, uvloop.run(havre(folder, 64, arguments.seconds, compacting=True)))
        uvloop.run(fill(folder / "restart" / "store.db"))
        subprocess.run([sys.executable, __file__, "--restart", folder / "restart" / "store.db"], check=True)


if __name__ == "__main__":
    main()
