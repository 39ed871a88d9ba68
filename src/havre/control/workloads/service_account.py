"""ServiceAccount: every active namespace has the account `default`, in whose name pods run that name no other.

reads   Namespace; ServiceAccount default
writes  ServiceAccount default
wakes   on Namespace; the account wakes its namespace when it is deleted
source  k8s.io/kubernetes, pkg/controller/serviceaccount/serviceaccounts_controller.go
"""

from __future__ import annotations

from collections.abc import Iterable

from havre.api.errors import AlreadyExists, Forbidden, NotFound
from havre.api.meta import GVK, Obj
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.namespace import NAMESPACE, is_active
from havre.machinery.api import Api, Ref

SERVICE_ACCOUNT = GVK("", "v1", "ServiceAccount")
NAME = "default"
MANAGER = "kube-controller-manager"


def plan(namespace: Obj, *, present: bool) -> Obj | None:
    """The account to create, if one is missing."""
    if present or not is_active(namespace):
        return None
    meta = {"name": NAME, "namespace": namespace["metadata"]["name"]}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}


async def reconcile(ref: Ref, api: Api) -> None:
    namespace = await api.get(ref)
    if namespace is None:
        return
    account = plan(namespace, present=await api.get(Ref(SERVICE_ACCOUNT, ref.name, NAME)) is not None)
    if account is None:
        return
    try:
        await api.create(account, manager=MANAGER)
    except (AlreadyExists, NotFound):
        return  # somebody was faster, or the namespace is gone
    except Forbidden:
        if is_active(await api.get(ref) or {}):
            raise  # not because it is being terminated


def wakes(change: Change) -> Iterable[Ref]:
    gvk, ref = change.kind.gvk, change.node.ref
    if gvk == NAMESPACE and change.obj is not None:
        yield ref
    elif gvk == SERVICE_ACCOUNT and ref.name == NAME and change.obj is None:
        yield Ref(NAMESPACE, "", ref.namespace)


def chore() -> Chore:
    return Chore("service-account", reconcile, wakes)
