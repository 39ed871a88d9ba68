"""The claims that a pod names: where their volumes can be reached, and which of them wait for a node to be chosen.

A claim of a class with `WaitForFirstConsumer` gets its volume after the scheduler has written the node it chose into
the annotation `volume.kubernetes.io/selected-node`; the pod is bound when the claim is.

Source: k8s.io/kubernetes, pkg/scheduler/framework/plugins/volumebinding, volumerestrictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from havre.api.meta import GVK, Obj, annotations_of
from havre.api.placement import term_matches
from havre.control.scheduler.cluster import Cluster, Node, Pod
from havre.control.scheduler.filter import Filter, Refusal
from havre.machinery.api import Ref

CLAIM = GVK("", "v1", "PersistentVolumeClaim")
VOLUME = GVK("", "v1", "PersistentVolume")
CLASS = GVK("storage.k8s.io", "v1", "StorageClass")
SELECTED = "volume.kubernetes.io/selected-node"
_ALONE = "ReadWriteOncePod"

Find = Callable[[Ref], Obj | None]


@dataclass(frozen=True, slots=True)
class Claims:
    """What the claims of a pod mean for its place."""

    problem: str = ""  # no node can help
    volumes: tuple[Obj, ...] = ()  # that are bound
    delayed: tuple[Obj, ...] = ()  # claims that wait for the choice
    alone: tuple[str, ...] = ()  # claims that one pod at a time may use


def claims_of(pod: Pod, find: Find) -> Claims:
    volumes, delayed, alone = [], [], []
    for name in names_of(pod):
        claim = find(Ref(CLAIM, pod.namespace, name))
        problem = _problem(name, claim)
        if claim is None or problem:
            return Claims(problem)
        if _ALONE in (claim["spec"].get("accessModes") or ()):
            alone.append(name)
        volume = claim["spec"].get("volumeName")
        if volume:
            found = find(Ref(VOLUME, "", volume))
            if found is None:
                return Claims("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
            volumes.append(found)
        elif _waits_for_consumer(claim, find):
            delayed.append(claim)
        else:
            return Claims("pod has unbound immediate PersistentVolumeClaims")
    return Claims("", tuple(volumes), tuple(delayed), tuple(alone))


def names_of(pod: Pod) -> Iterable[str]:
    for volume in pod.spec.get("volumes") or ():
        if source := volume.get("persistentVolumeClaim"):
            yield source["claimName"]
        elif volume.get("ephemeral"):
            yield f"{pod.ref.name}-{volume['name']}"


def _problem(name: str, claim: Obj | None) -> str:
    if claim is None:
        return f'persistentvolumeclaim "{name}" not found'
    if claim["metadata"].get("deletionTimestamp"):
        return f'persistentvolumeclaim "{name}" is being deleted'
    if (claim.get("status") or {}).get("phase") == "Lost":
        volume = claim["spec"].get("volumeName", "")
        return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
    return ""


def _waits_for_consumer(claim: Obj, find: Find) -> bool:
    storage = find(Ref(CLASS, "", claim["spec"].get("storageClassName") or ""))
    return storage is not None and storage.get("volumeBindingMode") == "WaitForFirstConsumer"


def filter_of(claims: Claims) -> Filter:
    """The filter for one pod with these claims."""

    def out_of_reach(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
        if any(_used_by_another(name, pod, cluster) for name in claims.alone):
            who = f"PersistentVolumeClaim with {_ALONE} access mode already in-use by another pod"
            return Refusal((f"node(s) unavailable due to {who}",))
        if not all(_reaches(volume, node) for volume in claims.volumes):
            return Refusal(("node(s) didn't match PersistentVolume's node affinity",), helpless=True)
        if any(annotations_of(claim).get(SELECTED, node.name) != node.name for claim in claims.delayed):
            return Refusal(("node(s) didn't find available persistent volumes to bind",), helpless=True)
        return None

    return out_of_reach


def _reaches(volume: Obj, node: Node) -> bool:
    required = ((volume["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms")
    return required is None or any(term_matches(term, node.name, node.labels) for term in required)


def _used_by_another(name: str, pod: Pod, cluster: Cluster) -> bool:
    return any(
        other.uid != pod.uid and other.namespace == pod.namespace and name in names_of(other)
        for _, other in cluster.pods()
    )
