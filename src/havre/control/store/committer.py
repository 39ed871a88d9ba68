"""The only writer of the store: a thread that commits what has gathered since its last commit as one transaction.

While one batch is being synced, the next one gathers, so the batch grows with the load and the cost of the sync is
shared (group commit). Between batches it does one small step of compaction, if there is any to do.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

import apsw

from havre.control.store.checkpoint import Checkpointer
from havre.control.store.errors import WriteFailed
from havre.control.store.file import DELETE, Row, StoreFile

log = logging.getLogger(__name__)

BATCH = 256  # rows of a transaction: 4 µs each, so a batch takes about as long as the sync of a good disk
BATCH_BYTES = 8 << 20  # bytes of values, so that a few huge objects do not make a huge transaction
WINDOW = 128  # log rows looked at by one step of compaction: at most as many deletions, about a millisecond
REST = 3  # times as long as a step took the next one waits: compaction takes at most a quarter of the committer's time
VACUUM = 64  # pages given back to the file system by one step
SLACK = (
    4096  # free pages kept for the next writes: 16 MiB; above it and above a quarter of the file, pages are given back
)


class Word(Enum):
    """What the queue carries besides rows."""

    STOP = 0
    WAKE = 1  # look for compaction work


Answer = Callable[[Sequence[Row], WriteFailed | None], None]
Queue = SimpleQueue[Row | Word]


@dataclass(slots=True)
class _Compaction:
    """Rows up to `done` are compacted, up to `target` they shall be."""

    done: int
    target: int
    vacuum: bool = False
    rested: float = 0.0  # monotonic time from which the next step may run


class Committer(threading.Thread):
    """Takes rows from `queue`, calls `answer` (in this thread) once per batch, in order of revisions."""

    def __init__(
        self,
        file: StoreFile,
        queue: Queue,
        answer: Answer,
        compacted: Callable[[int], None],
        checkpointer: Checkpointer,
    ) -> None:
        super().__init__(name="store-commit", daemon=True)
        self._file = file
        self._connection = file.writer
        self._queue = queue
        self._answer = answer
        self._compacted = compacted
        self._checkpointer = checkpointer
        self._compaction = _Compaction(file.compacted, file.compacted)
        self._pages = 0
        self._connection.set_wal_hook(self._grown)

    def compact(self, revision: int) -> None:
        """From another thread: compact up to `revision` when there is time."""
        self._compaction.target = max(self._compaction.target, revision)
        self._queue.put(Word.WAKE)

    def run(self) -> None:
        going = True
        while going:
            rows, going = self._gather()
            if rows:
                self._commit(rows)
            if going and self._has_work() and time.monotonic() >= self._compaction.rested:
                self._tidy()
            self._checkpointer.committed(self._pages)

    def _has_work(self) -> bool:
        work = self._compaction
        return work.done < work.target or work.vacuum

    def _patience(self) -> float | None:
        """Seconds to wait for the first row: until the next step of compaction, forever if there is none to do."""
        return max(0.0, self._compaction.rested - time.monotonic()) if self._has_work() else None

    def _gather(self) -> tuple[list[Row], bool]:
        """The next batch and whether to go on; waits only if there is nothing else to do."""
        rows: list[Row] = []
        size = 0
        patience = self._patience()
        try:
            while len(rows) < BATCH and size < BATCH_BYTES:
                item = self._queue.get(not rows and patience != 0, patience)
                if isinstance(item, Row):
                    rows.append(item)
                    size += len(item.value)
                elif item is Word.STOP:
                    return rows, False
                elif not rows:
                    break
        except Empty:
            pass
        return rows, True

    def _commit(self, rows: list[Row]) -> None:
        try:
            # One statement is one transaction, and one release of the interpreter lock instead of one per row.
            self._connection.execute(_insert(len(rows)), tuple(itertools.chain.from_iterable(rows)))
        except Exception as error:  # noqa: BLE001 - the thread must outlive any batch, and each batch must be answered
            self._answer(rows, self._failed(rows, error))
        else:
            self._answer(rows, None)

    def _failed(self, rows: list[Row], error: Exception) -> WriteFailed:
        advice = (
            "free space on that disk" if isinstance(error, apsw.FullError) else "check that disk and its free space"
        )
        failure = WriteFailed(f"write {len(rows)} objects to {self._file.path}: {error}; nothing was written: {advice}")
        failure.__cause__ = error
        return failure

    def _tidy(self) -> None:
        """One step of compaction or of giving pages back; a failure (a full disk) ends this round."""
        work = self._compaction
        begun = time.monotonic()
        try:
            # A step that a power cut undoes is simply done again, so it need not wait for the disk.
            self._connection.pragma("synchronous", "NORMAL")
            if work.done < work.target:
                work.done = compact_step(self._connection, work.done, work.target)
                work.vacuum = work.done == work.target
                self._compacted(work.done)
            else:
                work.vacuum = _vacuum_step(self._connection)
        except apsw.Error as error:
            log.warning("compaction failed", extra={"path": str(self._file.path), "error": str(error)})
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            work.target, work.vacuum = work.done, False
            self._compacted(work.done)
        finally:
            self._connection.pragma("synchronous", "FULL")
            ended = time.monotonic()
            work.rested = ended + REST * (ended - begun)

    def _grown(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK


@cache
def _insert(rows: int) -> str:
    return "INSERT INTO log VALUES " + ",".join(["(?,?,?,?,?,?)"] * rows)  # noqa: S608 - no input


_WINDOW_END = "SELECT revision FROM log WHERE revision > ? AND revision <= ? ORDER BY revision LIMIT 1 OFFSET ?"
_DELETE_DEAD = """
DELETE FROM log WHERE revision IN (
    SELECT prev FROM log WHERE revision > :done AND revision <= :reached AND prev > 0
    UNION ALL SELECT revision FROM log WHERE revision > :done AND revision <= :reached AND op = :delete)
"""


def compact_step(connection: apsw.Connection, done: int, target: int) -> int:
    """Delete what the next `WINDOW` rows of the log supersede; the revision up to which the log is compacted now.

    Rows and the mark change in one transaction, so that what `compacted` promises to keep is there at every moment.
    """
    connection.execute("BEGIN IMMEDIATE")
    reached: Any = connection.execute(_WINDOW_END, (done, target, WINDOW - 1)).get or target
    connection.execute(_DELETE_DEAD, {"done": done, "reached": reached, "delete": DELETE})
    connection.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (reached,))
    connection.execute("COMMIT")
    return int(reached)


def _vacuum_step(connection: apsw.Connection) -> bool:
    """Give some pages back to the file system; whether there are more to give."""
    free = connection.pragma("freelist_count")
    if free <= max(SLACK, connection.pragma("page_count") // 4):
        return False
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM})").fetchall()
    return True
