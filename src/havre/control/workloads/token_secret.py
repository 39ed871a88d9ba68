"""Secret of type service-account-token: filled in with a token that never expires, gone with its account.

reads   Secret of that type; ServiceAccount
writes  Secret: data.token, data.ca.crt, data.namespace, annotation kubernetes.io/service-account.uid; or deletes it
wakes   on Secret; a ServiceAccount that is new or gone wakes the secrets that name it
source  k8s.io/kubernetes, pkg/controller/serviceaccount/tokens_controller.go
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from havre.api.errors import Conflict, NotFound
from havre.api.meta import GVK, Obj, annotations_of
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.service_account import SERVICE_ACCOUNT
from havre.machinery.api import Api, Ref

SECRET = GVK("", "v1", "Secret")
TYPE = "kubernetes.io/service-account-token"
ACCOUNT_NAME = "kubernetes.io/service-account.name"
ACCOUNT_UID = "kubernetes.io/service-account.uid"
MANAGER = "kube-controller-manager"

Issue = Callable[[Obj, Obj], str]
"""The token of an account for a secret."""


@dataclass(frozen=True, slots=True)
class Fill:
    """Write the secret like this."""

    secret: Obj


@dataclass(frozen=True, slots=True)
class Drop:
    """Its account is gone: delete it."""


def plan(secret: Obj, account: Obj | None, certificate: str, issue: Issue) -> Fill | Drop | None:
    """What a secret of this type needs; `account` is the one of the name it says."""
    annotations = annotations_of(secret)
    if not annotations.get(ACCOUNT_NAME):
        return None
    uid = annotations.get(ACCOUNT_UID)
    if account is None or (uid and uid != account["metadata"]["uid"]):
        return Drop()
    data = dict(secret.get("data") or {})
    wanted = {**data, "ca.crt": _coded(certificate)}
    if not data.get("namespace"):
        wanted["namespace"] = _coded(secret["metadata"]["namespace"])
    if not data.get("token"):
        wanted["token"] = _coded(issue(account, secret))
    if wanted == data:
        return None
    meta = {**secret["metadata"], "annotations": {**annotations, ACCOUNT_UID: account["metadata"]["uid"]}}
    return Fill({**secret, "metadata": meta, "data": wanted})


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def reconcile(ref: Ref, api: Api, *, certificate: str, issue: Issue) -> None:
    """`ref` is a secret, or an account whose secrets are meant."""
    if ref.gvk == SERVICE_ACCOUNT:
        for secret in (await api.list(SECRET, ref.namespace, fields=f"type={TYPE}")).items:
            if annotations_of(secret).get(ACCOUNT_NAME) == ref.name:
                await _reconcile(secret, api, certificate, issue)
        return
    found = await api.get(ref)
    if found is not None and found.get("type") == TYPE:
        await _reconcile(found, api, certificate, issue)


async def _reconcile(secret: Obj, api: Api, certificate: str, issue: Issue) -> None:
    meta = secret["metadata"]
    name = annotations_of(secret).get(ACCOUNT_NAME)
    account = await api.get(Ref(SERVICE_ACCOUNT, meta["namespace"], name)) if name else None
    try:
        match plan(secret, account, certificate, issue):
            case Fill(wanted):
                await api.update(wanted, manager=MANAGER)
            case Drop():
                await api.delete(Ref(SECRET, meta["namespace"], meta["name"]), uid=meta["uid"])
            case None:
                pass
    except (NotFound, Conflict):
        return  # it has changed, which wakes us again, or is gone


def wakes(change: Change) -> Iterable[Ref]:
    if _concerns(change):
        yield change.node.ref


def _concerns(change: Change) -> bool:
    if change.kind.gvk == SECRET:
        return change.obj is not None and change.obj.get("type") == TYPE
    return change.kind.gvk == SERVICE_ACCOUNT and (change.obj is None or change.old is None)


def chore(certificate: str, issue: Issue) -> Chore:
    """`certificate`: the authority of the API server, PEM; `issue`: makes the token."""
    return Chore("token-secret", partial(reconcile, certificate=certificate, issue=issue), wakes)
