# ruff: noqa: ASYNC110 - a turn of the loop lets the subscriber subscribe

from __future__ import annotations

import asyncio

from havre.node.runtime.events import KEPT, Events


async def test_every_subscriber_gets_what_comes_after_it() -> None:
    events = Events()
    events.publish("missed")
    first, second = events.subscribe(), events.subscribe()
    waiting = [asyncio.ensure_future(anext(stream)) for stream in (first, second)]
    while not events.wanted:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    events.publish("seen")
    assert await asyncio.gather(*waiting) == ["seen", "seen"]


async def test_closing_ends_the_streams() -> None:
    events = Events()
    task = asyncio.ensure_future(_all(events))
    while not events.wanted:
        await asyncio.sleep(0)
    events.publish(1)
    events.close()
    assert await task == [1]
    assert not events.wanted


async def test_who_does_not_read_loses_the_oldest() -> None:
    events = Events()
    stream = events.subscribe()
    first = asyncio.ensure_future(anext(stream))
    while not events.wanted:
        await asyncio.sleep(0)
    for number in range(KEPT + 5):
        events.publish(number)
    assert await first == 5


async def _all(events: Events) -> list[object]:
    return [event async for event in events.subscribe()]
