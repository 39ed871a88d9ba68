from __future__ import annotations

import threading
from typing import Any

import pytest

from havre.control.store.checkpoint import HARD, SOFT, Checkpointer


class Disk:
    """Stands for a connection: answers each pass with (pages in the log, pages copied)."""

    def __init__(self, *answers: tuple[int, int]) -> None:
        self.answers = list(answers)
        self.passes = 0
        self.ready = threading.Event()
        self.ready.set()

    def wal_checkpoint(self, *, mode: int) -> tuple[int, int]:
        self.ready.wait(10)
        self.passes += 1
        return self.answers.pop(0) if self.answers else (0, 0)

    def close(self) -> None: ...


def started(background: Any, writer: Any) -> Checkpointer:
    checkpointer = Checkpointer(background, writer)
    checkpointer.start()
    return checkpointer


def test_a_short_log_is_left_alone() -> None:
    background, writer = Disk(), Disk()
    checkpointer = started(background, writer)
    checkpointer.committed(SOFT - 1)
    checkpointer.stop()
    assert (background.passes, writer.passes) == (0, 0)


def test_the_thread_copies_until_little_is_left_and_the_committer_takes_the_rest() -> None:
    background, writer = Disk((1024, 0), (1200, 1024), (1230, 1200)), Disk()
    checkpointer = started(background, writer)
    checkpointer.committed(SOFT)
    checkpointer._idle.wait(10)
    assert (background.passes, writer.passes) == (3, 0)
    checkpointer.committed(1231)
    checkpointer.stop()
    assert (background.passes, writer.passes) == (3, 1)


def test_a_log_that_was_started_again_leaves_the_committer_nothing_to_copy() -> None:
    background, writer = Disk((1024, 1024)), Disk()
    checkpointer = started(background, writer)
    checkpointer.committed(SOFT)
    checkpointer._idle.wait(10)
    checkpointer.committed(3)
    checkpointer.committed(SOFT)
    checkpointer.stop()
    assert writer.passes == 0


def test_at_the_hard_bound_the_committer_waits_for_the_thread() -> None:
    background, writer = Disk((1024, 1024)), Disk()
    background.ready.clear()
    checkpointer = started(background, writer)
    checkpointer.committed(SOFT)
    committer = threading.Thread(target=checkpointer.committed, args=(HARD,))
    committer.start()
    committer.join(0.01)
    assert committer.is_alive()
    background.ready.set()
    committer.join(10)
    checkpointer.stop()
    assert not committer.is_alive()
    assert writer.passes == 1


def test_a_failing_pass_is_logged_and_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    import apsw

    class Broken(Disk):
        def wal_checkpoint(self, *, mode: int) -> tuple[int, int]:
            super().wal_checkpoint(mode=mode)
            raise apsw.FullError("database or disk is full")

    background = Broken()
    checkpointer = started(background, Disk())
    for pages in (SOFT, 1, SOFT):
        checkpointer.committed(pages)
        checkpointer._idle.wait(10)
    checkpointer.stop()
    assert background.passes == 2
    assert caplog.messages == ["checkpoint failed"] * 2
