"""Whose an object is: owner references where they can point, a label where they cannot. Pure.

Source: k8s.io/apimachinery, pkg/apis/meta/v1/controller_ref.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from havre.api.meta import GVK, Obj, controller_of
from havre.machinery.api import Ref

OWNER_LABEL = "havre.dev/owner"  # uid of an owner in another namespace, where owner references cannot point

Wake = Callable[[Obj], Iterable[Ref]]
"""Whom does a change of an object concern?"""


def reference(owner: Obj) -> Obj:
    """The owner reference of the one object that controls another."""
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def adopted(obj: Obj, owner: Obj) -> Obj:
    """A copy that says whose it is: by owner reference where one can point, else by label."""
    meta, boss = obj["metadata"], owner["metadata"]
    if boss.get("namespace") and boss["namespace"] != meta.get("namespace"):
        return {**obj, "metadata": {**meta, "labels": {**(meta.get("labels") or {}), OWNER_LABEL: boss["uid"]}}}
    others = [other for other in meta.get("ownerReferences") or () if other["uid"] != boss["uid"]]
    return {**obj, "metadata": {**meta, "ownerReferences": [*others, reference(owner)]}}


def owners_of(obj: Obj) -> Iterable[str]:
    """The uids of everything that owns the object."""
    meta: Obj = obj["metadata"]
    for reference in meta.get("ownerReferences") or ():
        yield reference["uid"]
    if uid := (meta.get("labels") or {}).get(OWNER_LABEL):
        yield uid


def by_controller(kind: GVK, *, namespaced: bool = True) -> Wake:
    """Wakes the owner that controls the changed object, if it is of `kind`: for kinds that are watched, not pruned."""

    def wake(obj: Obj) -> Iterable[Ref]:
        owner = controller_of(obj)
        if owner and owner["kind"] == kind.kind and GVK.of(owner).group == kind.group:
            yield Ref(kind, obj["metadata"].get("namespace", "") if namespaced else "", owner["name"])

    return wake
