"""Tasks that must go on do, and end with their block."""

from __future__ import annotations

import asyncio
import logging

import pytest

from havre.kit.supervision import kept_running


@pytest.mark.looptime
async def test_a_task_that_fails_or_ends_begins_again_later_each_time(caplog: pytest.LogCaptureFixture) -> None:
    starts: list[float] = []
    enough = asyncio.Event()

    async def work() -> None:
        starts.append(asyncio.get_running_loop().time())
        if len(starts) == 4:
            enough.set()
        if len(starts) % 2:
            raise ValueError("no")

    with caplog.at_level(logging.ERROR):
        async with kept_running({"work": work}):
            await enough.wait()
    assert [round(at - starts[0], 1) for at in starts] == [0.0, 0.5, 1.5, 3.5]
    assert [r.message for r in caplog.records[:2]] == [
        "a task failed; it starts again",
        "a task ended; it starts again",
    ]


@pytest.mark.looptime
async def test_the_end_of_the_block_is_the_end_of_the_tasks() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    async with kept_running({"work": work}):
        await asyncio.sleep(1)
    assert ended.is_set()
