"""The certificate of the API server in every namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from havre.api.kinds import KINDS
from havre.api.meta import Obj
from havre.control.workloads import root_ca
from havre.control.workloads.chore import Change
from havre.control.workloads.graph import Node
from havre.control.workloads.namespace import NAMESPACE
from havre.machinery.api import Ref

KIND = {kind.gvk: kind for kind in KINDS}
SPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "uid": "n"}}
TEXT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)
RIGHT: Obj = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kube-root-ca.crt", "namespace": "a", "annotations": {"kubernetes.io/description": TEXT}},
    "data": {"ca.crt": "PEM"},
}


def test_config_map_is_upstreams() -> None:
    assert root_ca.plan("a", None, "PEM") == RIGHT
    assert root_ca.plan("a", RIGHT, "PEM") is None


def test_changed_data_and_removed_description_come_back_and_what_others_added_stays() -> None:
    bent = {**RIGHT, "data": {"ca.crt": "X", "more": "y"}, "metadata": {**RIGHT["metadata"], "labels": {"l": "1"}}}
    fixed = root_ca.plan("a", bent, "PEM")
    assert fixed == {**RIGHT, "metadata": {**RIGHT["metadata"], "labels": {"l": "1"}}}
    bare = {**RIGHT, "metadata": {"name": "kube-root-ca.crt", "namespace": "a"}}
    assert root_ca.plan("a", bare, "PEM") == RIGHT


def test_description_of_somebody_else_stays() -> None:
    own = {**RIGHT, "metadata": {**RIGHT["metadata"], "annotations": {"kubernetes.io/description": "ours"}}}
    assert root_ca.plan("a", own, "PEM") is None


async def test_second_pass_changes_nothing(world: Callable[..., Any]) -> None:
    here = world(SPACE)
    for _ in range(2):
        await root_ca.reconcile(Ref(NAMESPACE, "", "a"), here, certificate="PEM")
    assert here.writes == 1
    assert here.objects[Ref.of(RIGHT)]["data"] == {"ca.crt": "PEM"}


def test_change_and_end_of_the_config_map_wake_its_namespace() -> None:
    node = Node("u", Ref.of(RIGHT))
    kind = KIND[node.ref.gvk]
    assert list(root_ca.wakes(Change(kind, node, RIGHT, node))) == [Ref(NAMESPACE, "", "a")]
    assert list(root_ca.wakes(Change(kind, node, None))) == [Ref(NAMESPACE, "", "a")]
    assert list(root_ca.wakes(Change(kind, node, RIGHT))) == []
