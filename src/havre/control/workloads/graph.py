"""Who owns whom, and what follows from it: the garbage collector's picture of the cluster and its decisions, pure.

The graph keeps one small node per object: identity, owner references, whether it is being deleted and how. Events go
in (`observe`, `forget`), the uids that deserve a look come out. `verdict` says what the graph knows of an owner, or
that only the server can tell; `decide` turns the verdicts on all owners of an object into one action.

An owner counts as absent only when its deletion was seen or the server said so. Nothing is deleted on the word of the
graph alone: what the graph does not know yet is no proof of absence.

Source: k8s.io/kubernetes, pkg/controller/garbagecollector (graph_builder.go, garbagecollector.go).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from sys import intern
from typing import NamedTuple

from havre.api.deletion import FOREGROUND, ORPHAN
from havre.api.meta import GVK, Obj, split_api_version
from havre.machinery.api import Propagation, Ref

REMEMBERED = 10_000  # absent owners: 10,000 × 300 bytes = 3 MB; forgetting one costs a GET


class Owner(NamedTuple):
    """An owner reference; `blocks`: a foreground deletion of the owner waits for this dependent."""

    uid: str
    gvk: GVK
    name: str
    blocks: bool

    @classmethod
    def of(cls, ref: Obj) -> Owner:
        return _owner(*map(ref.get, ("uid", "apiVersion", "kind", "name", "blockOwnerDeletion")))


@lru_cache(16_384)  # siblings share one object: 16,384 × 500 bytes = 8 MB at most
def _owner(uid: str, api_version: str, kind: str, name: str, blocks: bool | None) -> Owner:
    return Owner(uid or "", GVK(*split_api_version(api_version or ""), kind or ""), name or "", bool(blocks))


class Node(NamedTuple):
    """What the collector keeps of an object: about 400 bytes."""

    uid: str
    ref: Ref
    owners: tuple[Owner, ...] = ()
    deleting: bool = False
    foreground: bool = False  # holds the finalizer that waits for the dependents
    orphan: bool = False  # holds the finalizer that lets the dependents go

    @classmethod
    def of(cls, obj: Obj, gvk: GVK | None = None) -> Node:
        """`gvk` of the list or watch it came from; shared by all its nodes."""
        meta = obj["metadata"]
        finalizers = meta.get("finalizers") or ()
        return cls(
            meta["uid"],
            Ref(gvk or GVK.of(obj), intern(meta.get("namespace") or ""), meta["name"]),
            tuple(map(Owner.of, meta.get("ownerReferences") or ())),
            bool(meta.get("deletionTimestamp")),
            FOREGROUND in finalizers,
            ORPHAN in finalizers,
        )

    @property
    def waits(self) -> bool:
        """Is it being deleted in the foreground?"""
        return self.deleting and self.foreground


class Verdict(Enum):
    """What becomes of an object as far as one of its owners is concerned."""

    SOLID = auto()  # the owner lives
    ABSENT = auto()  # there is no such owner
    WAITING = auto()  # the owner is being deleted and waits for its dependents
    INVALID = auto()  # cluster-wide object, namespaced owner: can never be, and is left alone


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object; `unblock` first, so that a cycle of foreground deletions ends."""

    propagation: Propagation
    unblock: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Take the references to these owners away."""

    owners: frozenset[str]


@dataclass(frozen=True, slots=True)
class Orphan:
    """Take the references to this object away from its dependents, then its finalizer."""

    dependents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Every dependent that blocks is gone: take the finalizer away."""


@dataclass(frozen=True, slots=True)
class Hurry:
    """Look at these dependents: their deletion is what the object waits for."""

    dependents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do."""


Action = Delete | Release | Orphan | Finish | Hurry | Keep
KEEP = Keep()


class Graph:
    """The nodes by uid, and who depends on whom."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._dependents: dict[str, set[str]] = {}  # owner uid, seen or not → uids
        self._absent: OrderedDict[tuple[str, Ref | None], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, uid: str) -> Node | None:
        return self._nodes.get(uid)

    def nodes(self) -> Iterable[Node]:
        return self._nodes.values()

    def dependents(self, uid: str) -> list[Node]:
        return [self._nodes[dependent] for dependent in self._dependents.get(uid, ())]

    def observe(self, new: Node) -> set[str]:
        """An object was added or changed; returns whom to look at."""
        old = self._nodes.get(new.uid)
        if old == new:
            return set()
        self._nodes[new.uid] = new
        before = old.owners if old else ()
        if before != new.owners:
            self._relink(new.uid, before, new.owners)
        look = self._unblocked(before, new.owners)
        if self._needs_a_look(new, before):
            look.add(new.uid)
        if new.deleting and not (old and old[3:] == new[3:]):
            if new.waits:
                look |= self._dependents.get(new.uid, set())
            if new.foreground or new.orphan:
                look.add(new.uid)
        if old is None:  # dependents came first, and may have named it wrongly
            look.update(d.uid for d in self.dependents(new.uid) if not self._names(d, new))
        return look

    def forget(self, uid: str) -> set[str]:
        """An object was seen to be gone; returns whom to look at."""
        old = self._nodes.pop(uid, None)
        look = set(self._dependents.get(uid, ()))
        if look:
            self._remember((uid, None))
        if old is not None:
            self._relink(uid, old.owners, ())
            look.update(owner.uid for owner in old.owners if self._waits(owner.uid))
        return look

    def misplaced(self, uid: str) -> list[Owner]:
        """The owners that live in another namespace than `uid`, who says that they own it."""
        node = self._nodes[uid]
        return [
            owner
            for owner in node.owners
            if (found := self._nodes.get(owner.uid)) and found.ref.namespace not in ("", node.ref.namespace)
        ]

    def absent(self, owner: Owner, namespace: str) -> None:
        """The server said that there is no such owner in this namespace ("" for a cluster-wide kind)."""
        self._remember((owner.uid, Ref(owner.gvk, namespace, owner.name)))

    def verdict(self, item: Node, owner: Owner) -> Verdict | None:
        """What the graph knows; None: ask the server."""
        found = self._nodes.get(owner.uid)
        if found is not None:
            right = found.ref.gvk == owner.gvk and found.ref.name == owner.name
            if right and found.ref.namespace in ("", item.ref.namespace):
                return None if found.waits else Verdict.SOLID  # it may have been asked to orphan since
        elif (owner.uid, None) in self._absent:
            return Verdict.ABSENT
        for namespace in {"", item.ref.namespace}:
            if (owner.uid, Ref(owner.gvk, namespace, owner.name)) in self._absent:
                return Verdict.ABSENT
        return None

    def decide(self, item: Node, verdicts: Sequence[Verdict]) -> Action:
        """What to do with a live object, given the verdicts on its owners, in their order."""
        if item.deleting:
            return self._ending(item)
        if not item.owners or Verdict.INVALID in verdicts:
            return KEEP
        if Verdict.SOLID in verdicts:
            loose = frozenset(o.uid for o, v in zip(item.owners, verdicts, strict=True) if v is not Verdict.SOLID)
            return Release(loose) if loose else KEEP
        dependents = self.dependents(item.uid)
        if Verdict.WAITING in verdicts and dependents:
            return Delete("Foreground", unblock=any(d.waits for d in dependents))
        return Delete("Orphan" if item.orphan else "Foreground" if item.foreground else "Background")

    def _ending(self, item: Node) -> Action:
        """Being deleted is a way without return: only the own dependents matter."""
        dependents = self.dependents(item.uid)
        if item.orphan:
            return Orphan(tuple(sorted(d.uid for d in dependents)))
        if not item.foreground:
            return KEEP
        blocking = [d for d in dependents if any(o.blocks and o.uid == item.uid for o in d.owners)]
        if not blocking:
            return Finish()
        return Hurry(tuple(sorted(d.uid for d in blocking if not d.waits)))

    def _needs_a_look(self, new: Node, before: Collection[Owner]) -> bool:
        """Has it gained an owner that is not known to live where and as it says?"""
        return any(o not in before and self.verdict(new, o) is not Verdict.SOLID for o in new.owners)

    def _unblocked(self, before: Iterable[Owner], after: Iterable[Owner]) -> set[str]:
        """Owners in foreground deletion that this dependent no longer blocks."""
        blocked = {o.uid for o in before if o.blocks}
        return {uid for uid in blocked - {o.uid for o in after if o.blocks} if self._waits(uid)}

    def _waits(self, uid: str) -> bool:
        node = self._nodes.get(uid)
        return node is not None and node.waits

    @staticmethod
    def _names(dependent: Node, owner: Node) -> bool:
        """Do all references of `dependent` to `owner` name it as it is?"""
        if owner.ref.namespace not in ("", dependent.ref.namespace):
            return False
        return all(o.gvk == owner.ref.gvk and o.name == owner.ref.name for o in dependent.owners if o.uid == owner.uid)

    def _relink(self, uid: str, before: Iterable[Owner], after: Iterable[Owner]) -> None:
        was, now = {o.uid for o in before}, {o.uid for o in after}
        for owner in was - now:
            left = self._dependents[owner]
            left.discard(uid)
            if not left:
                del self._dependents[owner]
        for owner in now - was:
            self._dependents.setdefault(owner, set()).add(uid)

    def _remember(self, key: tuple[str, Ref | None]) -> None:
        self._absent[key] = None
        self._absent.move_to_end(key)
        if len(self._absent) > REMEMBERED:
            self._absent.popitem(last=False)
