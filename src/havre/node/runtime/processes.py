"""Processes that are not our children: named by id and start time, waited for through descriptors.

Conmon and the containers outlive us; after a restart only numbers in a file are left, and numbers are used again. A
process is itself only if its start time is the one that was written down.

Source: pidfd_open(2), proc(5) /proc/<pid>/stat field 22.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "Watch"]


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this boot."""

    pid: int
    started: int  # clock ticks after boot

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this id now; None when there is none, or only its corpse."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(") ")[2].split()  # the name before may hold anything
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return self.pid > 0 and Process.of(self.pid) == self

    def open(self) -> int | None:
        """A pidfd of exactly this process; the caller closes it."""
        if self.pid <= 0:
            return None
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():  # looked at after the descriptor was taken: from now on it cannot become another
            return fd
        os.close(fd)
        return None

    def signal(self, number: int) -> bool:
        """Send a signal; False when the process is gone."""
        fd = self.open()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True


class Watch:
    """Calls back, once, in the loop, when a process ends; costs one descriptor and no thread."""

    def __init__(self, process: Process, ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._fd = process.open()
        if self._fd is None:
            self._loop.call_soon(ended)
        else:
            self._loop.add_reader(self._fd, self._fire)

    def _fire(self) -> None:
        self.close()
        self._ended()

    def close(self) -> None:
        """Stop watching."""
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
