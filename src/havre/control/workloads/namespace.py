"""Namespace: one that is being deleted is emptied, then let go.

reads   Namespace; every namespaced kind, custom ones too
writes  deletes the objects; Namespace.status.conditions; takes the finalizer `kubernetes` away
wakes   on Namespace; an object that goes (or changes its finalizers) wakes its namespace, if that is being deleted
source  k8s.io/kubernetes, pkg/controller/namespace/deletion

Pods go first, and while one is left nothing else is touched: they may need their secrets and policies to end well.
Other finalizers than ours are waited for, without polling: the last object that goes wakes us.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from havre.api.errors import ApiError, Conflict, MethodNotAllowed, NotFound
from havre.api.kinds import Kind
from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.served import Discover, DiscoveryFailed, once
from havre.machinery import conditions
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import Condition

NAMESPACE = GVK("", "v1", "Namespace")
POD = GVK("", "v1", "Pod")
FINALIZER = "kubernetes"
MANAGER = "kube-controller-manager"
IN_FLIGHT = 64  # deletions at once: enough to fill one commit of the store, few enough to leave room for others
AGAIN = 15.0  # seconds until a namespace that waits is looked at without being woken; upstream's estimate

_FINE = {  # type → (reason, message) while all is well, in the order of the status
    "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": (
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}


@dataclass(slots=True)
class Seen:
    """What one pass found and could not do."""

    remaining: Counter[tuple[str, str]] = field(default_factory=Counter)  # (plural, group)
    finalizers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    undiscovered: str = ""
    found: bool = False  # something was there to delete

    @property
    def empty(self) -> bool:
        return not (self.remaining or self.errors or self.undiscovered)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to write: the status conditions if they changed, and whether the namespace may go."""

    conditions: list[Obj] | None
    finished: bool


def is_active(namespace: Obj) -> bool:
    """May something be created in it? `{}` stands for one that is gone."""
    if not namespace or namespace["metadata"].get("deletionTimestamp"):
        return False
    return (namespace.get("status") or {}).get("phase") != "Terminating"


def finalizing(namespace: Obj) -> bool:
    """Is it being deleted, and still held by us?"""
    held = FINALIZER in ((namespace.get("spec") or {}).get("finalizers") or ())
    return held and bool(namespace["metadata"].get("deletionTimestamp"))


def plan(namespace: Obj, seen: Seen, now: str) -> Verdict:
    """The conditions after this pass; `now` in RFC 3339."""
    before = (namespace.get("status") or {}).get("conditions") or []
    problems = _problems(seen)
    wanted = [Condition(type_, type_ in problems, *problems.get(type_, fine)) for type_, fine in _FINE.items()]
    after = conditions.merge(before, wanted, now=now, transient=())
    return Verdict(after if after != before else None, seen.empty and not seen.found)


def _problems(seen: Seen) -> dict[str, tuple[str, str]]:
    problems: dict[str, tuple[str, str]] = {}
    if seen.undiscovered:
        problems["NamespaceDeletionDiscoveryFailure"] = "DiscoveryFailed", seen.undiscovered
    if seen.errors:
        text = f"Failed to delete all resource types, {len(seen.errors)} remaining: {', '.join(sorted(seen.errors))}"
        problems["NamespaceDeletionContentFailure"] = "ContentDeletionFailed", text
    if seen.remaining:
        parts = sorted(f"{plural}.{group} has {n} resource instances" for (plural, group), n in seen.remaining.items())
        problems["NamespaceContentRemaining"] = (
            "SomeResourcesRemain",
            f"Some resources are remaining: {', '.join(parts)}",
        )
    if seen.finalizers:
        parts = sorted(f"{name} in {n} resource instances" for name, n in seen.finalizers.items())
        problems["NamespaceFinalizersRemaining"] = (
            "SomeFinalizersRemain",
            f"Some content in the namespace has finalizers remaining: {', '.join(parts)}",
        )
    return problems


async def reconcile(ref: Ref, api: Api, *, discover: Discover, now: Callable[[], float]) -> float | None:
    """One pass; returns the seconds until it should be looked at again, unless something wakes it before."""
    namespace = await api.get(ref)
    if namespace is None or not finalizing(namespace):
        return None
    seen = await _emptied(api, ref.name, discover)
    verdict = plan(namespace, seen, rfc3339(now()))
    try:
        if verdict.finished:
            await _let_go(api, namespace)
            return None
        if seen.empty:
            return 0.0  # what was admitted before the end began may have arrived meanwhile: look once more
        if verdict.conditions is not None:
            status = {**(namespace.get("status") or {}), "phase": "Terminating", "conditions": verdict.conditions}
            await api.update({**namespace, "status": status}, manager=MANAGER, subresource="status")
    except NotFound:
        return None
    return AGAIN


async def _let_go(api: Api, namespace: Obj) -> None:
    """Others may hold it with finalizers of their own: those stay. Raises Conflict."""
    left = [name for name in namespace["spec"]["finalizers"] if name != FINALIZER]
    await api.update(
        {**namespace, "spec": {**namespace["spec"], "finalizers": left}}, manager=MANAGER, subresource="finalize"
    )


async def _emptied(api: Api, namespace: str, discover: Discover) -> Seen:
    """Delete everything that is there; what is left afterwards."""
    seen = Seen()
    try:
        kinds = await discover()
    except DiscoveryFailed as error:
        kinds, seen.undiscovered = error.kinds, str(error)
    wanted = [kind for kind in once(kinds, "list", "delete") if kind.namespaced]
    gate = asyncio.Semaphore(IN_FLIGHT)
    await _each(_empty_kind(api, kind, namespace, seen, gate) for kind in wanted if kind.gvk == POD)
    if not seen.remaining and not seen.errors:
        await _each(_empty_kind(api, kind, namespace, seen, gate) for kind in wanted if kind.gvk != POD)
    return seen


async def _empty_kind(api: Api, kind: Kind, namespace: str, seen: Seen, gate: asyncio.Semaphore) -> None:
    try:
        objects = await _list(api, kind, namespace, gate)
        if not objects:
            return
        seen.found = True
        await _each(
            _delete(api, Ref(kind.gvk, namespace, obj["metadata"]["name"]), obj["metadata"]["uid"], gate)
            for obj in objects
            if not obj["metadata"].get("deletionTimestamp")
        )
        objects = await _list(api, kind, namespace, gate)
    except ApiError as error:
        seen.errors.append(str(error))
        return
    if objects:
        seen.remaining[kind.plural, kind.group] += len(objects)
        seen.finalizers.update(name for obj in objects for name in obj["metadata"].get("finalizers") or ())


async def _list(api: Api, kind: Kind, namespace: str, gate: asyncio.Semaphore) -> list[Obj]:
    async with gate:
        try:
            return (await api.list(kind.gvk, namespace)).items
        except (NotFound, MethodNotAllowed):  # the kind went away meanwhile, or cannot be listed
            return []


async def _delete(api: Api, ref: Ref, uid: str, gate: asyncio.Semaphore) -> None:
    async with gate:
        try:
            await api.delete(ref, uid=uid, propagation="Background")
        except (NotFound, Conflict):  # gone already; or a successor of the same name, which the list will show
            return


async def _each(work: Iterable[Awaitable[None]]) -> None:
    """All at once; the first error after all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


class Ending:
    """Whom a change concerns: the namespace itself, and whatever it lives in, if that is being deleted."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, change: Change) -> Iterable[Ref]:
        ref = change.node.ref
        if ref.gvk == NAMESPACE:
            return self._of_namespace(ref, change.obj)
        if ref.namespace in self._names and (change.obj is None or change.node != change.old):
            return (Ref(NAMESPACE, "", ref.namespace),)
        return ()

    def _of_namespace(self, ref: Ref, namespace: Obj | None) -> Iterable[Ref]:
        if namespace is None or not finalizing(namespace):
            self._names.discard(ref.name)
            return ()
        if ref.name in self._names:
            return ()  # our own word in the status
        self._names.add(ref.name)
        return (ref,)


def chore(discover: Discover, now: Callable[[], float] = time.time) -> Chore:
    return Chore("namespace", partial(reconcile, discover=discover, now=now), Ending())
