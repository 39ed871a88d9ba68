"""Room for a pod that is more important: on which node the fewest and least important pods would have to go. Pure.

On a node all pods of lower priority are thought away; if the pod fits then, they are taken back one by one, the most
important first, as long as it still fits. Pods of a budget that allows no disruption are taken back before the others.

Source: k8s.io/kubernetes, pkg/scheduler/framework/preemption, plugins/defaultpreemption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from havre.api.meta import Obj, parse_time
from havre.control.scheduler.cluster import Cluster, Node, Pod
from havre.control.scheduler.filter import Filter, Refusal, Verdict, refusal, unavailable
from havre.lang.selector import LabelSelector
from havre.machinery import conditions

TARGET, BY_SCHEDULER = "DisruptionTarget", "PreemptionByScheduler"
_NOBODY = Refusal(("No preemption victims found for incoming pod",), helpless=True)
_PREFIX = (
    "no new claims to deallocate, preemption"  # kube-scheduler 1.34 asks two plugins; we have no claims of devices
)
_NO_HELP = "Preemption is not helpful for scheduling"


@dataclass(frozen=True, slots=True)
class Choice:
    """Delete these pods of this node, and the pod fits."""

    node: Node
    victims: tuple[Pod, ...]  # the most important first
    violations: int  # of budgets


def choose(
    pod: Pod, verdict: Verdict, cluster: Cluster, filters: Sequence[Filter], budgets: Sequence[Obj]
) -> Choice | str:
    """The best choice, or why there is none."""
    if not verdict.nodes:
        return ""
    if why := _not_eligible(pod, verdict, cluster):
        return f"{_PREFIX}: {why}"
    choices, reasons = [], []
    for node in cluster.nodes:
        refused = verdict.refused.get(node.name)
        if refused is None or refused.helpless:
            reasons.append(_NO_HELP)
            continue
        found = _on(pod, node, cluster, filters, budgets)
        if isinstance(found, Choice):
            choices.append(found)
        else:
            reasons.extend(found.reasons)
    if choices:
        return min(choices, key=_cost)
    return f"{_PREFIX}: {unavailable(verdict.nodes, reasons)}"


def _not_eligible(pod: Pod, verdict: Verdict, cluster: Cluster) -> str:
    if pod.spec.get("preemptionPolicy") == "Never":
        return "not eligible due to preemptionPolicy=Never."
    refused, node = verdict.refused.get(pod.nominated), cluster.by_name.get(pod.nominated)
    if node is None or (refused is not None and refused.helpless):
        return ""
    if any(each.priority < pod.priority and _is_making_room(each) for each in node.pods.values()):
        return "not eligible due to a terminating pod on the nominated node."
    return ""


def _is_making_room(pod: Pod) -> bool:
    target = conditions.find((pod.obj.get("status") or {}).get("conditions") or (), TARGET) or {}
    return pod.leaving and target.get("status") == "True" and target.get("reason") == BY_SCHEDULER


def _on(pod: Pod, node: Node, cluster: Cluster, filters: Sequence[Filter], budgets: Sequence[Obj]) -> Choice | Refusal:
    candidates = sorted((each for each in node.pods.values() if each.priority < pod.priority), key=_importance)
    if not candidates:
        return _NOBODY
    tried = node.copy()
    world = cluster.with_node(tried)
    for each in candidates:
        tried.remove(each.uid)
    why = refusal(pod, tried, world, filters)
    if why is not None:
        return why
    protected, others = _by_budget(candidates, budgets)
    victims, violations = [], 0
    for each in (*protected, *others):
        tried.add(each)
        if refusal(pod, tried, world, filters) is not None:
            tried.remove(each.uid)
            victims.append(each)
            violations += each in protected
    return Choice(node, tuple(sorted(victims, key=_importance)), violations)


def _by_budget(pods: Iterable[Pod], budgets: Sequence[Obj]) -> tuple[list[Pod], list[Pod]]:
    """Those whose deletion would break a budget, and the others."""
    left = [(budget.get("status") or {}).get("disruptionsAllowed", 0) for budget in budgets]
    protected: list[Pod] = []
    others: list[Pod] = []
    for pod in pods:
        broken = False
        for number, budget in enumerate(budgets):
            if _covers(budget, pod):
                left[number] -= 1
                broken |= left[number] < 0
        (protected if broken else others).append(pod)
    return protected, others


def _covers(budget: Obj, pod: Pod) -> bool:
    selector = LabelSelector.of((budget.get("spec") or {}).get("selector"))
    known = pod.ref.name in ((budget.get("status") or {}).get("disruptedPods") or {})
    here = budget["metadata"]["namespace"] == pod.namespace
    return here and not known and not selector.everything and selector.matches(pod.labels)


def _started(pod: Pod) -> float:
    since = (pod.obj.get("status") or {}).get("startTime") or pod.obj["metadata"].get("creationTimestamp")
    return parse_time(since) if since else 0.0


def _importance(pod: Pod) -> tuple[int, float]:
    """The most important first: priority, then age."""
    return -pod.priority, _started(pod)


def _cost(choice: Choice) -> tuple[float, ...]:
    """Fewest broken budgets, lowest highest priority, smallest sum, fewest pods, youngest of the most important."""
    priorities = [victim.priority for victim in choice.victims]
    highest = max(priorities, default=-(2**31))
    oldest = min((_started(v) for v in choice.victims if v.priority == highest), default=0.0)
    shifted = sum(priority + 2**31 for priority in priorities)  # so that more pods never cost less
    return choice.violations, highest, shifted, len(priorities), -oldest
