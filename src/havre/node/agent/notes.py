"""Events about pods, written behind the work: nobody waits for one, a flood is cut.

Source: k8s.io/client-go tools/record (the broadcaster's queue).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from havre.api.meta import Obj
from havre.machinery.api import Api
from havre.machinery.events import Note, Recorder

log = logging.getLogger(__name__)

WAITING: Final = 1000  # events not written yet; older ones are dropped then, client-go's number


class Notes:
    """All methods belong to the thread of the event loop."""

    def __init__(self, api: Api, component: str = "kubelet") -> None:
        self._recorder = Recorder(api, component)
        self._waiting: deque[tuple[Obj, Note]] = deque(maxlen=WAITING)
        self._some = asyncio.Event()

    def tell(self, obj: Obj, note: Note) -> None:
        """Write it soon."""
        head = {"apiVersion": "v1", "kind": "Pod"} if "apiVersion" not in obj else {}
        self._waiting.append(({**head, **obj}, note))
        self._some.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                obj, note = self._waiting.popleft()
                if obj["metadata"].get("name"):
                    await self._recorder.record(obj, note)
