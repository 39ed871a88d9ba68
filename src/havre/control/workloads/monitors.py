"""One light watch on every served kind, for those who care about objects of all kinds: garbage, namespaces, quotas.

Of each object only a `Node` stays in memory (uid, place, owners, how it is being deleted). Listeners hear of an object
when it is first seen, when it changes and when it is gone, in the order of its changes. Kinds come and go with their
CustomResourceDefinition: a change of one makes us ask at once what is served, and so does time.

Source: k8s.io/kubernetes, pkg/controller/garbagecollector/graph_builder.go (monitors) and garbagecollector.go (Sync).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack
from typing import Protocol

from havre.api.errors import ApiError, Expired
from havre.api.kinds import Kind
from havre.api.meta import GVK, Obj
from havre.control.workloads.graph import Node
from havre.control.workloads.served import DEFINITION, Discover, DiscoveryFailed, once
from havre.machinery.api import Api, pages
from havre.machinery.queue import backoff, jittered

log = logging.getLogger(__name__)

REDISCOVER = 30.0  # seconds; upstream's period, for what no definition announces (aggregated APIs)
SETTLE = (0.05, 0.5, 2.0)  # seconds after a change of a definition: serving it may take the server a moment
SHORTEST = 0.2  # seconds before a failed list or watch is tried again
LONGEST = 30.0
_UNCOUNTED = frozenset({GVK("", "v1", "Event"), GVK("events.k8s.io", "v1", "Event")})  # too many, never owned


class Listener(Protocol):
    """Plain functions that must not block."""

    def seen(self, kind: Kind, obj: Obj, node: Node, old: Node | None) -> None:
        """An object was added (`old` is None) or changed."""
        ...

    def gone(self, kind: Kind, node: Node) -> None: ...


class Monitors:
    """Follows all kinds; add the listeners, then `run`."""

    def __init__(self, api: Api, discover: Discover) -> None:
        self.kinds: dict[GVK, Kind] = {}  # all that are served, in every version
        self.synced = asyncio.Event()  # every kind has been read once
        self._api, self._discover = api, discover
        self._listeners: list[Listener] = []
        self._followers: dict[GVK, tuple[_Follower, asyncio.Task[None]]] = {}
        self._remains: dict[GVK, dict[str, Node]] = {}  # of kinds that are not served now
        self._changed = asyncio.Event()

    def add(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def served(self) -> Iterable[Kind]:
        """Every served kind, in every version."""
        return self.kinds.values()

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._adjust(group)
                self._changed.clear()
                await self._until(REDISCOVER)

    async def _until(self, seconds: float) -> None:
        """Wait for a change of a definition, and let it settle, or until the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
                await asyncio.sleep(SETTLE[0])
        except TimeoutError:
            return

    def _soon(self) -> None:
        """Ask what is served, now and once more when the server has had time."""
        loop = asyncio.get_running_loop()
        for seconds in SETTLE:
            loop.call_later(seconds, self._changed.set)

    async def _adjust(self, group: asyncio.TaskGroup) -> None:
        """Start what is missing; stop what is no longer served, unless its group only failed to answer."""
        try:
            kinds, complete = await self._discover(), True
        except (DiscoveryFailed, ApiError) as error:
            kinds, complete = getattr(error, "kinds", ()), False
            log.warning("some kinds could not be discovered", extra={"error": str(error)})
        wanted = {kind.gvk: kind for kind in once(kinds, "list", "watch", "delete") if kind.gvk not in _UNCOUNTED}
        self.kinds = {**({} if complete else self.kinds), **{kind.gvk: kind for kind in kinds}}
        for gvk, kind in wanted.items():
            if gvk not in self._followers:
                follower = _Follower(self._api, kind, self, self._remains.pop(gvk, {}))
                self._followers[gvk] = follower, group.create_task(follower.run(), name=f"monitor {gvk.kind}")
        for gvk in [gvk for gvk in self._followers if complete and gvk not in wanted]:
            follower, task = self._followers.pop(gvk)
            task.cancel()
            self._remains[gvk] = follower.nodes  # that a kind is not served is no proof that an owner is gone
        self.check()

    def check(self) -> None:
        """Called by a follower that has read its kind, or could not."""
        if all(follower.tried for follower, _ in self._followers.values()):
            self.synced.set()

    def seen(self, kind: Kind, obj: Obj, node: Node, old: Node | None) -> None:
        if kind.gvk == DEFINITION:
            self._soon()
        for listener in self._listeners:
            try:
                listener.seen(kind, obj, node, old)
            except Exception:  # a bug in one listener must not stop the watch of everybody
                log.exception("cannot tell a listener", extra={"object": str(node.ref)})

    def gone(self, kind: Kind, node: Node) -> None:
        if kind.gvk == DEFINITION:
            self._soon()
        for listener in self._listeners:
            try:
                listener.gone(kind, node)
            except Exception:  # as above
                log.exception("cannot tell a listener", extra={"object": str(node.ref)})


class _Follower:
    """The nodes of one kind, by LIST and WATCH."""

    def __init__(self, api: Api, kind: Kind, monitors: Monitors, nodes: dict[str, Node]) -> None:
        self.tried = False
        self.nodes = nodes
        self._api, self._kind, self._monitors = api, kind, monitors
        self._revision = ""
        self._failures = 0

    async def run(self) -> None:
        while True:
            try:
                if not self._revision:
                    await self._list()
                await self._follow()
            except Expired:
                self._revision = ""
            except ApiError as error:
                self._failures += 1
                log.debug("cannot follow", extra={"kind": self._kind.gvk, "error": str(error)})
            self._note_tried()
            await asyncio.sleep(jittered(backoff(self._failures, base=SHORTEST, cap=LONGEST)))

    def _note_tried(self) -> None:
        if not self.tried:
            self.tried = True
            self._monitors.check()

    async def _list(self) -> None:
        before, revision = set(self.nodes), ""
        async for part in pages(self._api, self._kind.gvk):
            for obj in part.items:
                before.discard(obj["metadata"]["uid"])
                self._put(obj)
            revision = part.revision
        for uid in before:
            self._drop(uid)
        self._revision = revision
        self._note_tried()

    async def _follow(self) -> None:
        began = asyncio.get_running_loop().time()
        stream = self._api.watch(self._kind.gvk, since=self._revision)
        async with AsyncExitStack() as stack:
            if isinstance(stream, AsyncGenerator):
                stack.push_async_callback(stream.aclose)
            async for event in stream:
                self._failures, meta = 0, event.object["metadata"]
                if event.type == "DELETED":
                    self._drop(meta["uid"])
                elif event.type != "BOOKMARK":
                    self._put(event.object)
                self._revision = meta["resourceVersion"]
        if asyncio.get_running_loop().time() - began < SHORTEST:
            self._failures += 1  # or a server that ends every watch at once would keep us spinning

    def _put(self, obj: Obj) -> None:
        node = Node.of(obj, self._kind.gvk)
        old = self.nodes.get(node.uid)
        if old == node:
            node = old
        self.nodes[node.uid] = node
        self._monitors.seen(self._kind, obj, node, old)

    def _drop(self, uid: str) -> None:
        node = self.nodes.pop(uid, None)
        if node is not None:
            self._monitors.gone(self._kind, node)
