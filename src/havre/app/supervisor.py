"""The processes of an instance: started in order, each when the one before it is ready; watched, and started again.

The supervisor imports what its children share and starts no thread and no loop, so that a fork is cheap, safe and
shares memory. All are forked at once: while a child waits for its turn it imports what only it needs. A child that ends
is forked again after a back-off; one that ends before it was ever ready ends the whole start. Children notice that
their supervisor is gone (killed) and stop; the first of them then becomes the supervisor: it runs `havre up` again in
its place. Containers and the datapath do not notice any of this.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from havre.app import background
from havre.app import run as runner
from havre.app.config import Config
from havre.app.errors import StartFailed
from havre.app.parts import Part
from havre.kit.backoff import Backoff

log = logging.getLogger(__name__)

RESTART = Backoff(0.1, 3.0, 30.0)  # seconds between two starts of a process that ended by itself
STEADY = 60.0  # seconds after which an end counts as the first again
STOP_SECONDS = 20.0  # per process: the API server gives running requests 3, the node its calls 10
REFUSED = 78  # exit code of a child whose part could not start: EX_CONFIG of sysexits.h
_FAILURE = "!"  # first character of the line that says why


@dataclass(frozen=True, slots=True)
class Process:
    """Parts that live in one process; the first process of the list can take the supervisor's place."""

    name: str
    parts: tuple[Part, ...]
    preload: tuple[str, ...] = ()  # modules that it needs, and others may share
    own: tuple[str, ...] = ()  # modules that no other needs


@dataclass(slots=True)
class _Child:
    """A process and what is known of its last life."""

    process: Process
    pid: int = 0
    descriptor: int = -1  # pidfd
    pipe: int = -1  # what it says until it is ready
    gate: int = -1  # a byte, and it starts its parts
    said: bytes = b""
    ready: bool = False
    failure: str = ""
    ends: int = 0  # in a row
    since: float = 0.0
    due: float = field(default=0.0)  # when to fork it again

    @property
    def alive(self) -> bool:
        return self.descriptor >= 0


class Supervisor:
    """`run()` returns when everything has stopped after SIGTERM or SIGINT."""

    def __init__(self, processes: Sequence[Process], config: Config, again: Sequence[str]) -> None:
        """`again`: the command line that makes a supervisor like this one."""
        self._children = [_Child(process) for process in processes]
        self._config = config
        self._again = again
        self._poller = select.poll()
        self._stopping = False
        self._wake = (-1, -1)

    def run(self, say: Callable[[str], None], ready: Callable[[], None]) -> None:
        """`say` gets a line per part, `ready` is called once, when all are up. Raises StartFailed."""
        for module in dict.fromkeys(name for child in self._children for name in child.process.preload):
            importlib.import_module(module)
        gc.collect()
        gc.freeze()
        previous = self._listen_for_signals()
        background.write_record(self._config)
        try:
            for child in self._children:
                self._fork(child)
            for child in self._children:
                if not self._first_start(child, say):
                    return
            ready()
            while not self._stopping:
                self._turn(say)
            say("stopping")
        finally:
            self._stop_all()
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            for descriptor in self._wake:
                os.close(descriptor)

    def _listen_for_signals(self) -> dict[signal.Signals, signal._HANDLER]:
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake[1])
        self._poller.register(self._wake[0], select.POLLIN)

        def stop(_number: int, _frame: object) -> None:
            self._stopping = True

        return {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}

    def _first_start(self, child: _Child, say: Callable[[str], None]) -> bool:
        """Whether to go on. Raises StartFailed when the child ends before it is ready."""
        self._open_gate(child)
        while not child.ready and not self._stopping:
            self._turn(say)
            if not child.alive and not child.ready:
                raise StartFailed(child.failure or f"the process {child.process.name} ended before it was ready")
        return not self._stopping

    def _turn(self, say: Callable[[str], None]) -> None:
        """Wait for one thing to happen, and see to it."""
        waiting = [child.due for child in self._children if child.due and not child.alive]
        timeout = max(0.0, min(waiting) - time.monotonic()) * 1000 if waiting else None
        for descriptor, _events in self._poller.poll(timeout):
            if descriptor == self._wake[0]:
                os.read(descriptor, 64)
            for child in self._children:
                if descriptor == child.pipe:
                    self._hear(child, say)
                elif descriptor == child.descriptor:
                    self._ended(child)
        now = time.monotonic()
        for child in self._children:
            if child.due and child.due <= now and not child.alive and not self._stopping:
                self._fork(child)
                self._open_gate(child)

    def _hear(self, child: _Child, say: Callable[[str], None]) -> None:
        data = os.read(child.pipe, 65536)
        if not data:
            self._close_pipe(child)
            return
        *lines, child.said = (child.said + data).split(b"\n")
        for raw in lines:
            line = raw.decode(errors="replace")
            if line.startswith(_FAILURE):
                child.failure = line.removeprefix(_FAILURE)
            elif line:
                say(line)
            else:
                child.ready = True

    def _open_gate(self, child: _Child) -> None:
        if child.gate >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                os.write(child.gate, b"1")
        self._close_gate(child)

    def _close_gate(self, child: _Child) -> None:
        if child.gate >= 0:
            os.close(child.gate)
            child.gate = -1

    def _close_pipe(self, child: _Child) -> None:
        if child.pipe >= 0:
            self._poller.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = -1

    def _ended(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        self._poller.unregister(child.descriptor)
        os.close(child.descriptor)
        child.descriptor = -1
        self._close_gate(child)
        while child.pipe >= 0:  # its last words
            self._hear(child, log.info)
        if self._stopping:
            return
        now = time.monotonic()
        child.ends = 1 if now - child.since > STEADY else child.ends + 1
        child.due = now + RESTART.delay(child.ends - 1)
        why = child.failure or f"status {os.waitstatus_to_exitcode(status)}"
        log.error("process ended", extra={"part": child.process.name, "why": why, "ends": child.ends})

    def _fork(self, child: _Child) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        turn, gate = os.pipe2(os.O_CLOEXEC)
        parent = os.pidfd_open(os.getpid())
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os.close(gate)
            self._close_everything()
            _live(child.process, self._config, write, turn, parent, self._again if child is self._children[0] else ())
        for descriptor in (write, turn, parent):
            os.close(descriptor)
        child.pid, child.pipe, child.gate, child.descriptor = pid, read, gate, os.pidfd_open(pid)
        child.said, child.failure, child.due, child.since = b"", "", 0.0, time.monotonic()
        self._poller.register(child.pipe, select.POLLIN)
        self._poller.register(child.descriptor, select.POLLIN)

    def _close_everything(self) -> None:
        """In the child: what belongs to the supervisor."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for child in self._children:
            for descriptor in (child.pipe, child.gate, child.descriptor):
                if descriptor >= 0:
                    os.close(descriptor)
        for descriptor in self._wake:
            os.close(descriptor)

    def _stop_all(self) -> None:
        """In the reverse order, each when the one that needs it has gone."""
        for child in reversed(self._children):
            if not child.alive:
                continue
            signal.pidfd_send_signal(child.descriptor, signal.SIGTERM)
            poller = select.poll()
            poller.register(child.descriptor, select.POLLIN)
            if not poller.poll(STOP_SECONDS * 1000):
                log.error("process does not stop, killed", extra={"part": child.process.name})
                signal.pidfd_send_signal(child.descriptor, signal.SIGKILL)
            self._stopping = True
            self._ended(child)


def _wait_for_predecessor(config: Config, name: str) -> None:
    """A process that lost its supervisor may still be stopping when its successor starts; the lock ends with us."""
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(config.data_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)


def _wait_for_turn(process: Process, turn: int) -> bool:
    """Get ready meanwhile. False: the supervisor is gone."""
    for module in process.own:
        with contextlib.suppress(ImportError, OSError):  # the part that needs it says what to install
            importlib.import_module(module)
    gc.collect()
    with os.fdopen(turn, "rb") as gate:
        return gate.read(1) != b""


def _live(process: Process, config: Config, pipe: int, turn: int, parent: int, again: Sequence[str]) -> None:
    """The life of a child; never returns."""
    import uvloop

    Path("/proc/self/comm").write_text(f"havre-{process.name}")  # what ps and top show
    code = 1
    with os.fdopen(pipe, "w") as words:

        def say(line: str) -> None:
            if not words.closed:
                print(line, file=words, flush=True)

        def ready() -> None:
            say("")
            words.close()
            gc.freeze()  # what is here now stays: collections need not walk it

        def succeed() -> None:
            background.write_record(config)  # from now on `havre down` speaks to us

        told = True
        try:
            _wait_for_predecessor(config, process.name)
            if not _wait_for_turn(process, turn):
                os._exit(0)
            orphaned = succeed if again else lambda: None
            told = uvloop.run(runner.run(process.parts, config, say, ready, parent=parent, orphaned=orphaned))
            code = 0
        except (StartFailed, OSError) as e:
            say(_FAILURE + " ".join(str(e).split()))
            code = REFUSED
        except BaseException:  # a fork must never run on into the code of its parent
            log.exception("process failed", extra={"part": process.name})
    if again and not told:
        log.warning("the supervisor was killed; this process takes its place")
        os.execv(again[0], list(again))  # noqa: S606  our own program
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
