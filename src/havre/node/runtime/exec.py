"""Commands run inside a container that runs: ExecSync, and the streams of Exec and Attach.

The OCI runtime's `exec` is our child and hands its standard streams to the command, so nothing is copied on the way to
it. With a terminal it copies between ours and the one it makes inside. A command that runs out of time, or whose client
left, is killed with all that it started (upstream kills one process and leaves its children behind).

Attach speaks to conmon's socket: frames of output come, input goes.

Source: CRI ExecSync, Exec, Attach; conmon src/conn_sock.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import secrets
import signal
import socket
import struct
import termios
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from havre.lang import json
from havre.node.runtime import monitor
from havre.node.runtime.containers import Container
from havre.node.runtime.descriptors import Descriptor
from havre.node.runtime.errors import Failed, Precondition, TimedOut
from havre.node.runtime.files import write
from havre.node.runtime.host import Host
from havre.node.runtime.spec import process_for_exec
from havre.wire.streaming.remotecommand import RemoteCommand

__all__ = ["OUTPUT_LIMIT", "Output", "attach", "run", "stream"]

OUTPUT_LIMIT = 16 * 1024 * 1024 - 4096  # bytes of both streams: with its frame, the largest message gRPC clients take
DRAIN_SECONDS = 1.0  # for output after the command's end, when something it started still holds the stream
_STDOUT, _STDERR = 2, 3  # first byte of a packet from conmon


@dataclass(frozen=True, slots=True)
class Output:
    """What a command said and how it ended."""

    stdout: bytes
    stderr: bytes
    code: int


@dataclass(frozen=True, slots=True)
class _Exec:
    """The runtime's `exec`, running."""

    child: asyncio.subprocess.Process
    spec: Path
    pid_file: Path
    log: Path

    def kill(self) -> None:
        """The command and all its descendants, then the runtime. Blocks for as long as /proc takes."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            for pid in _family(int(self.pid_file.read_text())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(signal.SIGKILL)

    def refused(self) -> str:
        """Why the runtime did not start the command; "" when it did."""
        try:
            lines = self.log.read_bytes()[-8192:].decode("utf-8", "replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return "; ".join(_message(line) for line in lines if '"error"' in line or "error" in line.lower())


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["msg"])
    except (ValueError, KeyError, TypeError):
        return line


def _family(pid: int) -> list[int]:
    """A process and its descendants, parents first."""
    found, waiting = [], [pid]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


@contextlib.asynccontextmanager
async def _started(
    host: Host, container: Container, command: Sequence[str], *, terminal: bool, streams: tuple[int, int, int]
) -> AsyncIterator[_Exec]:
    """Run the command with these descriptors as its standard streams, which are closed here; killed when the block is
    left early.

    asyncio gets no pipes of its own: it would wait for their end, and so for whatever the command left behind.
    """
    try:
        running = await _spawn(host, container, command, terminal, streams)
    finally:
        for fd in {fd for fd in streams if fd >= 0}:
            os.close(fd)
    try:
        yield running
    finally:
        if running.child.returncode is None:
            await host.blocking(running.kill)
            await running.child.wait()
        for path in (running.spec, running.pid_file, running.log):
            path.unlink(missing_ok=True)


async def _spawn(
    host: Host,
    container: Container,
    command: Sequence[str],
    terminal: bool,
    streams: tuple[int, int, int],
) -> _Exec:
    name = secrets.token_hex(8)
    spec, pid_file, log = (host.config.execs / f"{name}.{kind}" for kind in ("json", "pid", "log"))
    try:
        await host.blocking(_write_process, container.directory, spec, command, terminal)
    except OSError as error:
        raise Failed(f"exec in container {container.id}: write {spec}: {error.strerror}") from error
    runtime = host.runtime_of(container.id)
    child = await asyncio.create_subprocess_exec(
        *runtime.command("--log", str(log), "--log-format=json", "exec", "--process", str(spec)),
        "--pid-file",
        str(pid_file),
        container.id,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        env=runtime.environment(container.record.cgroup),
        start_new_session=True,
    )
    return _Exec(child, spec, pid_file, log)


def _write_process(directory: Path, path: Path, command: Sequence[str], terminal: bool) -> None:
    process = json.loads((directory / "config.json").read_bytes())["process"]
    write(path, json.dumps(process_for_exec(process, command, terminal=terminal)), durable=False)


def _checked(container: Container) -> None:
    if not container.running:
        raise Precondition(f"exec in container {container.id}: it is {container.record.state.value}, not running")


# ExecSync


async def run(host: Host, container: Container, command: Sequence[str], timeout: float) -> Output:
    """The whole output, up to OUTPUT_LIMIT; what is more is read and dropped. `timeout` 0 is none.

    Raises Precondition, TimedOut (the command is killed) or Failed (it could not be started).
    """
    _checked(container)
    out, err = bytearray(), bytearray()
    budget = [OUTPUT_LIMIT]
    with _reading() as (stdout, to_stdout), _reading() as (stderr, to_stderr):
        streams = (DEVNULL, to_stdout, to_stderr)
        async with _started(host, container, command, terminal=False, streams=streams) as running:
            readers = [
                asyncio.create_task(_collect(stdout, out, budget)),
                asyncio.create_task(_collect(stderr, err, budget)),
            ]
            try:
                async with asyncio.timeout(timeout or None):
                    await running.child.wait()
            except TimeoutError:
                raise TimedOut(f"exec in container {container.id}: no end within {timeout:g} s; killed") from None
            finally:
                await _drain(readers)
            code = await _result(host, container, running)
    return Output(bytes(out), bytes(err), code)


@contextlib.contextmanager
def _reading() -> Iterator[tuple[Descriptor, int]]:
    """A pipe: our end, and the descriptor for the command, which `_started` closes."""
    ours, theirs = os.pipe()
    reader = Descriptor(ours)
    try:
        yield reader, theirs
    finally:
        reader.close()


@contextlib.contextmanager
def _writing() -> Iterator[tuple[int, Descriptor]]:
    theirs, ours = os.pipe()
    writer = Descriptor(ours)
    try:
        yield theirs, writer
    finally:
        writer.close()


async def _collect(stream: Descriptor, into: bytearray, budget: list[int]) -> None:
    while data := await stream.read():
        taken = data[: budget[0]]
        budget[0] -= len(taken)
        into += taken


async def _drain(readers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for the end of the streams, but not for ever."""
    await asyncio.wait(readers, timeout=DRAIN_SECONDS)
    for reader in readers:
        reader.cancel()
    for result in await asyncio.gather(*readers, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ConnectionResetError | BrokenPipeError):
            raise result


def _code(code: int) -> int:
    """A runtime that was itself killed ends with minus the signal."""
    return code if code >= 0 else 128 - code


# Exec


async def stream(host: Host, container: Container, command: Sequence[str], remote: RemoteCommand) -> None:
    """Run a command for a client, and tell it the exit code."""
    try:
        _checked(container)
        code = await (_with_terminal if remote.tty else _with_pipes)(host, container, command, remote)
    except (Failed, Precondition) as error:
        await remote.fail(str(error))
    else:
        await remote.exit(code)


async def _with_pipes(host: Host, container: Container, command: Sequence[str], remote: RemoteCommand) -> int:
    with contextlib.ExitStack() as pipes:
        stdin, feed = pipes.enter_context(_writing()) if remote.stdin is not None else (DEVNULL, None)
        sources, outputs = [], []
        for sink in (remote.stdout, remote.stderr):
            source, theirs = pipes.enter_context(_reading()) if sink is not None else (None, DEVNULL)
            outputs.append(theirs)
            if source is not None and sink is not None:
                sources.append((source, sink))
        streams = (stdin, outputs[0], outputs[1])
        async with _started(host, container, command, terminal=False, streams=streams) as running:
            readers = [asyncio.create_task(_forward(source.read, sink.write)) for source, sink in sources]
            feeders = [asyncio.create_task(_feed(remote, feed))] if feed is not None else []
            try:
                await _end_or_leave(running, remote)
            finally:
                await _cancel(feeders)
                await _drain(readers)
            return await _result(host, container, running)


async def _feed(remote: RemoteCommand, sink: Descriptor) -> None:
    """Input of the client, until it closes it; a command that does not read it is no error."""
    assert remote.stdin is not None
    await _forward(remote.stdin.read, sink.write)
    sink.close()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _end_or_leave(running: _Exec, remote: RemoteCommand) -> None:
    """Until the command ends; a client that leaves takes it along. Raises ConnectionResetError then."""
    ended, left = asyncio.create_task(running.child.wait()), asyncio.create_task(remote.closed.wait())
    try:
        await asyncio.wait({ended, left}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            raise ConnectionResetError("the client left its command")
    finally:
        for task in (ended, left):
            task.cancel()
        await asyncio.gather(ended, left, return_exceptions=True)


async def _result(host: Host, container: Container, running: _Exec) -> int:
    code = running.child.returncode or 0
    if code != 0 and (why := await host.blocking(running.refused)):
        raise Failed(f"exec in container {container.id}: {why}")
    return _code(code)


async def _with_terminal(host: Host, container: Container, command: Sequence[str], remote: RemoteCommand) -> int:
    ours, theirs = pty.openpty()
    master = Descriptor(ours)
    with contextlib.closing(master):
        streams = (theirs, theirs, theirs)
        async with _started(host, container, command, terminal=True, streams=streams) as running:
            tasks = [asyncio.create_task(_sizes(remote, lambda w, h: _resize(ours, running.child, w, h)))]
            if remote.stdin is not None:
                tasks.append(asyncio.create_task(_forward(remote.stdin.read, master.write)))
            reader = asyncio.create_task(_forward(master.read, remote.stdout.write if remote.stdout else _nowhere))
            try:
                await _end_or_leave(running, remote)
            finally:
                await _cancel(tasks)
                await _drain([reader])
            return await _result(host, container, running)


async def _forward(read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], Awaitable[None]]) -> None:
    with contextlib.suppress(ConnectionResetError):
        while data := await read():
            await write(data)


async def _nowhere(data: bytes) -> None:
    """A stream that the client did not ask for."""


async def _sizes(remote: RemoteCommand, resize: Callable[[int, int], None]) -> None:
    while True:
        resize(*await remote.resizes.get())


def _resize(master: int, child: asyncio.subprocess.Process, width: int, height: int) -> None:
    """The runtime copies the size to the terminal inside when it is told; it is not the terminal's foreground group."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGWINCH)


# Attach


async def attach(container: Container, remote: RemoteCommand) -> None:
    """Connect a client to the first process of a container, until that ends or the client leaves."""
    try:
        _checked(container)
        connection = _connect(container.directory)
    except (Failed, Precondition) as error:
        await remote.fail(str(error))
        return
    packets = Descriptor(connection.detach())
    tasks = [asyncio.create_task(_sizes(remote, lambda w, h: monitor.resize(container.directory, w, h)))]
    if remote.stdin is not None and container.record.config.stdin:
        tasks.append(asyncio.create_task(_forward(remote.stdin.read, packets.write)))
    output = asyncio.create_task(_unpack(packets, remote))
    left = asyncio.create_task(remote.closed.wait())
    try:
        await asyncio.wait({output, left}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel([*tasks, output])
        left.cancel()
        packets.close()
    await remote.exit(0)


def _connect(directory: Path) -> socket.socket:
    """conmon's socket. Its path may be longer than an address can be, hence the detour over the directory."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    base = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{base}/attach")
    except OSError as error:
        connection.close()
        raise Failed(f"attach to container {directory.name}: {error.strerror}") from error
    finally:
        os.close(base)
    return connection


async def _unpack(packets: Descriptor, remote: RemoteCommand) -> None:
    while packet := await packets.read():
        sink = {_STDOUT: remote.stdout, _STDERR: remote.stderr}.get(packet[0])
        if sink is not None:
            await sink.write(packet[1:])
