"""Filters that look further than one number: labels of nodes, pods beside which a pod wants to be or not, spreading.

Source: k8s.io/component-helpers, scheduling/corev1/nodeaffinity; k8s.io/kubernetes, pkg/scheduler/framework/plugins
(nodeaffinity, interpodaffinity, podtopologyspread).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from havre.api.meta import Obj
from havre.api.placement import REQUIRED, suits_labels
from havre.control.scheduler.cluster import Cluster, Node, Pod, spec_list
from havre.lang.selector import LabelSelector

# nodes


def node_suits(spec: Obj, node: Node) -> bool:
    """nodeSelector and the required node affinity."""
    return suits_labels(spec, node.name, node.labels)


def named_nodes(spec: Obj) -> frozenset[str] | None:
    """The nodes that every alternative of the affinity names by metadata.name; None: not restricted so."""
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    terms = (required or {}).get("nodeSelectorTerms") or []
    names: set[str] = set()
    for term in terms:
        fields = [f for f in term.get("matchFields") or () if f["key"] == "metadata.name" and f["operator"] == "In"]
        if not fields:
            return None
        names |= frozenset.intersection(*(frozenset(field["values"]) for field in fields))
    return frozenset(names) if terms else None


# other pods


def terms_of(pod: Pod, side: str) -> list[Obj]:
    """The required terms of `podAffinity` or `podAntiAffinity`."""
    return spec_list(pod.spec, "affinity", side, REQUIRED)


def concerns(term: Obj, owner: Pod, other: Pod, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    """Does the term of `owner` select `other`?"""
    named, selector = term.get("namespaces") or (), term.get("namespaceSelector")
    if selector is None:
        here = other.namespace in named if named else other.namespace == owner.namespace
    else:
        chosen = LabelSelector.of(selector).matches(namespaces.get(other.namespace, {}))
        here = chosen or other.namespace in named
    return here and LabelSelector.of(term.get("labelSelector")).matches(other.labels)


def repelled(pod: Pod, node: Node, cluster: Cluster) -> bool:
    """A pod that is there does not want this one beside it."""
    for where, other in cluster.pods():
        for term in terms_of(other, "podAntiAffinity"):
            if _together(term, where, node) and concerns(term, other, pod, cluster.namespaces):
                return True
    return False


def shuns(pod: Pod, node: Node, cluster: Cluster) -> bool:
    """This one does not want to be beside a pod that is there."""
    terms = terms_of(pod, "podAntiAffinity")
    return bool(terms) and any(_found(term, pod, node, cluster) for term in terms)


def misses(pod: Pod, node: Node, cluster: Cluster) -> bool:
    """Not all pods that this one wants beside it are there. The first of a group that wants itself may start alone."""
    terms = terms_of(pod, "podAffinity")
    if not terms:
        return False
    if any(term["topologyKey"] not in node.labels for term in terms):
        return True
    if all(_found_all(terms, pod, node, cluster)):
        return False
    nobody = not any(_matches_all(terms, pod, other, cluster) and _has_key(terms, n) for n, other in cluster.pods())
    return not (nobody and _matches_all(terms, pod, pod, cluster))


def _found_all(terms: Iterable[Obj], pod: Pod, node: Node, cluster: Cluster) -> Iterable[bool]:
    """Per term: is there a pod in the domain of the node that matches every term?"""
    wanted = [*terms]
    for term in wanted:
        yield any(
            _together(term, where, node) and _matches_all(wanted, pod, other, cluster)
            for where, other in cluster.pods()
        )


def _found(term: Obj, pod: Pod, node: Node, cluster: Cluster) -> bool:
    return any(
        _together(term, where, node) and concerns(term, pod, other, cluster.namespaces)
        for where, other in cluster.pods()
    )


def _matches_all(terms: Iterable[Obj], pod: Pod, other: Pod, cluster: Cluster) -> bool:
    return all(concerns(term, pod, other, cluster.namespaces) for term in terms)


def _has_key(terms: Iterable[Obj], node: Node) -> bool:
    return any(term["topologyKey"] in node.labels for term in terms)


def _together(term: Obj, one: Node, other: Node) -> bool:
    key = term["topologyKey"]
    return key in other.labels and one.labels.get(key) == other.labels[key]


# spreading


def constraints_of(pod: Pod) -> list[Obj]:
    return [c for c in spec_list(pod.spec, "topologySpreadConstraints") if c["whenUnsatisfiable"] == "DoNotSchedule"]


def lacks_label(pod: Pod, node: Node) -> bool:
    return any(constraint["topologyKey"] not in node.labels for constraint in constraints_of(pod))


def too_skewed(pod: Pod, node: Node, cluster: Cluster, eligible: Iterable[Node]) -> bool:
    """With this pod here, one domain would have too many more than the emptiest. `eligible`: nodes that count."""
    counted = [*eligible]
    return any(_skewed(constraint, pod, node, counted) for constraint in constraints_of(pod))


def _skewed(constraint: Obj, pod: Pod, node: Node, eligible: list[Node]) -> bool:
    key, keys = constraint["topologyKey"], [c["topologyKey"] for c in constraints_of(pod)]
    selector = LabelSelector.of(constraint.get("labelSelector"))
    domains: Counter[str] = Counter()
    for each in eligible:
        if all(k in each.labels for k in keys):
            matching = sum(_counts(other, pod, selector) for other in each.pods.values())
            domains[each.labels[key]] += matching
    fewest = min(domains.values(), default=0)
    if len(domains) < (constraint.get("minDomains") or 1):
        fewest = 0
    own = 1 if selector.matches(pod.labels) else 0
    return domains.get(node.labels[key], 0) + own - fewest > int(constraint["maxSkew"])


def _counts(other: Pod, pod: Pod, selector: LabelSelector) -> bool:
    return other.namespace == pod.namespace and not other.leaving and selector.matches(other.labels)
