"""Who owns a claim of a StatefulSet, so that it goes when the retention policy says so. Pure.

| whenScaled | whenDeleted | owner                                         |
|------------|-------------|-----------------------------------------------|
| Retain     | Retain      | nobody                                        |
| Retain     | Delete      | the set                                       |
| Delete     | Retain      | the pod, once it is beyond the replicas       |
| Delete     | Delete      | the set; the pod, once it is beyond the replicas |

Source: k8s.io/kubernetes, pkg/controller/statefulset/stateful_set_utils.go (updateClaimOwnerRefForSetAndPod).
"""

from __future__ import annotations

from collections.abc import Sequence

from havre.api.meta import Obj
from havre.machinery.owners import reference

DELETE = "Delete"


def owners(set: Obj, pod: Obj, claim: Obj, *, condemned: bool) -> list[Obj] | None:
    """The owner references to write; None when they are right, or the claim is another controller's."""
    held = claim["metadata"].get("ownerReferences") or []
    us = {set["metadata"]["uid"], pod["metadata"]["uid"]}
    if _is_stale(held, set, pod):
        return None  # of a set or a pod of the same name before: they go first
    others = [each for each in held if each["uid"] not in us]
    wanted = [] if any(each.get("controller") for each in others) else _wanted(set, pod, condemned=condemned)
    new = [*others, *wanted]
    return None if {_key(each) for each in new} == {_key(each) for each in held} else new


def _wanted(set: Obj, pod: Obj, *, condemned: bool) -> list[Obj]:
    policy = set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    if policy.get("whenScaled") == DELETE and condemned:
        return [reference({"apiVersion": "v1", "kind": "Pod", **pod})]
    return [reference(set)] if policy.get("whenDeleted") == DELETE else []


def _is_stale(held: Sequence[Obj], set: Obj, pod: Obj) -> bool:
    now = {("StatefulSet", set["metadata"]["name"]): set, ("Pod", pod["metadata"]["name"]): pod}
    found = [(now.get((each["kind"], each["name"])), each["uid"]) for each in held]
    return any(owner is not None and owner["metadata"]["uid"] != uid for owner, uid in found)


def of_a_former_pod(claim: Obj, name: str) -> bool:
    """It goes with a pod of this name that is gone, or going: the next pod must not have it."""
    held = claim["metadata"].get("ownerReferences") or ()
    return any(each["kind"] == "Pod" and each["name"] == name for each in held)


def _key(reference: Obj) -> tuple[str, bool]:
    return reference["uid"], bool(reference.get("controller"))
