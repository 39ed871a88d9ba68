"""`RemoteCommand`: what exec and attach see of the client, whatever it speaks.

    async def run(command: RemoteCommand) -> None:
        async for width, height in …            command.resizes.get()
        data = await command.stdin.read()       b"" when the client closed it, or left
        await command.stdout.write(data)        waits until the client keeps up
        await command.exit(3)                   the last thing said; 0 is success

    SPDY       streams by header `streamType`: error, stdin, stdout, stderr, resize, opened by the client
    WebSocket  channels 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; one empty message at first, to say it is open

The error stream carries the result: from v4 on a `v1.Status` in JSON, with the exit code as a cause; before, a text
when it failed and nothing when it did not. A terminal has no stderr; sizes come only for a terminal, over SPDY from v3.

Source: k8s.io/kubelet, pkg/cri/streaming/remotecommand/{httpstream,websocket}.go; k8s.io/client-go,
tools/remotecommand (what kubectl does).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from havre.wire.http.message import Tunnel
from havre.wire.streaming.channels import Channels
from havre.wire.streaming.spdy import Link, Session, Stream
from havre.wire.streaming.spdy_frames import Reset
from havre.wire.streaming.websocket import Socket

log = logging.getLogger(__name__)

OPEN_SECONDS = 30.0  # for the client to open its streams, as the kubelet waits
SIZES = 8  # sizes that wait for a reader; older ones are dropped, since only the last counts
_SIZE_LIMIT = 1 << 10  # bytes of one size in JSON: {"Width":65535,"Height":65535} is 30
_BY_CHANNEL = ("stdin", "stdout", "stderr", "error", "resize")


class Source(Protocol):
    async def read(self) -> bytes:
        """At least one byte, b"" at the end."""


class Sink(Protocol):
    async def write(self, data: bytes) -> None:
        """Waits until the client keeps up. Raises ConnectionResetError when it has left."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Which streams a command has, as the request for it said."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False

    def names(self, version: int) -> tuple[str, ...]:
        """As the client opens them for this version of the protocol."""
        wanted = {
            "error": True,
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr and not self.tty,
            "resize": self.tty and version >= 3,
        }
        return tuple(name for name, present in wanted.items() if present)


Run = Callable[["RemoteCommand"], Awaitable[None]]
_End = Callable[[bytes], Awaitable[None]]


class RemoteCommand:
    """One exec or attach: streams that the client did not ask for are None."""

    def __init__(
        self,
        streams: Streams,
        *,
        stdin: Source | None,
        stdout: Sink | None,
        stderr: Sink | None,
        end: _End,
        version: int,
        closed: asyncio.Event,
    ) -> None:
        self.tty = streams.tty
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.resizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue(SIZES)  # (width, height) in characters
        self.closed = closed  # set when the client has left: nothing written from now on arrives
        self._end = end
        self._version = version
        self._ended = False

    async def exit(self, result: int | Mapping[str, Any]) -> None:
        """Tell the exit code, or a whole Status; the streams end with it. Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        status = exited(result) if isinstance(result, int) else result
        try:
            await self._end(_encoded(status, self._version))
        except ConnectionResetError:
            log.debug("a client left before the result of its command")

    async def fail(self, message: str) -> None:
        """Tell that there is no exit code, and why."""
        await self.exit(failed(message))

    def resized(self, width: int, height: int) -> None:
        if self.resizes.full():
            self.resizes.get_nowait()
        self.resizes.put_nowait((width, height))


def exited(code: int) -> dict[str, Any]:
    """The Status of a command that ended by itself."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failed(message: str) -> dict[str, Any]:
    """The Status of a command that could not be run or followed to its end."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


def _encoded(status: Mapping[str, Any], version: int) -> bytes:
    if version >= 4:
        return json.dumps(status, separators=(",", ":")).encode()
    return b"" if status.get("status") == "Success" else str(status.get("message", "")).encode()


# SPDY


async def serve_spdy(link: Link, streams: Streams, version: int, run: Run) -> None:
    """Run the command for a client that opens its streams over SPDY."""
    opening = _Opening(streams.names(version))
    session = Session(link, opening.accept)
    async with beside(session.run()) as reader:
        opened = await _opened(opening, reader)
        if opened is None:
            await session.leave()
            return

        async def end(result: bytes) -> None:
            for name in ("stdout", "stderr"):
                if stream := opened.get(name):
                    stream.finish()
            if result:
                await opened["error"].write(result)
            opened["error"].finish()

        command = RemoteCommand(
            streams,
            stdin=opened.get("stdin"),
            stdout=opened.get("stdout"),
            stderr=opened.get("stderr"),
            end=end,
            version=version,
            closed=session.closed,
        )
        async with _sizes(command, opened.get("resize")):
            await _run(command, run)
        if stdin := opened.get("stdin"):
            stdin.reset()
        await session.leave()


class _Opening:
    """Collects the streams that the client opens, by their type."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._missing = set(names)
        self.streams: dict[str, Stream] = {}
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def accept(self, stream: Stream) -> None:
        name = stream.headers.get("streamtype", "")
        if name not in self._missing:
            stream.reset(Reset.REFUSED_STREAM)
            return
        self._missing.discard(name)
        self.streams[name] = stream
        stream.reply()
        if not self._missing and not self.complete.done():
            self.complete.set_result(None)


async def _opened(opening: _Opening, reader: asyncio.Task[None]) -> dict[str, Stream] | None:
    """None when the client did not open them in time, or left."""
    await asyncio.wait({opening.complete, reader}, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if opening.complete.done():
        return opening.streams
    log.info("a client did not open its streams", extra={"opened": sorted(opening.streams)})
    return None


# WebSocket


async def serve_websocket(tunnel: Tunnel, streams: Streams, version: int, run: Run, *, text: bool) -> None:
    """Run the command for a client that uses numbered channels."""
    names = streams.names(max(version, 3))  # sizes come in every version here
    numbers = {name: number for number, name in enumerate(_BY_CHANNEL) if name in names}
    inputs = tuple(numbers[name] for name in ("stdin", "resize") if name in numbers)
    channels = Channels(Socket(tunnel), inputs, text=text, closable=version >= 5)

    def sink(name: str) -> Sink | None:
        return _Channel(channels, numbers[name]) if name in numbers else None

    async def end(result: bytes) -> None:
        if result:
            await channels.write(numbers["error"], result)

    command = RemoteCommand(
        streams,
        stdin=channels.inputs.get(0),
        stdout=sink("stdout"),
        stderr=sink("stderr"),
        end=end,
        version=version,
        closed=channels.socket.closed,
    )
    async with beside(channels.run()):
        try:
            await channels.write(min(number for name, number in numbers.items() if name in _BY_CHANNEL[1:4]), b"")
        except ConnectionResetError:
            return
        async with _sizes(command, channels.inputs.get(4)):
            await _run(command, run)
        await channels.leave()


@dataclass(frozen=True, slots=True)
class _Channel:
    channels: Channels
    number: int

    async def write(self, data: bytes) -> None:
        if data:
            await self.channels.write(self.number, data)


# both


async def _run(command: RemoteCommand, run: Run) -> None:
    try:
        await run(command)
    except ConnectionResetError:
        log.debug("a client left its command")
    finally:
        await command.fail("the command was given up; the log of the node says why")


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[asyncio.Task[None]]:
    """A task that lives as long as the block."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


@asynccontextmanager
async def _sizes(command: RemoteCommand, source: Source | None) -> AsyncGenerator[None]:
    """Sizes of the terminal go to the command while the block runs."""
    if source is None:
        yield
        return
    async with beside(_follow_sizes(command, source)):
        yield


async def _follow_sizes(command: RemoteCommand, source: Source) -> None:
    """Go's encoder writes one JSON object after another; they need not arrive one by one."""
    pending = ""
    while data := await source.read():
        pending += data.decode(errors="replace")
        sizes, pending = sizes_of(pending)
        for width, height in sizes:
            command.resized(width, height)
        if len(pending) > _SIZE_LIMIT:
            log.info("a client sent terminal sizes that are none")
            return


def sizes_of(text: str) -> tuple[list[tuple[int, int]], str]:
    """All whole sizes at the beginning of `text`, and what follows them."""
    decoder, found = json.JSONDecoder(), []
    text = text.lstrip()
    while text:
        try:
            size, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            break
        if isinstance(size, dict):
            width, height = size.get("Width"), size.get("Height")
            if isinstance(width, int) and isinstance(height, int) and 0 <= width < 65536 and 0 <= height < 65536:
                found.append((width, height))
        text = text[end:].lstrip()
    return found, text
