"""What controllers of workloads do with the objects they control: claim, create, delete. The effects of their plans.

A controller owns what its owner reference says and its selector matches: an orphan that matches is adopted, one of its
own that no longer matches is released; both only if the object is still the one that was seen (the patch has its uid).
Creations start slowly, 1, 2, 4 …, so that a quota or an admission that refuses all is asked once, not 500 times.

Source: k8s.io/kubernetes, pkg/controller/controller_ref_manager.go, controller_utils.go; pkg/controller/replicaset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from havre.api.errors import ApiError, Invalid, NotFound
from havre.api.meta import Obj, controller_of, labels_of
from havre.control.workloads.pods import POD, is_leaving
from havre.kit import names
from havre.lang.json import copied
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Plan
from havre.machinery.events import Note
from havre.machinery.informer import CachedReads
from havre.machinery.owners import reference

MANAGER = "kube-controller-manager"
BURST = 500  # pods created or deleted in one pass; upstream's number
FIRST_BATCH = 1


@dataclass(slots=True)
class Done:
    """How the steps of a plan went: what to tell, and what stopped them."""

    created: list[Obj] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    error: ApiError | None = None

    def say(self, reason: str, message: str) -> None:
        self.notes.append(Note(reason, message))

    def warn(self, reason: str, message: str) -> None:
        self.notes.append(Note(reason, message, "Warning"))

    def plan(self, again: float | None, status: Mapping[str, Any]) -> Plan:
        """The Plan that reports it."""
        return Plan(status=status, again=again, notes=tuple(self.notes), failed=self.error)


# claims


@dataclass(frozen=True, slots=True)
class Claims:
    """Whose the objects are: ours, orphans to adopt, ours to release."""

    ours: tuple[Obj, ...]
    adopt: tuple[Obj, ...] = ()
    release: tuple[Obj, ...] = ()


def claims(owner: Obj, selects: Callable[[Obj], bool], objects: Iterable[Obj]) -> Claims:
    """Pure. An owner that is being deleted changes nothing."""
    uid, ending = owner["metadata"]["uid"], bool(owner["metadata"].get("deletionTimestamp"))
    ours: list[Obj] = []
    adopt: list[Obj] = []
    release: list[Obj] = []
    for obj in objects:
        controller = controller_of(obj)
        if controller is not None and controller["uid"] != uid:
            continue
        if controller is not None:
            (ours if selects(obj) else release).append(obj)
        elif selects(obj) and not is_leaving(obj):
            adopt.append(obj)
    return Claims(tuple(ours)) if ending else Claims(tuple(ours), tuple(adopt), tuple(release))


async def claim(
    owner: Obj, selector: LabelSelector, objects: Iterable[Obj], api: Api, *, finalizers: Sequence[str] = ()
) -> list[Obj]:
    """The objects that are the owner's, after adopting and releasing. Not to be changed.

    `finalizers` are set with adoption and removed with release.
    """
    found = claims(owner, lambda obj: selector.matches(labels_of(obj)), objects)
    ours = [*found.ours]
    if found.adopt and await lives(owner, api):
        for obj in found.adopt:
            if stored := await _attempt(adopt(owner, obj, api, finalizers)):
                ours.append(stored)
    for obj in found.release:
        await _attempt(release(owner, obj, api, finalizers))
    return ours


async def lives(owner: Obj, api: Api) -> bool:
    """Asked of the server, not of a cache: is the owner still there, and stays?"""
    live = await (api.live if isinstance(api, CachedReads) else api).get(Ref.of(owner))
    same = live is not None and live["metadata"]["uid"] == owner["metadata"]["uid"]
    return same and not (live or owner)["metadata"].get("deletionTimestamp")


async def adopt(owner: Obj, obj: Obj, api: Api, finalizers: Sequence[str] = ()) -> Obj:
    meta: Obj = {"uid": obj["metadata"]["uid"], "ownerReferences": [reference(owner)]}
    if finalizers:
        meta["finalizers"] = [*finalizers]
    return await api.patch(Ref.of(obj), {"metadata": meta}, kind="strategic", manager=MANAGER)


async def release(owner: Obj, obj: Obj, api: Api, finalizers: Sequence[str] = ()) -> Obj:
    gone = {"$patch": "delete", "uid": owner["metadata"]["uid"]}
    meta: Obj = {"uid": obj["metadata"]["uid"], "ownerReferences": [gone]}
    if finalizers:
        meta["$deleteFromPrimitiveList/finalizers"] = [*finalizers]
    return await api.patch(Ref.of(obj), {"metadata": meta}, kind="strategic", manager=MANAGER)


async def _attempt(patch: Awaitable[Obj]) -> Obj | None:
    """None: the object is gone, or has changed so that the patch says nothing any more."""
    try:
        return await patch
    except (NotFound, Invalid):
        return None


# pods


def pod_of(template: Obj, owner: Obj) -> Obj:
    """A new pod of the template, for the owner; the server completes its name."""
    from_template = template.get("metadata") or {}
    meta: Obj = {
        key: copied(from_template[key]) for key in ("labels", "annotations", "finalizers") if from_template.get(key)
    }
    meta["generateName"] = prefix_of(owner["metadata"]["name"])
    meta["namespace"] = owner["metadata"]["namespace"]
    meta["ownerReferences"] = [reference(owner)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": copied(template.get("spec") or {})}


def prefix_of(name: str) -> str:
    """`web-`, or the name alone where a name cannot begin so."""
    prefix = f"{name}-"
    return name if names.dns1123_subdomain_prefix(prefix) else prefix


async def create_slowly(pods: Sequence[Obj], api: Api, done: Done) -> None:
    """Creates in growing batches and stops after the first batch in which one failed."""
    rest, size = [*pods], FIRST_BATCH
    while rest and done.error is None:
        batch, rest = rest[:size], rest[size:]
        await asyncio.gather(*(create_pod(pod, api, done) for pod in batch))
        size *= 2


async def create_pod(pod: Obj, api: Api, done: Done) -> None:
    try:
        stored = await api.create(pod, manager=MANAGER)
    except ApiError as error:
        if not is_of_ending_namespace(error):
            done.error = error
            done.warn("FailedCreate", f"Error creating: {error}")
        return
    done.created.append(stored)
    done.say("SuccessfulCreate", f"Created pod: {stored['metadata']['name']}")


async def delete_pods(pods: Iterable[Obj], api: Api, done: Done) -> None:
    await asyncio.gather(*(delete_pod(pod, api, done) for pod in pods))


async def delete_pod(pod: Obj, api: Api, done: Done) -> None:
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    try:
        await api.delete(Ref(POD, pod["metadata"]["namespace"], name), uid=uid)
    except NotFound:
        return
    except ApiError as error:
        done.error = error
        done.warn("FailedDelete", f"Error deleting: {error}")
        return
    done.say("SuccessfulDelete", f"Deleted pod: {name}")


def is_of_ending_namespace(error: ApiError) -> bool:
    """Nothing can be created there any more, and everything will go: no failure to report."""
    causes = (error.details or {}).get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
