"""Who owns whom: what the graph knows, and what it wants done."""

from __future__ import annotations

import pytest

from havre.api.meta import GVK
from havre.control.workloads.graph import (
    KEEP,
    Action,
    Delete,
    Finish,
    Graph,
    Hurry,
    Node,
    Orphan,
    Owner,
    Release,
    Verdict,
)
from havre.machinery.api import Ref

MAP = GVK("", "v1", "ConfigMap")
NODE = GVK("", "v1", "Node")
SOLID, ABSENT, WAITING, INVALID = Verdict.SOLID, Verdict.ABSENT, Verdict.WAITING, Verdict.INVALID


def ref_to(uid: str, *, gvk: GVK = MAP, name: str = "", blocks: bool = False) -> Owner:
    return Owner(uid, gvk, name or uid, blocks)


def node(uid: str, *owners: Owner, namespace: str = "a", gvk: GVK = MAP, holds: str = "") -> Node:
    """`holds`: d for being deleted, f and o for the finalizers."""
    return Node(uid, Ref(gvk, namespace, uid), owners, "d" in holds, "f" in holds, "o" in holds)


def graph_of(*nodes: Node) -> Graph:
    graph = Graph()
    for each in nodes:
        graph.observe(each)
    return graph


def test_node_keeps_identity_owners_and_how_it_is_deleted() -> None:
    obj = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": "web",
            "namespace": "a",
            "uid": "u",
            "finalizers": ["foregroundDeletion"],
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "o", "blockOwnerDeletion": True}
            ],
        },
    }
    owner = Owner("o", GVK("apps", "v1", "Deployment"), "web", True)
    expected = Node("u", Ref(GVK("apps", "v1", "ReplicaSet"), "a", "web"), (owner,), True, True, False)
    assert Node.of(obj) == expected
    assert Node.of(obj).waits


def test_owner_that_lives_as_named_is_solid_without_asking() -> None:
    graph = graph_of(node("o"), node("x", ref_to("o")))
    assert graph.verdict(node("x"), ref_to("o")) is SOLID


@pytest.mark.parametrize(
    "reference",
    [ref_to("unknown"), ref_to("o", name="other"), ref_to("o", gvk=GVK("", "v1", "Secret"))],
    ids=["never seen", "wrong name", "wrong kind"],
)
def test_owner_that_is_not_known_as_named_must_be_asked_for(reference: Owner) -> None:
    assert graph_of(node("o")).verdict(node("x"), reference) is None


def test_owner_in_another_namespace_must_be_asked_for_and_a_cluster_wide_one_not() -> None:
    graph = graph_of(node("o", namespace="b"), node("n", namespace="", gvk=NODE))
    assert graph.verdict(node("x"), ref_to("o")) is None
    assert graph.verdict(node("x"), ref_to("n", gvk=NODE)) is SOLID


def test_owner_whose_end_was_seen_is_absent_for_ever() -> None:
    graph = graph_of(node("o"), node("x", ref_to("o")))
    assert graph.forget("o") == {"x"}
    assert graph.verdict(node("x"), ref_to("o")) is ABSENT
    assert graph.verdict(node("x"), ref_to("o", name="other")) is ABSENT


def test_owner_the_server_did_not_find_is_absent_in_that_namespace_only() -> None:
    graph = Graph()
    graph.absent(ref_to("o"), "a")
    assert graph.verdict(node("x"), ref_to("o")) is ABSENT
    assert graph.verdict(node("x", namespace="b"), ref_to("o")) is None


def test_new_dependent_of_an_unknown_owner_is_looked_at_and_of_a_known_one_not() -> None:
    graph = graph_of(node("o"))
    assert graph.observe(node("x", ref_to("o"))) == set()
    assert graph.observe(node("y", ref_to("gone"))) == {"y"}


def test_owner_seen_after_its_dependents_wakes_those_who_name_it_wrongly() -> None:
    graph = graph_of(node("right", ref_to("o")), node("wrong", ref_to("o", name="p")), node("b", ref_to("o")))
    graph.observe(node("elsewhere", ref_to("o"), namespace="b"))
    assert graph.observe(node("o")) == {"wrong", "elsewhere"}
    assert graph.misplaced("elsewhere") == [ref_to("o")]
    assert graph.misplaced("right") == []


def test_foreground_deletion_wakes_the_object_and_its_dependents() -> None:
    graph = graph_of(node("o"), node("x", ref_to("o")))
    assert graph.observe(node("o", holds="df")) == {"o", "x"}
    assert graph.observe(node("o", holds="df")) == set()


def test_dependent_that_stops_blocking_or_goes_wakes_the_waiting_owner() -> None:
    blocked = node("x", ref_to("o", blocks=True))
    assert graph_of(node("o", holds="df"), blocked).observe(node("x")) == {"o"}
    assert graph_of(node("o", holds="df"), blocked).forget("x") == {"o"}
    assert graph_of(node("o"), blocked).forget("x") == set()


def test_orphaning_wakes_the_owner_also_when_it_was_asked_for_later() -> None:
    graph = graph_of(node("o", holds="d"))
    assert graph.observe(node("o", holds="do")) == {"o"}


def test_repeated_observation_costs_nothing() -> None:
    graph = graph_of(node("x", ref_to("gone")))
    assert graph.observe(node("x", ref_to("gone"))) == set()


TWO = (ref_to("p"), ref_to("q"))


@pytest.mark.parametrize(
    ("item", "verdicts", "action"),
    [
        (node("x"), [], KEEP),
        (node("x", *TWO), [SOLID, SOLID], KEEP),
        (node("x", *TWO), [SOLID, ABSENT], Release(frozenset({"q"}))),
        (node("x", *TWO), [WAITING, SOLID], Release(frozenset({"p"}))),
        (node("x", *TWO), [ABSENT, ABSENT], Delete("Background")),
        (node("x", *TWO), [ABSENT, WAITING], Delete("Background")),
        (node("x", *TWO), [ABSENT, INVALID], KEEP),
        (node("x", *TWO, holds="o"), [ABSENT, ABSENT], Delete("Orphan")),
        (node("x", *TWO, holds="f"), [ABSENT, ABSENT], Delete("Foreground")),
        (node("x", *TWO, holds="d"), [], KEEP),
        (node("x", holds="df"), [], Finish()),
        (node("x", holds="do"), [], Orphan(())),
    ],
)
def test_decision_about_an_object_without_dependents(item: Node, verdicts: list[Verdict], action: Action) -> None:
    assert Graph().decide(item, verdicts) == action


def test_foreground_goes_down_to_dependents_that_own_something_and_breaks_cycles() -> None:
    child = node("y", ref_to("x"))
    assert graph_of(child).decide(node("x", ref_to("o")), [WAITING]) == Delete("Foreground")
    ending = node("y", ref_to("x"), holds="df")
    assert graph_of(ending).decide(node("x", ref_to("o")), [WAITING]) == Delete("Foreground", unblock=True)


def test_waiting_owner_hurries_those_who_block_it() -> None:
    graph = graph_of(node("x", ref_to("o", blocks=True)), node("y", ref_to("o")))
    assert graph.decide(node("o", holds="df"), []) == Hurry(("x",))


def test_orphaning_names_every_dependent() -> None:
    graph = graph_of(node("x", ref_to("o")), node("y", ref_to("o", blocks=True)))
    assert graph.decide(node("o", holds="do"), []) == Orphan(("x", "y"))


def test_forgotten_objects_leave_nothing_behind() -> None:
    graph = graph_of(node("o"), node("x", ref_to("o")))
    graph.forget("x")
    graph.forget("o")
    assert (len(graph), graph.dependents("o")) == (0, [])
