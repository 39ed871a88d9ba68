"""Who wants to know when a container changes: the streams of CRI's GetContainerEvents.

A stream that does not read loses its oldest events rather than our memory, and says so in the log; its reader lists
containers from time to time anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["Events"]

log = logging.getLogger(__name__)

KEPT = 1000  # events per stream that are not read yet: 110 pods × 3 containers × 3 events of a mass restart


class Events:
    """Every subscriber gets every event published after it came."""

    def __init__(self) -> None:
        self._streams: set[_Stream] = set()

    def publish(self, event: Any) -> None:
        for stream in self._streams:
            stream.put(event)

    @property
    def wanted(self) -> bool:
        """Somebody listens: events are worth making."""
        return bool(self._streams)

    async def subscribe(self) -> AsyncIterator[Any]:
        """Events until `close`."""
        stream = _Stream()
        self._streams.add(stream)
        try:
            while True:
                event = await stream.get()
                if event is None:
                    return
                yield event
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.put(None)


class _Stream:
    def __init__(self) -> None:
        self._events: deque[Any] = deque()
        self._some = asyncio.Event()

    def put(self, event: Any) -> None:
        if len(self._events) >= KEPT:
            self._events.popleft()
            log.warning("container event dropped: a subscriber does not read")
        self._events.append(event)
        self._some.set()

    async def get(self) -> Any:
        while not self._events:
            self._some.clear()
            await self._some.wait()
        return self._events.popleft()
