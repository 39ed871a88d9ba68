"""May this pod run on this node? One pure function per reason; the words are upstream's, for people and for tests.

Source: k8s.io/kubernetes, pkg/scheduler/framework/plugins (nodeunschedulable, nodename, tainttoleration, nodeaffinity,
nodeports, noderesources, podtopologyspread, interpodaffinity), in the order in which they are asked there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from havre.api.meta import Obj
from havre.api.placement import tolerated
from havre.control.scheduler import affinity
from havre.control.scheduler.cluster import Cluster, Node, Pod, clash

_CORDONED: Obj = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
_KEEPS_OUT = ("NoSchedule", "NoExecute")
_FIRST = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node cannot take a pod; `helpless`: not even if all its other pods were gone."""

    reasons: tuple[str, ...]
    helpless: bool = False


Filter = Callable[[Pod, Node, Cluster], Refusal | None]


def cordoned(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    if node.unschedulable and not tolerated(_CORDONED, pod.tolerations):
        return Refusal(("node(s) were unschedulable",), helpless=True)
    return None


def other_name(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    if pod.node and pod.node != node.name:
        return Refusal(("node(s) didn't match the requested node name",), helpless=True)
    return None


def tainted(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    if any(taint.get("effect") in _KEEPS_OUT and not tolerated(taint, pod.tolerations) for taint in node.taints):
        return Refusal(("node(s) had untolerated taint(s)",), helpless=True)
    return None


def unsuitable(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    if affinity.node_suits(pod.spec, node):
        return None
    return Refusal(("node(s) didn't match Pod's node affinity/selector",), helpless=True)


def ports_taken(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    taken = [port for other in node.pods.values() for port in other.ports] if pod.ports else ()
    if any(clash(wanted, port) for wanted in pod.ports for port in taken):
        return Refusal(("node(s) didn't have free ports for the requested pod ports",))
    return None


def too_small(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    reasons, helpless = [], False
    if len(node.pods) + 1 > node.allocatable.get("pods", 0):
        reasons.append("Too many pods")
    for name in (*_FIRST, *sorted(pod.requests.keys() - _FIRST)):
        wanted = pod.requests.get(name, 0)
        if wanted > 0 and wanted > node.free(name):
            reasons.append(f"Insufficient {name}")
            helpless |= wanted > node.allocatable.get(name, 0)
    return Refusal(tuple(reasons), helpless) if reasons else None


def uneven(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    if not affinity.constraints_of(pod):
        return None
    words = "node(s) didn't match pod topology spread constraints"
    if affinity.lacks_label(pod, node):
        return Refusal((f"{words} (missing required label)",), helpless=True)
    eligible = [each for each in cluster.nodes if affinity.node_suits(pod.spec, each)]
    return Refusal((words,)) if affinity.too_skewed(pod, node, cluster, eligible) else None


def unwanted_company(pod: Pod, node: Node, cluster: Cluster) -> Refusal | None:
    if affinity.misses(pod, node, cluster):
        return Refusal(("node(s) didn't match pod affinity rules",), helpless=True)
    if affinity.shuns(pod, node, cluster):
        return Refusal(("node(s) didn't match pod anti-affinity rules",))
    if affinity.repelled(pod, node, cluster):
        return Refusal(("node(s) didn't satisfy existing pods anti-affinity rules",))
    return None


FILTERS: tuple[Filter, ...] = (
    cordoned,
    other_name,
    tainted,
    unsuitable,
    ports_taken,
    too_small,
    uneven,
    unwanted_company,
)


def refusal(pod: Pod, node: Node, cluster: Cluster, filters: Iterable[Filter] = FILTERS) -> Refusal | None:
    """The first reason that keeps the pod from the node."""
    for each in filters:
        found = each(pod, node, cluster)
        if found is not None:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which nodes can take a pod, and why the others cannot."""

    fit: Sequence[Node]
    refused: Mapping[str, Refusal]
    nodes: int
    problem: str = ""  # with the pod itself: no node was asked

    def message(self) -> str:
        """`0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
        if not self.nodes:
            return "no nodes available to schedule pods"
        if self.problem:
            return f"0/{self.nodes} nodes are available: {self.problem}."
        return unavailable(self.nodes, [reason for refused in self.refused.values() for reason in refused.reasons])


def unavailable(nodes: int, reasons: Iterable[str]) -> str:
    counts = sorted(f"{count} {reason}" for reason, count in Counter(reasons).items())
    return f"0/{nodes} nodes are available: {', '.join(counts)}."


def judge(pod: Pod, cluster: Cluster, filters: Sequence[Filter] = FILTERS) -> Verdict:
    """Ask every node. A node that room was made on for more important pods is asked as if they were there."""
    nodes, named = cluster.nodes, affinity.named_nodes(pod.spec)
    fit, refused = [], {}
    for node in nodes:
        if named is not None and node.name not in named:
            refused[node.name] = Refusal(("node(s) didn't satisfy plugin(s) [NodeAffinity]",), helpless=True)
        elif (why := refusal(pod, node, cluster, filters)) is not None:
            refused[node.name] = why
        else:
            fit.append(node)
    return Verdict(fit, refused, len(nodes))
