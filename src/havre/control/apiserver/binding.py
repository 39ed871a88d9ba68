"""A Binding: the decision that a pod runs on a node, written once and for good.

Source: k8s.io/kubernetes, pkg/registry/core/pod/storage/storage.go (BindingREST).
"""

from __future__ import annotations

import time

from havre.api import deletion
from havre.api.errors import BadRequest, Conflict
from havre.api.meta import GVK, Obj, rfc3339
from havre.control.apiserver.cache import Entry
from havre.control.apiserver.objects import Objects, Options
from havre.control.apiserver.resources import Resource

BINDING = GVK("", "v1", "Binding")


async def bind_pod(objects: Objects, pods: Resource, namespace: str, name: str, body: Obj, options: Options) -> None:
    """Raises BadRequest, NotFound, Conflict (another pod of this name, already bound, being deleted, gated)."""
    node = (body.get("target") or {}).get("name")
    if not node:
        raise BadRequest("bind a pod: the body must be a v1 Binding whose target.name is the node")
    if body["metadata"].get("name") not in (None, "", name):
        raise BadRequest("name in URL does not match name in Binding object")
    uid = body["metadata"].get("uid")

    def change(live: Entry) -> Obj:
        pod = objects.served(pods, live)
        _check_bindable(pod, node, uid)
        pod["spec"]["nodeName"] = node
        for key in ("labels", "annotations"):
            added = body["metadata"].get(key)
            if added:
                pod["metadata"][key] = {**(pod["metadata"].get(key) or {}), **added}
        condition = {
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": rfc3339(time.time()),
        }
        conditions = pod.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [c for c in conditions if c["type"] != "PodScheduled"] + [condition]
        return pod

    await objects.update(pods, namespace, name, change, options, subresource="binding")


def _check_bindable(pod: Obj, node: str, uid: object) -> None:
    name = pod["metadata"]["name"]
    if uid and uid != pod["metadata"]["uid"]:
        raise Conflict.of(
            "pods/binding",
            "",
            name,
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {pod['metadata']['uid']}",
        )
    if deletion.marked(pod):
        raise Conflict.of("pods/binding", "", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if current := pod["spec"].get("nodeName"):
        raise Conflict.of("pods/binding", "", name, f'pod {name} is already assigned to node "{current}"')
    if gates := pod["spec"].get("schedulingGates"):
        raise Conflict.of("pods/binding", "", name, f"pod {name} has non-empty .spec.schedulingGates: {gates}")
