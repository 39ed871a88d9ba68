"""An instance in the background: start it, know whether it runs, stop it. The record is one small file in the data
directory.

The record names the process by number and birth (start time in clock ticks since boot), so a number that the kernel
gave to another process later is never taken for Havre.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from havre.app.config import Config

START_SECONDS = 60.0  # a start with 100,000 objects on a slow disk takes about 5
STOP_SECONDS = 60.0  # three processes, 20 each at most
_MODULE = ("-m", "havre")


class CannotStart(Exception):
    """The instance ended before it was ready; the message has the last lines of its log."""


class CannotStop(Exception):
    """The instance belongs to another user."""


@dataclass(frozen=True, slots=True)
class Record:
    """The process of an instance."""

    pid: int
    born: int

    def alive(self) -> bool:
        return self.born > 0 and _born(self.pid) == self.born


def _born(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 when there is none (or only its zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *rest = text.rpartition(")")[2].split()
    return 0 if state == "Z" else int(rest[18])


def _file(config: Config) -> Path:
    return config.data_dir / "havre.json"


def log_file(config: Config) -> Path:
    return config.data_dir / "havre.log"


def running(config: Config) -> Record | None:
    """The instance of this data directory, if it runs."""
    try:
        record = Record(**json.loads(_file(config).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    known = isinstance(record.pid, int) and isinstance(record.born, int)
    return record if known and record.alive() else None


def write_record(config: Config) -> None:
    """Called by the instance itself."""
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    pid = os.getpid()
    temporary = _file(config).with_suffix(".new")
    temporary.write_text(json.dumps(asdict(Record(pid, _born(pid)))))
    temporary.replace(_file(config))


def start(config: Config, arguments: Sequence[str], said: Callable[[str], None]) -> Record:
    """Start `havre up ARGUMENTS` detached and return when it is ready. Raises CannotStart."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = log_file(config).open("ab")
    except OSError as e:
        raise CannotStart(f"open {e.filename}: {e.strerror}; choose another --data-dir") from e
    read, write = os.pipe()
    with log:
        process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, *_MODULE, "up", *arguments, "--ready-fd", str(write)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write,),
            start_new_session=True,
        )
    os.close(write)
    ready = _listen(read, said)
    record = running(config)
    if ready and record is not None and record.pid == process.pid:
        return record
    if ready is None:
        process.terminate()
    process.wait(timeout=STOP_SECONDS)
    last = log_file(config).read_text(errors="replace").splitlines()[-5:]
    if ready is None:
        last.append(f"it was not ready within {START_SECONDS:g} seconds and has been stopped")
    raise CannotStart("\n".join(last))


def _listen(descriptor: int, said: Callable[[str], None]) -> bool | None:
    """Hands on what the instance says until it is ready (an empty line): True. False: it ended. None: too late."""
    until = time.monotonic() + START_SECONDS
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    rest = b""
    try:
        while poller.poll(max(0, until - time.monotonic()) * 1000):
            data = os.read(descriptor, 4096)
            if not data:
                return False
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not line:
                    return True
                said(line.decode(errors="replace"))
        return None
    finally:
        os.close(descriptor)


def stop(config: Config) -> bool:
    """End the instance and wait for its end; False when none runs. Raises CannotStop."""
    record = running(config)
    if record is None:
        return False
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return True
    try:
        if not record.alive():  # the number may have gone to another process before we held on to it
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not _ended(descriptor, STOP_SECONDS):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _ended(descriptor, STOP_SECONDS)
    except ProcessLookupError:
        return True
    except PermissionError as e:
        raise CannotStop(f"stop process {record.pid} of {config.data_dir}: it is another user's; try as root") from e
    finally:
        os.close(descriptor)
    return True


def _ended(descriptor: int, seconds: float) -> bool:
    """Waits for the end of a process that is not our child."""
    until = time.monotonic() + seconds
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0, until - time.monotonic()) * 1000))
