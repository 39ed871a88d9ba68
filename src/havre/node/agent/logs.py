"""What `kubectl logs` shows: the log file of a container in CRI's format, cut, filtered and followed.

    2016-10-06T00:17:09.669794202Z stdout P half a li
    2016-10-06T00:17:09.669794203Z stdout F ne

A `P` line is the beginning of a longer one, which is shown in one piece. As with a kubelet only the newest file is
read; one that is followed is followed across rotation, by its directory's inotify events and by a look every second.
Reading and filtering run in threads, a piece at a time.

Source: k8s.io/cri-client, pkg/logs/logs.go; k8s.io/kubernetes, pkg/kubelet/kubelet_pods.go, pkg/apis/core/validation.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from havre.api.meta import Obj

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PIECE: Final = 256 << 10  # bytes read and filtered at a time: a millisecond of a thread
LINE: Final = 1 << 20  # bytes of a line of the file; runtimes write at most 16 KiB
LOOK: Final = 1.0  # seconds between two looks at the container of a log that is followed
_ALL, _STREAMS = "All", {"All": (b"stdout", b"stderr"), "Stdout": (b"stdout",), "Stderr": (b"stderr",)}
_WATCHED: Final = 0x2 | 0x40 | 0x80 | 0x100 | 0x200  # IN_MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE
_PREFIX: Final = "containerd://"


class LogError(Exception):
    """A request for logs that cannot be answered, with its HTTP status and the kubelet's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Options:
    """What of a log is wanted; None is without limit."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None  # lines
    since: datetime | None = None
    limit: int | None = None  # bytes
    streams: tuple[bytes, ...] = _STREAMS[_ALL]

    @classmethod
    def of(cls, query: Mapping[str, Sequence[str]], now: datetime) -> Options:
        """Of the query of `/containerLogs`. Raises LogError."""
        tail = query.get("tail", [""])[0] or query.get("tailLines", [""])[0]
        lines = None if tail == "all" else _number(tail)
        limit, seconds = _number(query.get("limitBytes", [""])[0]), _number(query.get("sinceSeconds", [""])[0])
        stream, since = query.get("stream", [_ALL])[0], _time(query.get("sinceTime", [""])[0])
        wrong = (
            (lines is not None and lines < 0)
            or (limit is not None and limit < 1)
            or (seconds is not None and (seconds < 1 or since is not None))
            or stream not in _STREAMS
            or (lines is not None and stream != _ALL)
        )
        if wrong:
            raise LogError(422, '{"message": "Invalid request."}')
        if seconds is not None:
            since = now - timedelta(seconds=min(seconds, 1 << 31))
        flags = {name: _flag(query.get(name, [""])[0]) for name in ("follow", "previous", "timestamps")}
        return cls(**flags, tail=lines, since=since, limit=limit, streams=_STREAMS[stream])


def _number(text: str) -> int | None:
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise _undecodable()
    return int(text)


def _flag(text: str) -> bool:
    """As Go reads one of a query: there without a value, it is set."""
    return text not in ("", "false", "0", "f", "F", "FALSE", "False")


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise _undecodable() from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _undecodable() -> LogError:
    return LogError(400, '{"message": "Unable to decode query."}')


# which container


def container_id(pod: Obj, name: str, *, previous: bool) -> str:
    """The id of the container whose log is meant. Raises LogError in the kubelet's words."""
    pod_name = pod["metadata"]["name"]
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    names = [
        c["name"] for kind in ("containers", "initContainers", "ephemeralContainers") for c in spec.get(kind) or ()
    ]
    if name not in names:
        raise LogError(404, f'container "{name}" not found in pod "{pod_name}"')
    kinds = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
    found = next((s for kind in kinds for s in status.get(kind) or () if s["name"] == name), None)
    if found is None:
        raise LogError(400, f'container "{name}" in pod "{pod_name}" is not available')
    if previous:
        before = (found.get("lastState") or {}).get("terminated") or {}
        if not before.get("containerID"):
            raise LogError(400, f'previous terminated container "{name}" in pod "{pod_name}" not found')
        return str(before["containerID"]).removeprefix(_PREFIX)
    return _current(found, f'container "{name}" in pod "{pod_name}"')


def _current(status: Obj, who: str) -> str:
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated") or {}
    if "running" in state:
        return str(status.get("containerID", "")).removeprefix(_PREFIX)
    ended = state.get("terminated")
    if ended is not None or last:
        if found := (ended or {}).get("containerID") or last.get("containerID"):
            return str(found).removeprefix(_PREFIX)
        raise LogError(400, f"{who} is terminated")
    reason = (state.get("waiting") or {}).get("reason")
    why = {
        None: " - no logs yet",
        "ErrImagePull": ": image can't be pulled",
        "ImagePullBackOff": ": trying and failing to pull image",
    }.get(reason, f": {reason}")
    raise LogError(400, f"{who} is waiting to start{why}")


# lines


class Filter:
    """Lines of the file in, what is shown out. Pure."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._left = options.limit
        self._lines = options.tail if options.tail is not None and not options.follow else None
        self._begins = True  # the next content begins a line that is shown
        self._rest = b""
        self._too_long = False
        self.done = options.limit == 0 or self._lines == 0

    def feed(self, data: bytes) -> bytes:
        """What these bytes of the file add; an unfinished line waits for its end."""
        *whole, rest = (self._rest + data).split(b"\n")
        if self._too_long and whole:
            whole, self._too_long = whole[1:], False
        shown = b"".join(filter(None, map(self._show, whole)))
        self._rest = rest
        if len(rest) > LINE:
            self._rest, self._too_long = b"", True
        return shown

    def end(self) -> bytes:
        """What an unfinished last line adds."""
        rest, self._rest = self._rest, b""
        return self._show(rest, newline=b"") if rest and not self._too_long else b""

    def _show(self, line: bytes, newline: bytes = b"\n") -> bytes:
        if self.done:
            return b""
        parts = line.split(b" ", 3)
        if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr") or (stamp := moment(parts[0])) is None:
            return b""  # half a line after a crash of the machine, or no line of CRI at all
        if self._lines is not None:
            self._lines -= 1
        partial = parts[2].split(b":", 1)[0] == b"P"
        content = parts[3] if partial else parts[3] + newline
        before, self._begins = self._begins, not partial
        self.done = self._lines == 0
        if parts[1] not in self._options.streams or (self._options.since and stamp < self._options.since):
            return b""
        if self._options.timestamps and before:
            content = nanoseconds(parts[0]) + b" " + content
        if self._left is not None:
            content = content[: self._left]
            self._left -= len(content)
            self.done = self.done or self._left <= 0
        return content


def moment(stamp: bytes) -> datetime | None:
    """To the microsecond; None for what is no time."""
    try:
        found = datetime.fromisoformat(stamp.decode())
    except (ValueError, UnicodeDecodeError):
        return None
    return found if found.tzinfo else None


def nanoseconds(stamp: bytes) -> bytes:
    """The same time with nine digits of a second, as kubectl shows it: `2016-10-06T00:17:09.100000000Z`."""
    zone = b"Z" if stamp.endswith((b"Z", b"+00:00", b"-00:00")) else stamp[-6:]
    plain = stamp.removesuffix(b"Z") if stamp.endswith(b"Z") else stamp[:-6]
    seconds, _, fraction = plain.partition(b".")
    return seconds + b"." + fraction[:9].ljust(9, b"0") + zone


# the file

Pieces = AsyncGenerator[bytes, None]


async def read(path: Path, options: Options, running: Callable[[], Awaitable[bool]]) -> Pieces:
    """What the options ask of the log at `path`; one that is followed ends when the container has. Raises OSError."""
    shown = Filter(options)
    file = await _in_thread(_open, path, options.tail)
    try:
        if not options.follow:
            async for data in _rest(file, shown):
                yield data
            if data := shown.end():
                yield data
            return
        with _watch(path.parent) as changed:
            ended, look = False, True
            while True:
                async for data in _rest(file, shown):
                    yield data
                if newer := await _in_thread(_newer, path, file):
                    async for data in _rest(file, shown):  # written before the new one was there
                        yield data
                    if data := shown.end():
                        yield data
                    os.close(file)
                    file = newer
                elif shown.done or ended:
                    return
                elif look and not await running():
                    ended = True  # what it wrote last is read once more
                else:
                    look = not await changed()
    finally:
        os.close(file)


async def _in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Cancelled, it waits for the thread: the file may not be closed under its hands."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


async def _rest(file: int, shown: Filter) -> Pieces:
    """From where the file was read last to its end."""
    while not shown.done:
        count, data = await _in_thread(_piece, file, shown)
        if data:
            yield data
        if not count:
            return


def _piece(file: int, shown: Filter) -> tuple[int, bytes]:
    data = os.read(file, PIECE)
    return len(data), shown.feed(data)


def _open(path: Path, tail: int | None) -> int:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if tail is not None:
            os.lseek(file, start_of_tail(file, tail), os.SEEK_SET)
    except OSError:
        os.close(file)
        raise
    return file


def start_of_tail(file: int, lines: int) -> int:
    """Where the last `lines` lines begin; one without an end counts."""
    at = size = os.fstat(file).st_size
    if not lines:
        return size
    wanted = lines
    while at > 0:
        begin = max(0, at - PIECE)
        data = os.pread(file, at - begin, begin)
        if at == size and data.endswith(b"\n"):
            wanted += 1
        end = len(data)
        while (found := data.rfind(b"\n", 0, end)) >= 0:
            wanted -= 1
            if not wanted:
                return begin + found + 1
            end = found
        at = begin
    return 0


def _newer(path: Path, file: int) -> int | None:
    """The file that has taken the path's name, or the same one again if it was cut; None when nothing changed."""
    old = os.fstat(file)
    try:
        now = os.stat(path)  # noqa: PTH116 - runs often
        if now.st_ino == old.st_ino and now.st_size >= os.lseek(file, 0, os.SEEK_CUR):
            return None
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


@contextmanager
def _watch(folder: Path) -> Iterator[Callable[[], Awaitable[bool]]]:
    """A wait until something in the folder changes: False after `LOOK` seconds without.

    The kernel gives each user 128 inotify instances at first; without one, changes are seen by the look alone.
    """
    loop, happened = asyncio.get_running_loop(), asyncio.Event()
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watcher >= 0 and libc.inotify_add_watch(watcher, bytes(folder), _WATCHED) < 0:
        os.close(watcher)
        watcher = -1

    def drain() -> None:
        os.read(watcher, 64 << 10)
        happened.set()

    async def changed() -> bool:
        try:
            async with asyncio.timeout(LOOK):
                await happened.wait()
        except TimeoutError:
            return False
        happened.clear()
        return True

    if watcher < 0:
        log.info("logs are followed without inotify", extra={"folder": str(folder), "errno": ctypes.get_errno()})
        yield changed
        return
    happened.set()  # what was written between the last read and the watch
    loop.add_reader(watcher, drain)
    try:
        yield changed
    finally:
        loop.remove_reader(watcher)
        os.close(watcher)
