"""Storage protection: a claim that a pod uses, a volume that is bound and a class in use outlive their deletion.

reads   PersistentVolumeClaim, PersistentVolume, VolumeAttributesClass; Pod
writes  their finalizers kubernetes.io/{pvc,pv,vac}-protection: there while needed, gone when nothing holds the object
wakes   on each of the three; the end of a Pod wakes the claims of its namespace, that of a claim or volume the classes
source  k8s.io/kubernetes, pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}

A claim is used by pods that have a node: no kubelet starts a pod whose claim is being deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from havre.api.errors import NotFound
from havre.api.meta import GVK, Obj
from havre.control.workloads.chore import Change, Chore
from havre.machinery.api import Api, Ref

CLAIM: Final = GVK("", "v1", "PersistentVolumeClaim")
VOLUME: Final = GVK("", "v1", "PersistentVolume")
CLASS: Final = GVK("storage.k8s.io", "v1", "VolumeAttributesClass")
POD: Final = GVK("", "v1", "Pod")
MANAGER: Final = "kube-controller-manager"
FINALIZERS: Final = {
    CLAIM: "kubernetes.io/pvc-protection",
    VOLUME: "kubernetes.io/pv-protection",
    CLASS: "kubernetes.io/vac-protection",
}
EVERY: Final = ""  # in the place of a name: all objects of the kind, there


def plan(obj: Obj, finalizer: str, *, used: bool) -> Obj | None:
    """The object with the right finalizers; None when they are right."""
    meta = obj["metadata"]
    finalizers = meta.get("finalizers") or []
    deleting = "deletionTimestamp" in meta
    if deleting and not used and finalizer in finalizers:
        return {**obj, "metadata": {**meta, "finalizers": [each for each in finalizers if each != finalizer]}}
    if not deleting and finalizer not in finalizers:
        return {**obj, "metadata": {**meta, "finalizers": [*finalizers, finalizer]}}
    return None


def holds(pod: Obj, claim: str) -> bool:
    """Whether a pod of the same namespace uses the claim."""
    if not pod["spec"].get("nodeName"):
        return False
    return any(_claim_of(pod, volume) == claim for volume in pod["spec"].get("volumes") or ())


def _claim_of(pod: Obj, volume: Obj) -> str:
    """The claim behind a volume; the one of an ephemeral volume is named after both. "" when there is none."""
    if "ephemeral" in volume:
        return f"{pod['metadata']['name']}-{volume['name']}"
    return str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "")


def classes_of(obj: Obj) -> set[str]:
    """The attributes classes that a claim or volume has, had and is to have."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    target = (status.get("modifyVolumeStatus") or {}).get("targetVolumeAttributesClassName")
    named = (spec.get("volumeAttributesClassName"), status.get("currentVolumeAttributesClassName"), target)
    return {str(name) for name in named if name}


async def _used(ref: Ref, obj: Obj, api: Api) -> bool:
    if ref.gvk == VOLUME:
        return bool((obj.get("status") or {}).get("phase") == "Bound")
    if ref.gvk == CLAIM:
        return any(holds(pod, ref.name) for pod in (await api.list(POD, ref.namespace)).items)
    for gvk in (CLAIM, VOLUME):
        if any(ref.name in classes_of(each) for each in (await api.list(gvk)).items):
            return True
    return False


async def reconcile(ref: Ref, api: Api) -> None:
    """Raises Conflict after a lost race: the next look is soon."""
    if ref.name == EVERY:
        found = (await api.list(ref.gvk, ref.namespace)).items
    else:
        live = await api.get(ref)
        found = [] if live is None else [live]
    for obj in found:
        here = Ref(ref.gvk, ref.namespace, obj["metadata"]["name"])
        used = "deletionTimestamp" in obj["metadata"] and await _used(here, obj, api)
        wanted = plan(obj, FINALIZERS[ref.gvk], used=used)
        if wanted is not None:
            try:
                await api.update(wanted, manager=MANAGER)
            except NotFound:
                continue  # gone without us


def wakes(change: Change) -> Iterable[Ref]:
    gvk, ref = change.kind.gvk, change.node.ref
    if gvk in FINALIZERS and change.obj is not None:
        yield ref
    elif gvk == POD and change.obj is None:
        yield Ref(CLAIM, ref.namespace, EVERY)
    elif gvk in (CLAIM, VOLUME):
        yield Ref(CLASS, "", EVERY)


def chore() -> Chore:
    return Chore("storage-protection", reconcile, wakes)
