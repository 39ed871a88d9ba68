"""Which node is best, and which pods would have to go."""

from __future__ import annotations

from typing import Any

from havre.api.meta import Obj, rfc3339
from havre.control.scheduler import preempt
from havre.control.scheduler.cluster import Cluster, Node, Pod
from havre.control.scheduler.filter import FILTERS, judge
from havre.control.scheduler.preempt import Choice
from havre.control.scheduler.score import balance, best, images, scaled, spare

PREFIX = "no new claims to deallocate, preemption: "


def pod(name: str = "p", *, cpu: str = "0", priority: int = 0, started: int = 0, **spec: Any) -> Pod:
    containers = [{"name": "c", "image": "registry/app", "resources": {"requests": {"cpu": cpu}}}]
    labels = {"app": name}
    obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels},
        "spec": {"containers": containers, "priority": priority, **spec},
        "status": {"startTime": rfc3339(1000 + started)},
    }
    return Pod.of(obj)


def node(name: str, *pods: Pod, **more: Any) -> Node:
    made = Node(name)
    room = {"cpu": "2", "memory": "4Gi", "pods": "110"}
    status = {"allocatable": room, "images": more.pop("images", [])}
    made.describe({"metadata": {"name": name, "labels": more.pop("labels", {})}, "spec": more, "status": status})
    for each in pods:
        made.add(each)
    return made


def world(*nodes: Node) -> Cluster:
    cluster = Cluster()
    cluster.by_name = {each.name: each for each in nodes}
    return cluster


def chosen(one: Pod, *nodes: Node) -> str:
    return best(one, nodes, nodes).name


# scores


def test_emptier_node_wins_and_of_equals_the_first_name() -> None:
    assert chosen(pod(), node("a", pod("x", cpu="1")), node("b")) == "b"
    assert chosen(pod(), node("b"), node("a")) == "a"


def test_pods_that_ask_for_nothing_count_all_the_same() -> None:
    assert chosen(pod(), node("a", pod("x"), pod("y")), node("b", pod("z"))) == "b"


def test_spare_and_balance_are_percentages() -> None:
    half = node("a", pod("x", cpu="1"))
    assert spare(pod(cpu="0"), half) == (int(100 * 0.5) + int(100 * (1 - 400 / 4096))) // 2
    assert balance(pod(), half) == 75


def test_image_that_is_there_draws_the_pod() -> None:
    held = [{"names": ["registry/app:latest"], "sizeBytes": 900 * 1024 * 1024}]
    nodes = [node("a"), node("b", images=held)]
    assert images(pod(), nodes[1], nodes) == 43
    assert chosen(pod(), *nodes) == "b"


def test_preferred_affinity_and_soft_taints_outweigh_little_differences() -> None:
    expression = {"key": "disk", "operator": "Exists"}
    term = {"weight": 5, "preference": {"matchExpressions": [expression]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}
    busy = node("b", pod("x", cpu="500m"), labels={"disk": "ssd"})
    assert chosen(pod(affinity=affinity), node("a"), busy) == "b"
    soft = node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}])
    assert chosen(pod(), soft, node("b", pod("x", cpu="500m"))) == "b"


def test_points_are_scaled_to_the_best() -> None:
    assert scaled({"a": 1, "b": 3, "c": 2}) == {"a": 0, "b": 100, "c": 50}
    assert scaled({"a": 7, "b": 7}) == {"a": 0, "b": 0}


# room


def room(one: Pod, *nodes: Node, budgets: list[Obj] | None = None) -> Choice | str:
    cluster = world(*nodes)
    return preempt.choose(one, judge(one, cluster), cluster, FILTERS, budgets or [])


def victims(found: Choice | str) -> tuple[str, list[str]]:
    assert isinstance(found, Choice)
    return found.node.name, [each.ref.name for each in found.victims]


def test_no_more_pods_go_than_must_and_the_least_important_ones() -> None:
    held = node("a", pod("x", cpu="1", priority=1), pod("y", cpu="500m"), pod("z", cpu="500m", started=5))
    assert victims(room(pod(cpu="500m", priority=9), held)) == ("a", ["z"])


def test_node_with_the_less_important_victim_is_chosen() -> None:
    one, other = node("a", pod("x", cpu="2", priority=5)), node("b", pod("y", cpu="2", priority=1))
    assert victims(room(pod(cpu="1", priority=9), one, other)) == ("b", ["y"])


def test_budget_is_broken_only_where_nothing_else_helps() -> None:
    budget = {
        "metadata": {"namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}},
        "status": {"disruptionsAllowed": 0},
    }
    held = node("a", pod("x", cpu="1"), pod("y", cpu="1", started=-5))
    assert victims(room(pod(cpu="1", priority=9), held, budgets=[budget])) == ("a", ["y"])


def test_equally_important_pods_are_safe() -> None:
    held = node("a", pod("x", cpu="2", priority=9))
    words = "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    assert room(pod(cpu="1", priority=9), held) == PREFIX + words


def test_room_does_not_help_where_the_node_is_too_small_or_shut() -> None:
    words = "0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    assert room(pod(cpu="3", priority=9), node("a", pod("x", cpu="2")), node("b", unschedulable=True)) == PREFIX + words


def test_polite_pod_preempts_nobody() -> None:
    held = node("a", pod("x", cpu="2"))
    found = room(pod(cpu="1", priority=9, preemptionPolicy="Never"), held)
    assert found == PREFIX + "not eligible due to preemptionPolicy=Never."
