"""ClusterRoles made of other ClusterRoles."""

from __future__ import annotations

from havre.api.meta import Obj
from havre.control.workloads import cluster_role_aggregation as aggregation
from havre.machinery.controller import Plan

READ = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
WRITE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
ROOT = {"nonResourceURLs": ["/x"], "verbs": ["get"]}


def role(name: str, *rules: Obj, to: str = "", of: tuple[str, ...] = ()) -> Obj:
    meta: Obj = {"name": name} | ({"labels": {"to": to}} if to else {})
    obj = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta, "rules": [*rules]}
    if of:
        obj["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {"to": label}} for label in of]}
    return obj


def test_rules_are_gathered_selector_by_selector_by_name_without_repetition() -> None:
    others = [role("z", READ, WRITE, WRITE, to="edit"), role("b", ROOT, to="edit"), role("v", READ, to="view")]
    plan = aggregation.plan(role("edit", of=("view", "edit")), others)
    assert plan.apply == (
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "edit"},
            "rules": [READ, ROOT, WRITE],
        },
    )


def test_role_that_has_its_rules_or_aggregates_nothing_is_left_alone() -> None:
    others = [role("v", READ, to="view")]
    assert aggregation.plan(role("edit", READ, of=("view",)), others) == Plan()
    assert aggregation.plan(role("plain", WRITE), others) == Plan()


def test_role_does_not_aggregate_itself() -> None:
    assert aggregation.plan(role("a", to="a", of=("a",)), [role("a", READ, to="a", of=("a",))]) == Plan()


def test_rules_of_roles_that_no_longer_match_go() -> None:
    assert aggregation.plan(role("edit", READ, of=("view",)), []).apply[0]["rules"] == []


def test_every_role_wakes_those_that_aggregate() -> None:
    wakes = aggregation.Aggregators()
    assert list(wakes(role("v", to="view"))) == []
    assert [ref.name for ref in wakes(role("edit", of=("view",)))] == ["edit"]
    assert [ref.name for ref in wakes(role("v", to="view"))] == ["edit"]
