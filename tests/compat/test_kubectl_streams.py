"""Real kubectls exec and forward ports against a small server that runs the commands on this machine.

kubectl up to 1.29 speaks SPDY, from 1.30 WebSocket for exec, from 1.31 SPDY inside WebSocket for port-forward.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import pytest_asyncio

from havre.wire.http.message import Answer, Request, Response
from havre.wire.http.server import Server, serve
from havre.wire.streaming.errors import StreamingError
from havre.wire.streaming.negotiate import negotiate, negotiate_port_forward
from havre.wire.streaming.portforward import Forwarded, PortForward
from havre.wire.streaming.remotecommand import RemoteCommand, Streams

CLIENTS = (Path(__file__).parents[2] / ".venv/clients.d", Path("/usr/lib/google-cloud-sdk/bin"))
NAMES = ("kubectl.1.27", "kubectl.1.29", "kubectl.1.30", "kubectl-1.31", "kubectl-1.33", "kubectl")
BIG = 3_000_000  # bytes: dozens of windows and messages

POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "p", "namespace": "default"},
    "spec": {"containers": [{"name": "c", "image": "x"}]},
    "status": {"phase": "Running"},
}
PODS = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
DISCOVERY: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [PODS]},
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
    "/api/v1/namespaces/default/pods/p": POD,
}


def handler(request: Request) -> Answer:
    query = parse_qs(request.query)
    try:
        match request.path.rpartition("/")[2]:
            case "exec":
                wanted = {name: "true" in query.get(name, []) for name in ("stdin", "stdout", "stderr", "tty")}

                async def run(command: RemoteCommand) -> None:
                    await execute(query["command"], command)

                return negotiate(request, Streams(**wanted)).upgrade(run)
            case "portforward":
                return negotiate_port_forward(request).upgrade(forward_all)
    except StreamingError as e:
        return e.answer()
    found = DISCOVERY.get(request.path)
    status = 200 if found else 404
    shown = found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
    return Response(status, [("content-type", "application/json")], json.dumps(shown).encode())


async def execute(arguments: list[str], command: RemoteCommand) -> None:
    """The command on this machine, its streams those of the client."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, stderr=pipe)
    stdin = process.stdin
    assert stdin

    async def feed() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            while command.stdin and (data := await command.stdin.read()):
                stdin.write(data)
                await stdin.drain()
        stdin.close()

    async def show(source: Any, sink: Any) -> None:
        while data := await source.read(1 << 16):
            if sink is not None:
                await sink.write(data)

    feeding = asyncio.create_task(feed())
    await asyncio.gather(show(process.stdout, command.stdout), show(process.stderr, command.stderr))
    if command.tty and command.stdout:
        await command.stdout.write(b"%d columns\r\n" % (await command.resizes.get())[0])
    feeding.cancel()
    await command.exit(await process.wait())


async def forward_all(session: PortForward) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for forwarded in session:
            tasks.create_task(forward(forwarded))


async def forward(forwarded: Forwarded) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.port)
    except OSError as e:
        await forwarded.fail(f"error forwarding port {forwarded.port} to pod p: {e}")
        forwarded.close()
        return

    async def there() -> None:
        while data := await forwarded.read():
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def back() -> None:
        while data := await reader.read(1 << 16):
            await forwarded.write(data)
        forwarded.finish()

    with suppress(ConnectionResetError):
        await asyncio.gather(there(), back())
    writer.close()
    forwarded.close()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    running = await serve(handler)
    yield running
    await running.close()


@pytest.fixture(params=NAMES)
def kubectl(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> list[str]:
    found = next((folder / request.param for folder in CLIENTS if (folder / request.param).exists()), None)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    cache = ["--cache-dir", str(tmp_path), "--kubeconfig", os.devnull]
    return [str(found), *cache, "--server", f"http://127.0.0.1:{server.port}"]


async def call(command: list[str], given: bytes = b"") -> tuple[bytes, bytes, int | None]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(given), 30)
    return out, _RACE.sub(b"", err), process.returncode


# On a busy machine a client may read the server's greeting (empty, as upstream's) before it knows its own streams.
_RACE = re.compile(rb"E.*Unknown stream id 1, discarding message\n")


async def test_output_errors_and_the_exit_code_arrive(kubectl: list[str]) -> None:
    out, err, code = await call([*kubectl, "exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (out, err, code) == (b"out\n", b"err\ncommand terminated with exit code 3\n", 3)


async def test_a_large_stdin_comes_back_and_ends(kubectl: list[str]) -> None:
    data = os.urandom(BIG)
    out, err, code = await call([*kubectl, "exec", "-i", "p", "--", "cat"], data)
    assert (out == data, err, code) == (True, b"", 0)


@asynccontextmanager
async def forwarding(kubectl: list[str], port: int) -> AsyncGenerator[tuple[int, asyncio.subprocess.Process]]:
    """The local port, and the client, which is stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        *kubectl, "port-forward", "p", f":{port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        yield int(line.partition("127.0.0.1:")[2].split()[0]), process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.stdout.read()
        await process.wait()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def there_and_back(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    received = await asyncio.wait_for(reader.read(-1), 30)
    await sending
    writer.close()
    return received


async def test_connections_are_forwarded_beside_each_other(kubectl: list[str]) -> None:
    data = os.urandom(BIG)
    target = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with target, forwarding(kubectl, target.sockets[0].getsockname()[1]) as (port, _):
        received = await asyncio.gather(*(there_and_back(port, data) for _ in range(4)))
    assert [back == data for back in received] == [True] * 4


async def test_a_port_that_nobody_listens_on_is_told(kubectl: list[str]) -> None:
    async with forwarding(kubectl, 1) as (port, process):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        assert process.stdout
        shown = await asyncio.wait_for(process.stdout.readuntil(b"Connect call failed"), 30)
    assert b"error forwarding port 1 to pod p: [Errno 111] Connect call failed" in shown
