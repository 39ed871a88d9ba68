"""Events: what happened to an object, for people (`kubectl describe`, `kubectl events`).

An event that happens again does not become a new object: its name is made of the object, the reason and the message, so
the count of the one that is there goes up, also after a restart. An object that floods is cut off for a while.

An event is news, not state: when it cannot be written it is dropped and logged, and the work goes on.

Source: k8s.io/client-go, tools/record (event.go, events_cache.go).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from havre.api.errors import AlreadyExists, ApiError, NotFound
from havre.api.meta import GVK, Obj, rfc3339
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import shortened

log = logging.getLogger(__name__)

EVENT = GVK("", "v1", "Event")
BURST = 25.0  # events of one object at once; client-go's numbers
REFILL = 300.0  # seconds for one more
OBJECTS = 4096  # whose budget is remembered: some 200 bytes each
MESSAGE_BYTES = 1024  # the API's limit
REASON_BYTES = 128
_NAME_BYTES = 253 - 1 - 16  # an event is named `object.hash`

EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell about an object."""

    reason: str
    message: str
    type: EventType = "Normal"


@dataclass(slots=True)
class Recorder:
    """Writes the events of one component. All methods belong to the thread of the event loop."""

    api: Api
    component: str
    clock: Callable[[], float] = time.time
    _budgets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # uid: (left, at)
    _counts: OrderedDict[Ref, int] = field(default_factory=OrderedDict)  # of events that were told before

    async def record(self, obj: Obj, note: Note) -> None:
        """Never raises ApiError."""
        if not self._allowed(obj["metadata"].get("uid", "")):
            return
        event = render(obj, note, self.component, rfc3339(self.clock()))
        try:
            await self._write(event)
        except ApiError as error:
            log.info("an event was dropped", extra={"reason": note.reason, "error": str(error)})

    async def _write(self, event: Obj) -> None:
        """Without reading: nodes may write events, and not see them."""
        ref = Ref.of(event)
        count = self._counts.pop(ref, 0)
        if not count or not await self._repeat(ref, count + 1, event):
            count = 0
            try:
                await self.api.create(event, manager=self.component)
            except AlreadyExists:  # of a former life
                seen = await self.api.patch(ref, {"type": event["type"]}, kind="merge", manager=self.component)
                count = seen.get("count") or 1
                await self._repeat(ref, count + 1, event)
        self._counts[ref] = count + 1
        if len(self._counts) > OBJECTS:
            self._counts.popitem(last=False)

    async def _repeat(self, ref: Ref, count: int, event: Obj) -> bool:
        """Whether the event is still there; they live for an hour."""
        again = {"count": count, "lastTimestamp": event["lastTimestamp"]}
        try:
            await self.api.patch(ref, again, kind="merge", manager=self.component)
        except NotFound:
            return False
        return True

    def _allowed(self, uid: str) -> bool:
        """Takes one event out of the budget of the object."""
        now = asyncio.get_running_loop().time()
        left, at = self._budgets.pop(uid, (BURST, now))
        left = min(BURST, left + (now - at) / REFILL)
        self._budgets[uid] = (left - 1, now) if left >= 1 else (left, now)
        if len(self._budgets) > OBJECTS:
            self._budgets.popitem(last=False)
        return left >= 1


def render(obj: Obj, note: Note, component: str, now: str) -> Obj:
    """The Event object, of core v1. Pure."""
    ref, meta = Ref.of(obj), obj["metadata"]
    about = {
        "apiVersion": ref.gvk.api_version,
        "kind": ref.gvk.kind,
        "name": ref.name,
        "namespace": ref.namespace,
        "uid": meta.get("uid", ""),
        "resourceVersion": meta.get("resourceVersion", ""),
    }
    message = shortened(note.message, MESSAGE_BYTES)
    identity = "\0".join((about["uid"], ref.gvk.kind, component, note.type, note.reason, message))
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name[:_NAME_BYTES]}.{digest}", "namespace": ref.namespace or "default"},
        "involvedObject": {key: value for key, value in about.items() if value},
        "type": note.type,
        "reason": shortened(note.reason, REASON_BYTES),
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
