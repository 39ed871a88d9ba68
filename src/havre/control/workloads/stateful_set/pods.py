"""What a pod of a StatefulSet looks like: its name has its number, and its claims have its name. Pure.

Source: k8s.io/kubernetes, pkg/controller/statefulset/stateful_set_utils.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from havre.api.meta import Obj, labels_of, name_of, namespace_of
from havre.control.workloads import dependents
from havre.control.workloads.controller_revision import POD_LABEL
from havre.lang.json import copied

NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"


def ordinal_of(set: Obj, pod: Obj) -> int | None:
    """Its number, if its name is one of the set."""
    name, _, number = name_of(pod).rpartition("-")
    return int(number) if name == name_of(set) and number.isdecimal() and str(int(number)) == number else None


def revision_of(pod: Obj) -> str:
    return labels_of(pod).get(POD_LABEL, "")


def new_pod(set: Obj, template: Obj, ordinal: int, revision: str) -> Obj:
    pod = dependents.pod_of(template, set)
    meta, spec = pod["metadata"], pod["spec"]
    del meta["generateName"]
    meta["name"] = f"{name_of(set)}-{ordinal}"
    meta["labels"] = {**(meta.get("labels") or {}), **identity(meta["name"], ordinal), POD_LABEL: revision}
    spec["hostname"] = meta["name"]
    if set["spec"].get("serviceName"):
        spec["subdomain"] = set["spec"]["serviceName"]
    own = [
        {"name": name, "persistentVolumeClaim": {"claimName": name_of(claim)}}
        for name, claim in claims_of(set, ordinal).items()
    ]
    names = {volume["name"] for volume in own}
    volumes = [*own, *(volume for volume in spec.get("volumes") or () if volume["name"] not in names)]
    if volumes:
        spec["volumes"] = volumes
    return pod


def identity(name: str, ordinal: int) -> dict[str, str]:
    return {NAME_LABEL: name, INDEX_LABEL: str(ordinal)}


def has_identity(pod: Obj) -> bool:
    return labels_of(pod).get(NAME_LABEL) == name_of(pod)


def claims_of(set: Obj, ordinal: int) -> Mapping[str, Obj]:
    """The claims of one pod, by the name of their template."""
    found: dict[str, Obj] = {}
    selected = (set["spec"].get("selector") or {}).get("matchLabels") or {}
    for template in set["spec"].get("volumeClaimTemplates") or ():
        claim: Obj = copied(template)
        meta = claim["metadata"]
        name = meta["name"]
        meta |= {"name": f"{name}-{name_of(set)}-{ordinal}", "namespace": namespace_of(set)}
        meta["labels"] = {**(meta.get("labels") or {}), **selected}
        claim |= {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        claim.pop("status", None)
        found[name] = claim
    return found
