"""Inventories, the order of objects, and the history: what is written into the status."""

from __future__ import annotations

import pytest

from havre.api.meta import GVK, Obj
from havre.machinery.api import Ref
from havre.platform.gitops import history, inventory
from havre.platform.gitops.order import stages

WEB = Ref(GVK("apps", "v1", "Deployment"), "app", "web")
ROLE = Ref(GVK("rbac.authorization.k8s.io", "v1", "ClusterRole"), "", "system:node_a")
SPACE = Ref(GVK("", "v1", "Namespace"), "", "app")


@pytest.mark.parametrize(
    ("ref", "id"),
    [
        (WEB, "app_web_apps_Deployment"),
        (SPACE, "_app__Namespace"),
        (Ref(ROLE.gvk, "", "system:a:b"), "_system__a__b_rbac.authorization.k8s.io_ClusterRole"),
    ],
)
def test_an_id_names_the_object_and_is_read_again(ref: Ref, id: str) -> None:
    assert inventory.id_of(ref) == id
    assert inventory.parse(id, "v1") == ref


@pytest.mark.parametrize("id", ["", "x", "a_b", "a_b_c", "____", "app__apps_Deployment"])
def test_a_foreign_id_is_passed_over(id: str) -> None:
    assert inventory.refs({"entries": [{"id": id, "v": "v1"}]}) == []


def test_what_is_stale_goes_in_the_reverse_order_and_a_new_version_is_the_same_object() -> None:
    older = WEB._replace(gvk=GVK("apps", "v1beta1", "Deployment"))
    assert inventory.stale([SPACE, WEB, ROLE], [older]) == [ROLE, SPACE]
    assert inventory.stale([SPACE, WEB], []) == [WEB, SPACE]


def test_an_empty_status_has_no_inventory() -> None:
    assert inventory.refs(None) == []
    assert inventory.entries([]) == {"entries": []}


def test_definitions_and_classes_have_stages_of_their_own() -> None:
    def obj(kind: str, name: str = "x") -> Obj:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}

    kinds = ["Deployment", "ValidatingWebhookConfiguration", "ConfigMap", "IngressClass", "Thing", "Namespace"]
    divided = [[each["kind"] for each in stage] for stage in stages(map(obj, kinds))]
    assert divided == [
        ["Namespace"],
        ["IngressClass"],
        ["ConfigMap", "Deployment", "Thing", "ValidatingWebhookConfiguration"],
    ]


def test_the_history_counts_one_digest_and_keeps_five() -> None:
    told = history.told([], "d0", "S", {"revision": "r0"}, 0.0, 1.5)
    assert told == [
        {
            "digest": "d0",
            "firstReconciled": "1970-01-01T00:00:00Z",
            "lastReconciled": "1970-01-01T00:00:00Z",
            "lastReconciledDuration": "1.5s",
            "lastReconciledStatus": "S",
            "totalReconciliations": 1,
            "metadata": {"revision": "r0"},
        }
    ]
    assert history.repeats(told, "d0", "S", {"revision": "r0"})
    assert not history.repeats(told, "d0", "F", {"revision": "r0"})
    for number in range(1, 7):
        told = history.told(told, f"d{number}", "S", {}, number, 0.0)
    told = history.told(told, "d4", "F", {}, 9.0, 0.0)
    assert [entry["digest"] for entry in told] == ["d4", "d6", "d5", "d3", "d2"]
    assert (told[0]["totalReconciliations"], told[0]["firstReconciled"]) == (2, "1970-01-01T00:00:04Z")
