"""ClusterRole with an aggregationRule: its rules are those of all roles that the rule selects.

reads   ClusterRole
writes  ClusterRole.rules, by server-side apply
wakes   on ClusterRole; every ClusterRole wakes all that aggregate
source  k8s.io/kubernetes, pkg/controller/clusterroleaggregation
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from havre.api.meta import GVK, Obj, labels_of, name_of
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan

CLUSTER_ROLE = GVK("rbac.authorization.k8s.io", "v1", "ClusterRole")
MANAGER = "clusterrole-aggregation-controller"


def plan(role: Obj, others: Sequence[Obj]) -> Plan:
    """The union of the selected rules: selector by selector, role by role in the order of their names."""
    if not role.get("aggregationRule"):
        return Plan()
    rules = _union(role["aggregationRule"], role, sorted(others, key=name_of))
    if rules == (role.get("rules") or []):
        return Plan()
    applied = {
        "apiVersion": CLUSTER_ROLE.api_version,
        "kind": CLUSTER_ROLE.kind,
        "metadata": {"name": name_of(role)},
        "rules": rules,
    }
    return Plan(apply=(applied,))


def _union(aggregation: Obj, role: Obj, others: Iterable[Obj]) -> list[Obj]:
    rules: list[Obj] = []
    for selector in map(LabelSelector.of, aggregation.get("clusterRoleSelectors") or ()):
        for other in others:
            if name_of(other) == name_of(role) or not selector.matches(labels_of(other)):
                continue
            for rule in other.get("rules") or ():
                if rule not in rules:
                    rules.append(rule)
    return rules


async def reconcile(role: Obj, api: Api) -> Plan:
    if not role.get("aggregationRule"):
        return Plan()
    return plan(role, (await api.list(CLUSTER_ROLE)).items)


class Aggregators:
    """Whom a change of a role concerns: all that aggregate, for only they know whom they select."""

    def __init__(self) -> None:
        self._known: dict[Ref, None] = {}

    def __call__(self, role: Obj) -> Iterable[Ref]:
        ref = Ref.of(role)
        if role.get("aggregationRule"):
            self._known[ref] = None
        return [*self._known]


def controller() -> Controller:
    return Controller(
        CLUSTER_ROLE,
        reconcile,
        wakes={CLUSTER_ROLE: Aggregators()},
        manager=MANAGER,
        workers=1,
        words=None,
        suspendable=False,
        cached=True,
    )
