"""May this pod run on this node? In upstream's words."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.meta import Obj
from havre.api.placement import tolerates
from havre.control.scheduler import volumes
from havre.control.scheduler.cluster import Cluster, Node, Pod, clash
from havre.control.scheduler.filter import Refusal, judge, refusal, unavailable
from havre.control.scheduler.volumes import Claims, claims_of
from havre.machinery.api import Ref

SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}


def pod(name: str = "p", *, labels: dict[str, str] | None = None, namespace: str = "default", **spec: Any) -> Pod:
    containers = [{"name": "c", "image": "i", "resources": {"requests": spec.pop("requests", {})}}]
    meta = {"name": name, "namespace": namespace, "uid": name, "labels": labels or {}}
    body = {"containers": containers, **spec}
    return Pod.of({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body})


def node(name: str = "n", *pods: Pod, **more: Any) -> Node:
    room = {"cpu": "2", "memory": "4Gi", "pods": "3", **more.pop("room", {})}
    made = Node(name)
    obj = {"metadata": {"name": name, "labels": more.pop("labels", {})}, "spec": more, "status": {"allocatable": room}}
    made.describe(obj)
    for each in pods:
        made.add(each)
    return made


def world(*nodes: Node) -> Cluster:
    cluster = Cluster()
    cluster.by_name = {each.name: each for each in nodes}
    return cluster


def why(one: Pod, where: Node, *others: Node) -> tuple[str, ...]:
    found = refusal(one, where, world(where, *others))
    return found.reasons if found else ()


def ports(*pairs: tuple[str, int]) -> list[Obj]:
    return [{"name": "c", "image": "i", "ports": [{"hostPort": port, "hostIP": ip} for ip, port in pairs]}]


# resources


def test_requests_are_compared_with_what_is_left() -> None:
    busy = node("n", pod("a", requests={"cpu": "1500m", "memory": "1Gi"}))
    assert why(pod(requests={"cpu": "500m"}), busy) == ()
    assert why(pod(requests={"cpu": "501m", "memory": "5Gi", "gpu": "1"}), busy) == (
        "Insufficient cpu",
        "Insufficient memory",
        "Insufficient gpu",
    )


def test_pod_that_asks_for_nothing_fits_a_node_that_is_full_but_not_one_without_places() -> None:
    full = [pod(name, requests={"cpu": "1"}) for name in "ab"]
    assert why(pod(), node("n", *full)) == ()
    assert why(pod(), node("n", *full, pod("c"))) == ("Too many pods",)


def test_more_than_the_node_has_is_helpless() -> None:
    assert refusal(pod(requests={"cpu": "3"}), node(), world()) == Refusal(("Insufficient cpu",), helpless=True)


def test_starting_and_staying_containers_count_as_the_kernel_will_see_them() -> None:
    inits = [
        {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "300m"}}},
        {"name": "i", "resources": {"requests": {"cpu": "1600m"}}},
    ]
    assert pod(initContainers=inits, overhead={"cpu": "50m"}).requests["cpu"] == 1950


# taints, names, labels


@pytest.mark.parametrize(
    ("toleration", "yes"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Equal", "value": "w"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_toleration(toleration: Obj, yes: bool) -> None:
    assert tolerates(toleration, {"key": "k", "value": "v", "effect": "NoSchedule"}) is yes


def test_cordon_taint_name_and_labels_keep_a_pod_away() -> None:
    assert why(pod(), node(unschedulable=True)) == ("node(s) were unschedulable",)
    assert why(pod(), node(taints=[{"key": "k", "effect": "NoSchedule"}])) == ("node(s) had untolerated taint(s)",)
    assert why(pod(), node(taints=[{"key": "k", "effect": "PreferNoSchedule"}])) == ()
    assert why(pod(nodeSelector={"disk": "ssd"}), node()) == ("node(s) didn't match Pod's node affinity/selector",)


@pytest.mark.parametrize(
    ("expression", "yes"),
    [
        ({"operator": "In", "values": ["4", "5"]}, True),
        ({"operator": "NotIn", "values": ["4"]}, False),
        ({"operator": "Exists"}, True),
        ({"operator": "DoesNotExist"}, False),
        ({"operator": "Gt", "values": ["3"]}, True),
        ({"operator": "Lt", "values": ["4"]}, False),
    ],
)
def test_node_affinity(expression: Obj, yes: bool) -> None:
    terms = [{"matchExpressions": [{"key": "gen", **expression}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    assert (why(pod(affinity={"nodeAffinity": required}), node(labels={"gen": "4"})) == ()) is yes


def test_affinity_without_terms_matches_nothing() -> None:
    required: Obj = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}
    assert why(pod(affinity={"nodeAffinity": required}), node()) != ()


# ports


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        (("", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("0.0.0.0", "TCP", 80), ("10.0.0.1", "TCP", 80), True),  # noqa: S104
        (("10.0.0.2", "TCP", 80), ("10.0.0.1", "TCP", 80), False),
        (("10.0.0.1", "UDP", 80), ("10.0.0.1", "TCP", 80), False),
        (("10.0.0.1", "TCP", 81), ("10.0.0.1", "TCP", 80), False),
    ],
)
def test_host_ports_clash_on_the_same_or_on_every_address(
    one: tuple[str, str, int], other: tuple[str, str, int], yes: bool
) -> None:
    assert clash(one, other) is yes


def test_taken_port_is_told() -> None:
    taken = node("n", pod("a", containers=ports(("", 80))))
    words = "node(s) didn't have free ports for the requested pod ports"
    assert why(pod("b", containers=ports(("10.0.0.1", 80))), taken) == (words,)


# other pods


def beside(kind: str, key: str = "host", **labels: str) -> Obj:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": labels}}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_pod_wants_to_be_beside_another() -> None:
    a, b = node("a", pod("db", labels={"app": "db"}), labels={"host": "a"}), node("b", labels={"host": "b"})
    web = pod("web", affinity=beside("podAffinity", app="db"))
    assert why(web, a, b) == ()
    assert why(web, b, a) == ("node(s) didn't match pod affinity rules",)


def test_first_of_a_group_that_wants_itself_may_start() -> None:
    first = pod("w", labels={"app": "w"}, affinity=beside("podAffinity", app="w"))
    assert why(first, node("a", labels={"host": "a"})) == ()
    assert why(pod("x", affinity=beside("podAffinity", app="w")), node("a", labels={"host": "a"})) != ()


def test_pod_shuns_another_and_is_shunned() -> None:
    shy = pod("shy", labels={"app": "shy"}, affinity=beside("podAntiAffinity", app="web"))
    web = pod("web", labels={"app": "web"})
    words = "node(s) didn't match pod anti-affinity rules"
    assert why(shy, node("a", web, labels={"host": "a"})) == (words,)
    words = "node(s) didn't satisfy existing pods anti-affinity rules"
    assert why(web, node("a", shy, labels={"host": "a"})) == (words,)
    elsewhere = pod("web", labels={"app": "web"}, namespace="other")
    assert why(elsewhere, node("a", shy, labels={"host": "a"})) == ()


def test_pods_spread_over_zones() -> None:
    constraint = {**SPREAD, "labelSelector": {"matchLabels": {"app": "w"}}}
    there = node("a", pod("w1", labels={"app": "w"}), labels={"zone": "a"})
    empty, unlabelled = node("b", labels={"zone": "b"}), node("c")
    second = pod("w2", labels={"app": "w"}, topologySpreadConstraints=[constraint])
    words = "node(s) didn't match pod topology spread constraints"
    assert why(second, there, empty) == (words,)
    assert why(second, empty, there) == ()
    assert why(second, unlabelled, there, empty) == (f"{words} (missing required label)",)


# verdicts


def test_reasons_are_counted_over_nodes() -> None:
    small = [node(name, room={"cpu": "1"}) for name in "ab"]
    verdict = judge(pod(requests={"cpu": "1500m"}), world(*small, node("c", unschedulable=True)))
    assert verdict.message() == "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu."
    assert judge(pod(), world()).message() == "no nodes available to schedule pods"


def test_pod_that_names_its_node_asks_no_other() -> None:
    field = {"key": "metadata.name", "operator": "In", "values": ["b"]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    named = pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}})
    verdict = judge(named, world(node("a"), node("b", unschedulable=True)))
    assert verdict.message() == (
        "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], 1 node(s) were unschedulable."
    )


def test_message_sorts_as_text() -> None:
    assert unavailable(12, ["b"] * 10 + ["a"] * 2) == "0/12 nodes are available: 10 b, 2 a."


# volumes


def claim(name: str, **spec: Any) -> Obj:
    return {"metadata": {"name": name, "annotations": spec.pop("annotations", {})}, "spec": spec, "status": {}}


def using(*names: str) -> Pod:
    return pod(volumes=[{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in names])


def test_claims_say_whether_a_pod_can_be_placed() -> None:
    late = {"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"}
    held = {
        "lost": None,
        "early": claim("early"),
        "waits": claim("waits", storageClassName="late"),
        "late": late,
    }

    def find(ref: Ref) -> Obj | None:
        return held.get(ref.name)

    assert claims_of(using("lost"), find).problem == 'persistentvolumeclaim "lost" not found'
    assert claims_of(using("early"), find).problem == "pod has unbound immediate PersistentVolumeClaims"
    assert [each["metadata"]["name"] for each in claims_of(using("waits"), find).delayed] == ["waits"]


def test_bound_volume_is_reached_from_some_nodes_only() -> None:
    terms = [{"matchExpressions": [{"key": "host", "operator": "In", "values": ["a"]}]}]
    volume = {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}
    reach = volumes.filter_of(Claims(volumes=(volume,)))
    assert reach(pod(), node("a", labels={"host": "a"}), world()) is None
    found = reach(pod(), node("b", labels={"host": "b"}), world())
    assert found is not None
    assert found.reasons == ("node(s) didn't match PersistentVolume's node affinity",)


def test_chosen_node_of_a_claim_is_kept_and_a_lonely_claim_is_not_shared() -> None:
    chosen = claim("c", annotations={volumes.SELECTED: "a"})
    assert volumes.filter_of(Claims(delayed=(chosen,)))(pod(), node("b"), world()) is not None
    other = Pod.of({**using("c").obj, "metadata": {"name": "x", "namespace": "default", "uid": "x"}})
    alone = volumes.filter_of(Claims(alone=("c",)))
    assert alone(using("c"), node("a", other), world(node("a", other))) is not None
    assert alone(using("c"), node("a"), world(node("a"))) is None
