"""conmon: the small process above each container that outlives us, writes its log and keeps its exit code.

    directory/            what conmon calls the bundle; all of it is found again after a crash
      config.json         the runtime specification
      pidfile             id of the container's first process        monitor.pid   id of conmon
      exit/<id>           exit code, written when the container has ended; its time is the time of the end
      attach              socket: frames of output (2 stdout, 3 stderr), input        ctl   resize, reopen the log

conmon ends after it has written the exit code and all of the log: its end is what we wait for. If it ends without an
exit code it was killed, and nobody reads the container's output any more.

Source: conmon 2.1.6, src/{conmon,cli,ctr_logging,conn_sock,ctrl}.c; how CRI-O calls it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from havre.lang import json
from havre.node.runtime.cgroups import Cgroups
from havre.node.runtime.config import Config
from havre.node.runtime.errors import Failed, Unsupported
from havre.node.runtime.oci_runtime import OciRuntime
from havre.node.runtime.processes import Process

__all__ = ["Exit", "Launch", "Monitor", "Started", "exited", "reopen_log", "resize"]

CREATE_SECONDS = 120.0  # 20–50 ms here; a machine that pages heavily has needed many seconds
MESSAGE = 64 * 1024  # bytes of the answer about the creation
EXIT_LIMIT = 32  # bytes of an exit file: a number
UNREADABLE = 255  # exit code when the file holds no number


@dataclass(frozen=True, slots=True)
class Launch:
    """One container to make from `directory/config.json`."""

    id: str
    name: str
    directory: Path
    cgroup: str
    log: Path | None
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The two processes of a container that was created and not yet started."""

    init: Process
    monitor: Process


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended."""

    code: int  # 128 + signal for a death by signal
    at: int  # nanoseconds since 1970


@dataclass(frozen=True, slots=True)
class Monitor:
    """The conmon of this machine."""

    program: str
    runtime: OciRuntime
    cgroups: Cgroups
    cgroup: str  # where all monitors live: outside of every pod's limits, and outside of our own service

    @classmethod
    def find(cls, config: Config, runtime: OciRuntime, cgroups: Cgroups) -> Monitor:
        """Raises Unsupported when conmon is not installed."""
        program = shutil.which(config.conmon)
        if program is None:
            raise Unsupported(f"{config.conmon} is not installed; containers cannot run without it")
        return cls(program, runtime, cgroups, f"{config.cgroup}/monitors")

    def create(self, launch: Launch) -> Started:
        """Make the container; its first process waits for `start`. Blocks. Raises Failed with the runtime's words."""
        (launch.directory / "exit").mkdir(exist_ok=True)
        if launch.log is not None:
            launch.log.parent.mkdir(parents=True, exist_ok=True)
        self.cgroups.make_v2(launch.cgroup)
        answer_in, answer_out = os.pipe()
        try:
            child = self._spawn(launch, answer_out)
            os.close(answer_out)
            answer_out = -1
            answer = _read_line(answer_in, time.monotonic() + CREATE_SECONDS)
            child.wait(CREATE_SECONDS)  # it forks the real monitor and ends
        except subprocess.TimeoutExpired as error:
            raise Failed(f"create container {launch.id}: conmon did not detach") from error
        finally:
            for fd in (answer_in, answer_out):
                if fd >= 0:
                    os.close(fd)
        return self._started(launch, answer)

    def _spawn(self, launch: Launch, answer: int) -> subprocess.Popen[bytes]:
        environment = self.runtime.environment(launch.cgroup) | {"_OCI_SYNCPIPE": str(answer)}
        with (launch.directory / "monitor.log").open("wb") as errors:
            return subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                self._command(launch),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(answer,),
                env=environment,
                cwd=launch.directory,
                start_new_session=True,  # Ctrl-C at our terminal is not for containers
            )

    def adopt(self, monitor: Process) -> None:
        """Move a conmon to where all of them live."""
        with contextlib.suppress(OSError):  # it has ended already
            self.cgroups.join(self.cgroup, monitor.pid, limited=False)

    def _command(self, launch: Launch) -> list[str]:
        directory = launch.directory
        command = [self.program, "--api-version=1", f"--cid={launch.id}", f"--cuuid={launch.id}"]
        command += [f"--name={launch.name}", f"--runtime={self.runtime.program}", f"--bundle={directory}"]
        command += [f"--runtime-arg=--root={self.runtime.state}", f"--container-pidfile={directory / 'pidfile'}"]
        command += [f"--conmon-pidfile={directory / 'monitor.pid'}", f"--exit-dir={directory / 'exit'}"]
        command += ["--full-attach", f"--socket-dir-path={directory}", "--no-new-keyring"]
        command.append(f"--log-path=k8s-file:{launch.log}" if launch.log is not None else "--log-path=none")
        command += ["--terminal"] if launch.terminal else []
        if launch.stdin:
            command += ["--stdin"] if launch.stdin_once else ["--stdin", "--leave-stdin-open"]
        return command

    def _started(self, launch: Launch, answer: bytes) -> Started:
        what = f"create container {launch.id}"
        try:
            said = json.loads(answer)
            pid, message = int(said["data"]), str(said.get("message", ""))
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"{what}: conmon said {answer[:200]!r}; {_tail(launch.directory / 'monitor.log')}") from error
        if pid <= 0:
            raise Failed(f"{what}: {message.strip() or _tail(launch.directory / 'monitor.log')}")
        init = Process.of(pid) or Process(pid, 0)  # a corpse already: the exit file will say
        monitor = Process.of(_number(launch.directory / "monitor.pid")) or Process(0, 0)
        return Started(init, monitor)


def _read_line(fd: int, deadline: float) -> bytes:
    """Up to the first line feed. Not up to the end: the container's first process holds the other end as well."""
    data = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while b"\n" not in data and len(data) < MESSAGE:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Failed(f"conmon: no answer within {CREATE_SECONDS:.0f} s")
        piece = os.read(fd, MESSAGE)
        if not piece:
            break
        data += piece
    return data


def _number(path: Path) -> int:
    try:
        return int(path.read_bytes()[:EXIT_LIMIT])
    except (FileNotFoundError, ValueError):
        return 0


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-2000:].decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""


# What is found in the directory later


def exited(directory: Path, container: str) -> Exit | None:
    """How the container ended; None while conmon has not said so."""
    path = directory / "exit" / container
    try:
        text, at = path.read_bytes()[:EXIT_LIMIT], path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        return Exit(int(text), at)
    except ValueError:
        return Exit(UNREADABLE, at)


def left_behind(directory: Path) -> Sequence[Process]:
    """The processes whose ids are in the files of `directory`, as far as they are a conmon of it or its container."""
    found = []
    for name in ("monitor.pid", "pidfile"):
        process = Process.of(_number(directory / name))
        if process is not None and _belongs(process, directory):
            found.append(process)
    return found


def _belongs(process: Process, directory: Path) -> bool:
    """conmon has the directory among its arguments; its child is the container (an id in a file may be old)."""
    return any(os.fsencode(directory) in _arguments(pid) for pid in (process.pid, _parent(process.pid)))


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def resize(directory: Path, width: int, height: int) -> None:
    """Tell a container with a terminal how large it is."""
    _control(directory, f"1 {height} {width}\n")


def reopen_log(directory: Path) -> None:
    """Make conmon write to a new file under the log's name, after it was rotated."""
    _control(directory, "2 0 0\n")


def _control(directory: Path, line: str) -> None:
    try:
        fd = os.open(directory / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:  # ENXIO: nobody reads
        raise Failed(f"control of {directory.name}: its monitor is gone") from error
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
