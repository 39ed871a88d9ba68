"""Which of the nodes that can take a pod is best: emptiest, evenest, with the images, as the pod prefers. Pure.

Source: k8s.io/kubernetes, pkg/scheduler/framework/plugins (noderesources least_allocated.go, balanced_allocation.go,
imagelocality, nodeaffinity, tainttoleration) and their default weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from havre.api.placement import PREFERRED, term_matches, tolerated
from havre.control.scheduler.cluster import Node, Pod, spec_list

MOST = 100  # points of one criterion
_SMALL, _LARGE = 23 * 1024 * 1024, 1000 * 1024 * 1024  # bytes of images: less counts nothing, more no more
_COUNTED = ("cpu", "memory")
_WEIGHTS = {"spare": 1, "balance": 1, "images": 1, "preference": 2, "taints": 3}


def best(pod: Pod, nodes: Sequence[Node], all_nodes: Sequence[Node]) -> Node:
    """Of equals the one with the first name."""
    if len(nodes) == 1:
        return nodes[0]
    preference = scaled({node.name: _preference(pod, node) for node in nodes})
    taints = scaled({node.name: -_soft_taints(pod, node) for node in nodes})

    def score(node: Node) -> int:
        points = {
            "spare": spare(pod, node),
            "balance": balance(pod, node),
            "images": images(pod, node, all_nodes),
            "preference": preference[node.name],
            "taints": taints[node.name],
        }
        return sum(_WEIGHTS[name] * value for name, value in points.items())

    return min(nodes, key=lambda node: (-score(node), node.name))


def spare(pod: Pod, node: Node) -> int:
    """How much is left with the pod, as the mean of cpu and memory."""
    left = [_fraction(pod, node, name, node.counted, pod.counted) for name in _COUNTED]
    return sum(int(MOST * (1 - used)) for used in left) // len(left)


def balance(pod: Pod, node: Node) -> int:
    """How close together the used fractions of cpu and memory are."""
    cpu, memory = (min(1.0, _fraction(pod, node, name, node.requested, pod.requests)) for name in _COUNTED)
    return int(MOST * (1 - abs(cpu - memory) / 2))


def _fraction(pod: Pod, node: Node, name: str, used: Mapping[str, int], wanted: Mapping[str, int]) -> float:
    there = node.allocatable.get(name, 0)
    if not there:
        return 1.0
    return min(1.0, (used.get(name, 0) + wanted.get(name, 0)) / there)


def images(pod: Pod, node: Node, all_nodes: Sequence[Node]) -> int:
    """The bytes that are there already; an image that is on few nodes draws less, or one node would get everything."""
    containers = [*(pod.spec.get("initContainers") or ()), *(pod.spec.get("containers") or ())]
    total = 0
    for container in containers:
        name = _tagged(container.get("image") or "")
        if size := node.images.get(name):
            total += size * sum(name in other.images for other in all_nodes) // len(all_nodes)
    most = _LARGE * max(1, len(containers))
    return MOST * (min(max(total, _SMALL), most) - _SMALL) // (most - _SMALL)


def _tagged(image: str) -> str:
    return image if image.rfind(":") > image.rfind("/") else f"{image}:latest"


def _preference(pod: Pod, node: Node) -> int:
    terms = spec_list(pod.spec, "affinity", "nodeAffinity", PREFERRED)
    return sum(term["weight"] for term in terms if term_matches(term["preference"], node.name, node.labels))


def _soft_taints(pod: Pod, node: Node) -> int:
    return sum(
        taint.get("effect") == "PreferNoSchedule" and not tolerated(taint, pod.tolerations) for taint in node.taints
    )


def scaled(points: Mapping[str, int]) -> dict[str, int]:
    """From 0 for the least to 100 for the most."""
    low, high = min(points.values()), max(points.values())
    if low == high:
        return dict.fromkeys(points, 0)
    return {name: MOST * (value - low) // (high - low) for name, value in points.items()}
