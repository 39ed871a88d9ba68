"""Garbage collector: what nobody owns any more goes, in the order and the way that its owner's deletion asked for.

reads   every served kind, custom ones too (through `monitors`); owners live, before anything is deleted
writes  deletes objects; their ownerReferences; the finalizers `orphan` and `foregroundDeletion`; Event
wakes   on every object that appears, changes owners or finalizers, or goes
source  k8s.io/kubernetes, pkg/controller/garbagecollector

Background: dependents go after their last owner. Foreground: the owner stays until those who block it are gone.
Orphan: dependents lose their reference and live on. The thinking is in `graph`; here are the reading and the writing.
Nothing is collected before every kind has been read once, and all knowledge can be read again: killing this process at
any point loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from havre.api import deletion
from havre.api.errors import ApiError, Conflict, NotFound
from havre.api.kinds import Kind
from havre.api.meta import Obj
from havre.control.workloads.graph import (
    Action,
    Delete,
    Finish,
    Graph,
    Hurry,
    Keep,
    Node,
    Orphan,
    Owner,
    Release,
    Verdict,
)
from havre.control.workloads.monitors import Monitors
from havre.machinery.api import Api, Ref
from havre.machinery.events import Note, Recorder
from havre.machinery.queue import Queue

log = logging.getLogger(__name__)

COMPONENT = "garbage-collector-controller"
WORKERS = 20  # upstream's; a worker waits for one answer at a time
RETRY = 0.2  # seconds before the first retry; the object lost a race with a write of somebody else
TRIES = 5  # of one write that loses races, before the queue takes over


class NotServed(ApiError):
    """The kind of an owner is not served now: it may come back, so nothing may be concluded."""


class GarbageCollector:
    """A listener of the monitors, with a queue of the objects to look at."""

    def __init__(self, api: Api, monitors: Monitors, recorder: Recorder | None = None) -> None:
        self.graph = Graph()
        self.queue: Queue[str] = Queue(base=RETRY)
        self._api = api
        self._monitors = monitors
        self._recorder = recorder or Recorder(api, COMPONENT)
        self._told: dict[str, set[str]] = {}  # dependent → owners of the events written
        monitors.add(self)

    def seen(self, kind: Kind, obj: Obj, node: Node, old: Node | None) -> None:
        if node is not old:
            self._look(self.graph.observe(node))

    def gone(self, kind: Kind, node: Node) -> None:
        self._told.pop(node.uid, None)
        self._look(self.graph.forget(node.uid))

    def _look(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self.queue.add(uid)

    async def run(self) -> None:
        """Collect for ever."""
        await self._monitors.synced.wait()
        await self.queue.work(self._handle, WORKERS)

    async def _handle(self, uid: str) -> None:
        try:
            settled = await self.look(uid)
        except ApiError as error:
            log.debug("will look again", extra={"uid": uid, "error": str(error)})
            settled = False
        except Exception:  # a bug with one object must not stop the others
            log.exception("cannot collect", extra={"uid": uid})
            settled = False
        if settled:
            self.queue.forget(uid)
        else:
            self.queue.retry(uid)

    async def look(self, uid: str) -> bool:
        """Do what is due for one object; False: look again later. Raises ApiError."""
        known = self.graph.node(uid)
        if known is None:
            return True
        await self._tell_misplaced(known)
        if not (known.owners or known.foreground or known.orphan):
            return True
        live = await self._api.get(known.ref)
        if live is None or live["metadata"]["uid"] != uid:
            return False  # its deletion has happened, and the watch will tell; if that broke, the next list
        item = Node.of(live, known.ref.gvk)
        verdicts = [] if item.deleting else [await self._verdict(item, owner) for owner in item.owners]
        await self._act(item, self.graph.decide(item, verdicts), live["metadata"]["resourceVersion"])
        # an owner that lives, but whose deletion no watch would tell us: ask again
        return all(self.graph.node(o.uid) for o, v in zip(item.owners, verdicts, strict=False) if v is Verdict.SOLID)

    async def _verdict(self, item: Node, owner: Owner) -> Verdict:
        known = self.graph.verdict(item, owner)
        return known or await self._ask(item, owner)

    async def _ask(self, item: Node, owner: Owner) -> Verdict:
        """Ask the server for the owner, by its name in the reference and where it would have to be."""
        kind = self._monitors.kinds.get(owner.gvk)
        if kind is None:
            raise NotServed(f"collect {item.ref}: its owner is a {owner.gvk.kind}, a kind that is not served")
        if kind.namespaced and not item.ref.namespace:
            return Verdict.INVALID
        namespace = item.ref.namespace if kind.namespaced else ""
        found = await self._api.get(Ref(owner.gvk, namespace, owner.name))
        if found is None or found["metadata"]["uid"] != owner.uid:
            self.graph.absent(owner, namespace)
            return Verdict.ABSENT
        return Verdict.WAITING if Node.of(found).waits else Verdict.SOLID

    async def _act(self, item: Node, action: Action, revision: str) -> None:
        """Carry out what was decided about the object at this revision. Raises ApiError."""
        match action:
            case Delete(propagation, unblock):
                if unblock:
                    await self._change(item, _unblocked)
                    revision = ""  # our own change; what it does not touch was not looked at by anybody else
                with suppress(NotFound):
                    await self._api.delete(item.ref, uid=item.uid, revision=revision, propagation=propagation)
            case Release(owners):
                await self._change(item, lambda obj: _released(obj, owners))
            case Orphan(dependents):
                await self._orphan(item, dependents)
                await self._change(item, lambda obj: deletion.remove_finalizer(obj, deletion.ORPHAN))
            case Finish():
                await self._change(item, lambda obj: deletion.remove_finalizer(obj, deletion.FOREGROUND))
            case Hurry(dependents):
                self._look(dependents)
            case Keep():
                pass

    async def _orphan(self, owner: Node, dependents: Iterable[str]) -> None:
        gone = frozenset({owner.uid})
        known = filter(None, map(self.graph.node, dependents))
        changes = (self._change(node, lambda obj: _released(obj, gone)) for node in known)
        for result in await asyncio.gather(*changes, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _change(self, item: Node, edit: Callable[[Obj], Obj]) -> None:
        """Edit the metadata of exactly this object, as it is now; nothing to do when it is gone. Raises ApiError."""
        for left in reversed(range(TRIES)):
            live = await self._api.get(item.ref)
            if live is None or live["metadata"]["uid"] != item.uid:
                return
            meta = edit(live)["metadata"]
            patch = {key: meta[key] for key in ("uid", "resourceVersion")}
            patch |= {key: meta.get(key) or None for key in ("ownerReferences", "finalizers")}
            try:
                await self._api.patch(item.ref, {"metadata": patch}, kind="merge", manager=COMPONENT)
                return
            except NotFound:
                return
            except Conflict:
                if not left:
                    raise

    async def _tell_misplaced(self, node: Node) -> None:
        """A namespaced owner in another namespace is none: say so once, for the object may be deleted."""
        for owner in self.graph.misplaced(node.uid):
            told = self._told.setdefault(node.uid, set())
            if owner.uid in told:
                continue
            told.add(owner.uid)
            await self._recorder.record(_object(node), misplaced(node, owner))


def misplaced(node: Node, owner: Owner) -> Note:
    """The event on an object that names an owner of another namespace."""
    space = node.ref.namespace
    identity = f"[{owner.gvk.api_version}/{owner.gvk.kind}, namespace: {space}, name: {owner.name}, uid: {owner.uid}]"
    text = f'ownerRef {identity} does not exist in namespace "{space}"'
    return Note("OwnerRefInvalidNamespace", text, "Warning")


def _object(node: Node) -> Obj:
    ref = node.ref
    meta = {"name": ref.name, "uid": node.uid} | ({"namespace": ref.namespace} if ref.namespace else {})
    return {"apiVersion": ref.gvk.api_version, "kind": ref.gvk.kind, "metadata": meta}


def _released(obj: Obj, owners: frozenset[str]) -> Obj:
    """`obj` (changed in place) without the references to these owners."""
    refs = obj["metadata"].get("ownerReferences") or ()
    obj["metadata"]["ownerReferences"] = [ref for ref in refs if ref["uid"] not in owners]
    return obj


def _unblocked(obj: Obj) -> Obj:
    """`obj` (changed in place): no owner waits for it any more."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("blockOwnerDeletion"):
            ref["blockOwnerDeletion"] = False
    return obj
