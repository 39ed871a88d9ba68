"""Keeps SQLite's write-ahead log short without delaying writers.

A commit only appends to the write-ahead log; a checkpoint copies its pages back into the database and syncs it. Done by
the committer, as SQLite does by itself, that costs a pause of tens of milliseconds; done only by another thread, the
log never gets empty while writes go on, so it is never reused and grows without end. So both take a share:

1. a thread copies the bulk, pass after pass, while writes go on; each pass leaves less, as it takes less time;
2. when only a few pages are left, the committer copies those between two batches, and the next commit finds the whole
   log copied and starts it again from its beginning;
3. if the disk cannot follow and the log still reaches `HARD`, the committer waits for the thread: writes slow down to
   what the disk can take.
"""

from __future__ import annotations

import logging
import threading

import apsw

log = logging.getLogger(__name__)

SOFT = 1024  # pages of 4 KiB: start copying at 4 MiB, some 20 ms of a slow disk's bandwidth
HARD = 16384  # pages: 64 MiB, the most that the log takes on disk while the disk keeps up at all
SMALL = 64  # pages that the committer may copy itself: 256 KiB, a millisecond and one sync
PASSES = 8  # each pass leaves what was written meanwhile; eight halvings of SOFT are below SMALL
PATIENCE = 30.0  # seconds to wait for the thread at HARD before going on


class Checkpointer(threading.Thread):
    """The thread of step 1; `committed` is steps 2 and 3 and runs in the committer."""

    def __init__(self, connection: apsw.Connection, writer: apsw.Connection) -> None:
        super().__init__(name="store-checkpoint", daemon=True)
        self._connection = connection
        self._writer = writer
        self._wake = threading.Semaphore(0)
        self._idle = threading.Event()
        self._idle.set()
        self._leftover = False  # a pass has ended and left few pages: the committer takes them
        self._stopping = False

    def committed(self, pages: int) -> None:
        """Called by the committer after each commit with the length of the log."""
        if pages < SOFT:
            self._leftover = False  # the log was started again, nothing is left of the last pass
            return
        if pages >= HARD:
            self._idle.wait(PATIENCE)
        if not self._idle.is_set():
            return
        if self._leftover or pages >= HARD:
            self._leftover = False
            _copy(self._writer)
        else:
            self._idle.clear()
            self._wake.release()

    def run(self) -> None:
        while True:
            self._wake.acquire()
            if self._stopping:
                return
            for _ in range(PASSES):
                left = _copy(self._connection)
                if left <= SMALL:
                    break
            self._leftover = True
            self._idle.set()

    def stop(self) -> None:
        """End the thread; the committer must have ended before."""
        self._stopping = True
        self._wake.release()
        self.join()
        self._connection.close()


def _copy(connection: apsw.Connection) -> int:
    """One pass; how many pages it left. A failure is not fatal: the log keeps everything, a later pass tries again."""
    try:
        total, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.Error as error:
        log.warning("checkpoint failed", extra={"error": str(error)})
        return 0
    return int(total - copied)
