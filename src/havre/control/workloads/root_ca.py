"""Root CA: every namespace has the ConfigMap kube-root-ca.crt, by which pods know the API server.

reads   Namespace; ConfigMap kube-root-ca.crt
writes  ConfigMap kube-root-ca.crt
wakes   on Namespace; that ConfigMap wakes its namespace when it is changed or deleted
source  k8s.io/kubernetes, pkg/controller/certificates/rootcacertpublisher
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from havre.api.errors import AlreadyExists, Forbidden, NotFound
from havre.api.meta import GVK, Obj
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.namespace import NAMESPACE, is_active
from havre.machinery.api import Api, Ref

CONFIG_MAP = GVK("", "v1", "ConfigMap")
NAME = "kube-root-ca.crt"
MANAGER = "kube-controller-manager"
DESCRIPTION = "kubernetes.io/description"
TEXT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


def plan(namespace: str, live: Obj | None, certificate: str) -> Obj | None:
    """The ConfigMap to write; None when it is right. A description of somebody else's is left alone."""
    data = {"ca.crt": certificate}
    if live is None:
        meta = {"name": NAME, "namespace": namespace, "annotations": {DESCRIPTION: TEXT}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    annotations = live["metadata"].get("annotations") or {}
    if live.get("data") == data and annotations.get(DESCRIPTION):
        return None
    return {**live, "data": data, "metadata": {**live["metadata"], "annotations": {**annotations, DESCRIPTION: TEXT}}}


async def reconcile(ref: Ref, api: Api, *, certificate: str) -> None:
    namespace = await api.get(ref)
    if namespace is None or not is_active(namespace):
        return
    live = await api.get(Ref(CONFIG_MAP, ref.name, NAME))
    wanted = plan(ref.name, live, certificate)
    if wanted is None:
        return
    try:
        await (api.create(wanted, manager=MANAGER) if live is None else api.update(wanted, manager=MANAGER))
    except (AlreadyExists, NotFound):
        return  # somebody was faster, which wakes us; or the namespace is gone
    except Forbidden:
        if is_active(await api.get(ref) or {}):
            raise  # not because it is being terminated


def wakes(change: Change) -> Iterable[Ref]:
    gvk, ref = change.kind.gvk, change.node.ref
    if gvk == NAMESPACE and change.obj is not None:
        yield ref
    elif gvk == CONFIG_MAP and ref.name == NAME and (change.obj is None or change.old is not None):
        yield Ref(NAMESPACE, "", ref.namespace)


def chore(certificate: str) -> Chore:
    """`certificate`: the authority of the API server, PEM."""
    return Chore("root-ca", partial(reconcile, certificate=certificate), wakes)
