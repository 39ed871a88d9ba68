"""Store: append to the log from the event loop, read it back from any thread.

reads and writes   one SQLite file, held by one process
promises           a future that resolves is on the disk; rows are published in the order of revisions, before their
                   futures resolve; a failed batch leaves nothing behind; no revision is ever seen with two contents
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from havre.control.store.checkpoint import Checkpointer
from havre.control.store.committer import Committer, Queue, Word
from havre.control.store.errors import Closed, Overloaded, WriteFailed
from havre.control.store.file import DELETE, PUT, Change, Page, Row, StoreFile, prefix_end

__all__ = ["DELETE", "PUT", "Change", "Page", "Row", "Store", "prefix_end"]

PENDING_BYTES = 64 << 20  # bytes of values that may wait for the disk: 1 s at 64 MB/s, longer than clients like to wait
PAGE_BYTES = 4 << 20  # bytes of values that `after` returns at once: some 10 ms of reading

Publish: TypeAlias = Callable[[Sequence[Row]], None]
Abandon: TypeAlias = Callable[[Sequence[Row], WriteFailed], None]


class Store:
    """See the module. All methods but `live`, `after` and `horizon` belong to the thread of the event loop."""

    def __init__(self, file: StoreFile, pending_bytes: int) -> None:
        self._file = file
        self._reader = file.reader()
        self.path = file.path
        self.instance = file.instance  # another one means that revisions began anew
        self.revision = file.newest  # newest committed
        self.compacted = file.compacted  # oldest that can be read
        self._assigned = self.revision  # newest given out
        self._limit = pending_bytes
        self._pending = 0  # bytes of values that wait for the disk
        self._queue: Queue = SimpleQueue()
        self._futures: dict[int, asyncio.Future[Row]] = {}
        self._compactions: list[tuple[int, asyncio.Future[int]]] = []
        self._committer: Committer | None = None
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, pending_bytes: int = PENDING_BYTES) -> Store:
        """Open or create the store in the file `path`. Blocks. Raises CannotOpen."""
        return cls(StoreFile(path), pending_bytes)

    def start(self, publish: Publish, abandon: Abandon = lambda _rows, _error: None) -> None:
        """Begin to write; call in the running loop.

        `publish` gets each committed batch before its futures resolve, `abandon` each failed one before they fail.
        """
        self._loop = asyncio.get_running_loop()
        self._publish = publish
        self._abandon = abandon
        self._checkpointer = Checkpointer(self._file.connect(), self._file.writer)
        self._committer = Committer(self._file, self._queue, self._answer, self._answer_compacted, self._checkpointer)
        self._checkpointer.start()
        self._committer.start()

    def append(self, key: str, op: int, created: int, prev: int, encode: Callable[[int], bytes]) -> asyncio.Future[Row]:
        """Give the write the next revision and queue it; the future resolves when it is on the disk, else WriteFailed.

        `encode` gets the revision and returns the value; `created` 0 means that the key begins at this revision.
        Cancelling the future does not take the write back. Raises Overloaded, Closed.
        """
        if self._committer is None or self._closed:
            raise Closed(f"write {key} to {self.path}: the store is not open for writes")
        if self._pending > self._limit:
            raise Overloaded(
                f"write {key} to {self.path}: {self._pending >> 20} MiB wait for the disk, which cannot follow; "
                "try again in a second"
            )
        revision = self._assigned + 1
        value = encode(revision)
        self._assigned = revision
        future: asyncio.Future[Row] = self._loop.create_future()
        self._futures[revision] = future
        self._pending += len(value)
        self._queue.put(Row(revision, key, op, created or revision, prev, value))
        return future

    def compact(self, revision: int) -> asyncio.Future[int]:
        """Forget what was superseded or deleted at or before `revision`; resolves to the revision reached.

        It is less than asked if the disk is full. The rows that are live at `revision`, and all newer ones, stay.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        revision = min(revision, self.revision)
        if self._committer is None or self._closed or revision <= self.compacted:
            future.set_result(self.compacted)
            return future
        self._compactions.append((revision, future))
        self._committer.compact(revision)
        return future

    def live(self, at: int | None = None) -> Iterator[Row]:
        """The rows live at revision `at` (default: now), newest first. Blocks. Raises Compacted, Corrupt."""
        return self._reader.live(self.revision if at is None else at)

    def after(self, revision: int, *, until: int | None = None, prefix: str = "", limit: int = PAGE_BYTES) -> Page:
        """What changed after `revision` and up to `until`, oldest first, in pages of about `limit` bytes. Blocks.

        Ask again from `Page.upto` until it is `until`. Raises Compacted, Corrupt.
        """
        return self._reader.after(revision, self.revision if until is None else until, prefix, limit)

    def horizon(self, limit: int) -> int:
        """The oldest revision after which the log holds at most `limit` bytes of values. Blocks."""
        return self._reader.horizon(limit)

    async def close(self) -> None:
        """Commit what is queued, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        if self._committer is not None:
            self._queue.put(Word.STOP)
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._stop))
            for _, future in self._compactions:
                _resolve(future, self.compacted)
        else:
            self._let_go()

    def _stop(self) -> None:
        assert self._committer is not None
        self._committer.join()
        self._checkpointer.stop()
        self._let_go()

    def _let_go(self) -> None:
        self._reader.close()
        self._file.close()

    def _answer(self, rows: Sequence[Row], error: WriteFailed | None) -> None:
        """In the committer: hand a batch back to the loop."""
        if error is None:
            self._call(self._committed, rows)
        else:
            self._call(self._failed, rows, error)

    def _answer_compacted(self, reached: int) -> None:
        self._call(self._now_compacted, reached)

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            # The process is going down without close(): nobody is left to hear the answer.

    def _committed(self, rows: Sequence[Row]) -> None:
        self.revision = rows[-1].revision
        futures = self._settle(rows)
        try:
            self._publish(rows)
        finally:  # whatever becomes of the news, the writes are done and their writers must not wait forever
            for row, future in zip(rows, futures, strict=True):
                if not future.done():
                    future.set_result(row)

    def _failed(self, rows: Sequence[Row], error: WriteFailed) -> None:
        futures = self._settle(rows)
        self._abandon(rows, error)
        for future in futures:
            if not future.done():
                future.set_exception(error)

    def _settle(self, rows: Sequence[Row]) -> list[asyncio.Future[Row]]:
        for row in rows:
            self._pending -= len(row.value)
        return [self._futures.pop(row.revision) for row in rows]

    def _now_compacted(self, reached: int) -> None:
        """A step was done, or given up if it brought nothing new."""
        given_up = reached == self.compacted
        self.compacted = reached
        waiting, self._compactions = self._compactions, []
        for revision, future in waiting:
            if given_up or revision <= reached:
                _resolve(future, reached)
            else:
                self._compactions.append((revision, future))


def _resolve(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)
