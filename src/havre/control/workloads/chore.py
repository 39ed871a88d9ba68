"""A chore keeps one thing true that has no status of its own, woken by objects of any kind.

Where a `Controller` serves the objects of one kind and reports in their status, a chore is woken through the monitors
(so it costs no watch and no memory of its own), works on objects that are being deleted too, and says nothing.

    Chore("root-ca", reconcile, wakes)          # reconcile(ref, api) → seconds until the next look, or None
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from havre.api.errors import ApiError
from havre.api.kinds import Kind
from havre.api.meta import Obj
from havre.control.workloads.graph import Node
from havre.control.workloads.monitors import Monitors
from havre.machinery.api import Api, Ref
from havre.machinery.queue import Queue

log = logging.getLogger(__name__)

BASE = 0.1  # seconds before the first retry: most failures are lost races
CAP = 60.0
WORKERS = 8


@dataclass(frozen=True, slots=True)
class Change:
    """An object that was seen (`obj` as it is now; `old` is None for a new one), or is gone (`obj` is None)."""

    kind: Kind
    node: Node
    obj: Obj | None
    old: Node | None = None


@dataclass(frozen=True, slots=True)
class Chore:
    """`reconcile` is level-triggered and idempotent; `wakes` says whom a change concerns."""

    name: str
    reconcile: Callable[[Ref, Api], Awaitable[float | None]]
    wakes: Callable[[Change], Iterable[Ref]]
    workers: int = WORKERS
    gather: float = 0.0  # seconds between being woken and the look, so that many changes are one look


class Running:
    """A chore at work; a listener of the monitors."""

    def __init__(self, chore: Chore, api: Api, monitors: Monitors) -> None:
        self.queue: Queue[Ref] = Queue(base=BASE, cap=CAP)
        self._chore, self._api = chore, api
        monitors.add(self)

    def seen(self, kind: Kind, obj: Obj, node: Node, old: Node | None) -> None:
        self._wake(Change(kind, node, obj, old))

    def gone(self, kind: Kind, node: Node) -> None:
        self._wake(Change(kind, node, None))

    def _wake(self, change: Change) -> None:
        for ref in self._chore.wakes(change):
            self.queue.add(ref, self._chore.gather)

    async def run(self) -> None:
        await self.queue.work(self._handle, self._chore.workers)

    async def _handle(self, ref: Ref) -> None:
        try:
            again = await self._chore.reconcile(ref, self._api)
        except ApiError as error:
            after = self.queue.retry(ref)
            told = {"chore": self._chore.name, "object": str(ref), "again": after, "error": str(error)}
            log.debug("chore failed", extra=told)
        except Exception:  # a bug with one object must not stop the others
            after = self.queue.retry(ref)
            log.exception("chore failed", extra={"chore": self._chore.name, "object": str(ref), "again": after})
        else:
            self.queue.forget(ref)
            if again is not None:
                self.queue.add(ref, again)
