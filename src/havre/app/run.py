"""Start parts in this process, say where they answer, wait for a signal, stop them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from havre.app.config import Config
from havre.app.parts import PARTS, Part

log = logging.getLogger(__name__)


class UnknownPart(ValueError):
    """A part that does not exist."""


def find(names: Sequence[str]) -> list[Part]:
    """The parts of these names, in the order of PARTS. Raises UnknownPart."""
    known = {part.name: part for part in PARTS}
    for name in names:
        if name not in known:
            raise UnknownPart(f"there is no part {name!r}; choose from {', '.join(known)}")
    return [part for part in PARTS if part.name in names]


async def run(
    parts: Sequence[Part],
    config: Config,
    say: Callable[[str], None],
    ready: Callable[[], None],
    *,
    parent: int | None = None,
    orphaned: Callable[[], None] = lambda: None,
) -> bool:
    """`say` gets a line per part, `ready` is called when all are up. Returns after SIGTERM or SIGINT, when everything
    has stopped: True. With the pidfd of a `parent` it calls `orphaned` at its end, and returns too: False, unless a
    signal came as well. Raises what a part raises at start.
    """
    stop = asyncio.Event()
    told = False
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        nonlocal told
        told = True
        stop.set()

    def parent_ended() -> None:
        assert parent is not None
        loop.remove_reader(parent)
        orphaned()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)

    if parent is not None:
        loop.add_reader(parent, parent_ended)
    async with AsyncExitStack() as stack:
        for part in parts:
            line = await stack.enter_async_context(part.run(config))
            say(f"{part.name}: {line}")
        ready()
        await stop.wait()
        say("stopping")
    return told
