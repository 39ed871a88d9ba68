"""Who is scheduled next: the highest priority, then who waits longest; and who waits for what.

    ready ──next()──> being scheduled ──bound──> gone
      ^                    │ refused
      │ a change that may help, after the back-off (1, 2, 4, 8, 10 s from the refusal)
      └──── waiting <──────┘

Nothing is tried again without a change. All methods belong to the thread of the event loop.

Source: k8s.io/kubernetes, pkg/scheduler/backend/queue (scheduling_queue.go, backoff_queue.go).
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass
from itertools import count

from havre.control.scheduler.cluster import Pod

FIRST, LONGEST = 1.0, 10.0  # seconds of back-off
UNASKED = 300.0  # seconds after which a waiting pod is tried even without a change


@dataclass(slots=True)
class Entry:
    """A pod without a node."""

    pod: Pod
    since: int  # in order of arrival
    attempts: int = 0
    refused_at: float = 0.0  # loop time
    state: str = "ready"  # ready, working, waiting, backing off
    stirred: bool = False  # something changed while it was being scheduled

    def backoff(self) -> float:
        return min(FIRST * 2.0 ** max(0, self.attempts - 1), LONGEST)


class PodQueue:
    """Pods by uid."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[int, int, str]] = []  # of the ready; stale where the entry says otherwise
        self._arrivals = count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, pod: Pod) -> None:
        """A pod that wants a node; one that is known and was changed is tried again."""
        entry = self._entries.get(pod.uid)
        if entry is None:
            entry = self._entries[pod.uid] = Entry(pod, next(self._arrivals))
            self._ready(entry)
            return
        entry.pod = pod
        if entry.state == "ready":
            self._ready(entry)  # its priority may be another

    def drop(self, uid: str) -> None:
        self._entries.pop(uid, None)

    def get(self, uid: str) -> Entry | None:
        return self._entries.get(uid)

    def waiting(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.state in ("waiting", "working")]

    def nominated(self) -> list[Pod]:
        """Pods for which room was made."""
        return [entry.pod for entry in self._entries.values() if entry.pod.nominated]

    async def next(self) -> Entry:
        while True:
            while self._heap:
                _, _, uid = heapq.heappop(self._heap)
                entry = self._entries.get(uid)
                if entry is not None and entry.state == "ready":
                    entry.state, entry.stirred = "working", False
                    entry.attempts += 1
                    return entry
            self._wake.clear()
            await self._wake.wait()

    def refuse(self, entry: Entry, *, retry: bool = False) -> None:
        """It has to wait for a change; `retry`: not for one, but for its back-off."""
        if self._entries.get(entry.pod.uid) is not entry:
            return
        entry.state, entry.refused_at = "waiting", asyncio.get_running_loop().time()
        if entry.stirred or retry:
            self.stir(entry)
        else:
            asyncio.get_running_loop().call_later(UNASKED, self._unasked, entry, entry.attempts)

    def stir_all(self) -> None:
        """Something changed that may help."""
        for entry in [*self._entries.values()]:
            self.stir(entry)

    def stir(self, entry: Entry) -> None:
        entry.stirred = True
        if entry.state != "waiting":
            return
        loop = asyncio.get_running_loop()
        left = entry.refused_at + entry.backoff() - loop.time()
        if left <= 0:
            self._ready(entry)
        else:
            entry.state = "backing off"
            loop.call_later(left, self._backed_off, entry)

    def _backed_off(self, entry: Entry) -> None:
        if entry.state == "backing off":
            self._ready(entry)

    def _unasked(self, entry: Entry, attempts: int) -> None:
        if entry.state == "waiting" and entry.attempts == attempts:
            self._ready(entry)

    def _ready(self, entry: Entry) -> None:
        if self._entries.get(entry.pod.uid) is not entry:
            return
        entry.state = "ready"
        heapq.heappush(self._heap, (-entry.pod.priority, entry.since, entry.pod.uid))
        self._wake.set()
