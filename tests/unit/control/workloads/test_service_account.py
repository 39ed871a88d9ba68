"""The account `default` of every namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from havre.api.errors import Forbidden
from havre.api.kinds import KINDS
from havre.api.meta import GVK, Obj
from havre.control.workloads import service_account
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node
from havre.control.workloads.namespace import NAMESPACE
from havre.machinery.api import Ref

KIND = {kind.gvk: kind for kind in KINDS}
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "a"}}


def space(**meta: str) -> Obj:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "uid": "n", **meta}}


def test_account_is_created_where_it_is_missing() -> None:
    assert service_account.plan(space(), present=False) == ACCOUNT
    assert service_account.plan(space(), present=True) is None


def test_namespace_that_ends_gets_none() -> None:
    assert service_account.plan(space(deletionTimestamp="2026-01-01T00:00:00Z"), present=False) is None
    assert service_account.plan({**space(), "status": {"phase": "Terminating"}}, present=False) is None


async def test_account_appears_once(world: Callable[..., Any]) -> None:
    here = world(space())
    for _ in range(2):
        await service_account.reconcile(Ref(NAMESPACE, "", "a"), here)
    assert here.writes == 1
    assert Ref.of(ACCOUNT) in here.objects


async def test_refusal_because_the_namespace_ends_is_no_failure(world: Callable[..., Any]) -> None:
    here = world(space())

    async def refuse(*_: object, **__: object) -> Obj:
        here.objects[Ref(NAMESPACE, "", "a")]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        raise Forbidden("it is being terminated")

    here.create = refuse
    await service_account.reconcile(Ref(NAMESPACE, "", "a"), here)


def test_deleted_account_wakes_its_namespace_and_another_one_does_not() -> None:
    node = Node("u", Ref(GVK("", "v1", "ServiceAccount"), "a", "default"))
    kind = KIND[node.ref.gvk]
    assert list(service_account.wakes(Change(kind, node, None))) == [Ref(NAMESPACE, "", "a")]
    assert list(service_account.wakes(Change(kind, node, ACCOUNT))) == []
    other = node._replace(ref=node.ref._replace(name="builder"))
    assert list(service_account.wakes(Change(kind, other, None))) == []
