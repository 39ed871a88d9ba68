"""The work queue of a controller: keys that wait for their time, without duplicates, one worker per key.

A key added twice is worked on once; the earlier time wins. A key added while it is in work is given out again after
that, never at the same time: so a reconciliation needs no lock. A failing key backs off 1, 2, 4 … 300 seconds and is
alone in that.

Source: k8s.io/client-go, util/workqueue.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BASE = 1.0  # seconds before the first retry
CAP = 300.0  # seconds before every later one: after nine failures in a row
_READY = float("-inf")


def backoff(failures: int, *, base: float = BASE, cap: float = CAP) -> float:
    """Seconds after so many failures in a row: 1, 2, 4 … cap."""
    return min(base * 2.0 ** min(failures - 1, 62), cap) if failures > 0 else 0.0


def jittered(seconds: float, spread: float = 0.5) -> float:
    """Between `seconds` and `1 + spread` times that, so that many clients do not come back at once."""
    return seconds * (1 + spread * random.random())  # noqa: S311 - spreads load, guards nothing


class Queue(Generic[K]):
    """All methods belong to the thread of the event loop."""

    def __init__(self, *, base: float = BASE, cap: float = CAP) -> None:
        self._base, self._cap = base, cap
        self._due: dict[K, float] = {}  # waiting keys; -inf: in `_ready`
        self._ready: deque[K] = deque()
        self._later: list[tuple[float, int, K]] = []  # heap; an entry that `_due` contradicts is stale
        self._order = count()
        self._working: set[K] = set()
        self._meanwhile: dict[K, float] = {}  # added while in work
        self._failures: dict[K, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Keys that wait, now or for their time."""
        return len(self._due) + len(self._meanwhile)

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing in work; keys may wait for their time."""
        return not self._ready and not self._working

    def add(self, key: K, after: float = 0.0) -> None:
        """Give `key` out in `after` seconds, or earlier if it waits already."""
        now = asyncio.get_running_loop().time()
        at = now + after if after > 0 else _READY
        if key in self._working:
            self._meanwhile[key] = min(at, self._meanwhile.get(key, at))
            return
        held = self._due.get(key)
        if held is not None and held <= at:
            return
        self._due[key] = at
        if at == _READY:
            self._ready.append(key)
            self._wake()
        else:
            heapq.heappush(self._later, (at, next(self._order), key))
            self._arm()

    def retry(self, key: K) -> float:
        """It failed: give it out again after its back-off; the seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        after = backoff(failures, base=self._base, cap=self._cap)
        self.add(key, after)
        return after

    def forget(self, key: K) -> None:
        """It succeeded: its next failure begins with the shortest back-off."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, once it is due; call `done` after the work."""
        while not self._ready:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif self._ready:  # woken and cancelled at once: pass it on
                    self._wake()
                raise
        key = self._ready.popleft()
        del self._due[key]
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        self._working.discard(key)
        at = self._meanwhile.pop(key, None)
        if at is not None:
            self.add(key, 0.0 if at == _READY else at - asyncio.get_running_loop().time())

    async def work(self, handle: Callable[[K], Awaitable[None]], workers: int = 1) -> None:
        """Serve for ever with so many workers; `handle` must not raise."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._serve(handle))

    async def _serve(self, handle: Callable[[K], Awaitable[None]]) -> None:
        while True:
            key = await self.get()
            try:
                await handle(key)
            finally:
                self.done(key)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _arm(self) -> None:
        """One timer, for the earliest key."""
        at = self._later[0][0]
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            at, _, key = heapq.heappop(self._later)
            if self._due.get(key) == at:
                self._due[key] = _READY
                self._ready.append(key)
                self._wake()
        if self._later:
            self._arm()
