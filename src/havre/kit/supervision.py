"""Tasks of a part that must go on: one that ends is logged and started again, after a back-off."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from havre.kit.backoff import Backoff

log = logging.getLogger(__name__)

RESTART = Backoff(0.5, 2.0, 30.0)  # seconds
STEADY = 60.0  # seconds after which an end counts as the first again


@asynccontextmanager
async def kept_running(works: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    """Inside the block every one of these runs; they are cancelled at its end."""
    tasks = [asyncio.create_task(_keep(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(name: str, work: Callable[[], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    ends = itertools.count()
    while True:
        began = loop.time()
        try:
            await work()
            log.error("a task ended; it starts again", extra={"task": name})
        except Exception:  # a bug must neither end in silence nor stop the others: begin again from what is there
            log.exception("a task failed; it starts again", extra={"task": name})
        if loop.time() - began > STEADY:
            ends = itertools.count()
        await asyncio.sleep(RESTART.delay(next(ends)))
