"""The work queue on a virtual clock: order, delays, one worker per key, back-off."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.machinery.queue import Queue, backoff, jittered

pytestmark = pytest.mark.looptime


def clock() -> float:
    return asyncio.get_running_loop().time()


async def take(queue: Queue[str]) -> tuple[str, float]:
    began = clock()
    key = await queue.get()
    queue.done(key)
    return key, round(clock() - began, 3)


async def test_keys_come_in_the_order_of_their_time() -> None:
    queue: Queue[str] = Queue()
    queue.add("late", 5)
    queue.add("soon", 1)
    queue.add("now")
    assert [await take(queue) for _ in range(3)] == [("now", 0), ("soon", 1), ("late", 4)]


async def test_a_key_waits_once_and_its_earliest_time_wins() -> None:
    queue: Queue[str] = Queue()
    for after in (5, 2, 9):
        queue.add("k", after)
    assert len(queue) == 1
    assert await take(queue) == ("k", 2)
    assert len(queue) == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(20):
            await queue.get()


async def test_a_key_in_work_is_given_out_again_only_afterwards() -> None:
    queue: Queue[str] = Queue()
    queue.add("k")
    key = await queue.get()
    queue.add("k", 3)
    queue.add("k")
    assert queue.idle is False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await queue.get()
    queue.done(key)
    assert await take(queue) == ("k", 0)


async def test_a_delay_asked_for_during_work_is_kept() -> None:
    queue: Queue[str] = Queue()
    queue.add("k")
    key = await queue.get()
    queue.add("k", 3)
    await asyncio.sleep(1)
    queue.done(key)
    assert await take(queue) == ("k", 2)


async def test_a_cancelled_worker_loses_no_key() -> None:
    queue: Queue[str] = Queue()
    first, second = asyncio.ensure_future(queue.get()), asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("k")
    first.cancel()
    assert await asyncio.wait_for(second, 1) == "k"


async def test_workers_are_bounded_and_never_share_a_key() -> None:
    queue: Queue[str] = Queue()
    running: list[str] = []
    most = 0

    async def handle(key: str) -> None:
        nonlocal most
        assert key not in running
        running.append(key)
        most = max(most, len(running))
        queue.add(key)
        await asyncio.sleep(1)
        running.remove(key)

    for key in "abcde":
        queue.add(key)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(20):
            await queue.work(handle, workers=3)
    assert most == 3


async def test_a_failing_key_backs_off_alone_until_it_succeeds() -> None:
    queue: Queue[str] = Queue(base=1, cap=5)
    waits = []
    for _ in range(4):
        queue.retry("bad")
        waits.append((await take(queue))[1])
    assert waits == [1, 2, 4, 5]
    queue.retry("other")
    assert await take(queue) == ("other", 1)
    queue.forget("bad")
    assert queue.retry("bad") == 1


def test_the_back_off_of_a_controller() -> None:
    assert [backoff(n) for n in (0, 1, 2, 3, 9, 10, 10_000)] == [0, 1, 2, 4, 256, 300, 300]


@settings(max_examples=20)
@given(st.floats(0, 1000))
def test_jitter_only_adds(seconds: float) -> None:
    assert seconds <= jittered(seconds) <= 1.5 * seconds
