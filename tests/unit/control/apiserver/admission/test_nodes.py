"""NodeRestriction: a node's agent writes about its own node and pods only."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden, NotFound
from havre.control.apiserver.admission.nodes import NodeRestriction, TaintNodesByCondition
from havre.machinery.admission import Operation, User

CREATE, UPDATE, DELETE = Operation.CREATE, Operation.UPDATE, Operation.DELETE
AGENT = User("system:node:n1", ("system:nodes",))


async def refusal(objects: Any, req: Any) -> str:
    with pytest.raises(Forbidden) as refused:
        await NodeRestriction(objects).admit(req)
    return refused.value.message.partition(" is forbidden: ")[2]


def mirror(pod: Any, **spec: Any) -> dict[str, Any]:
    made: dict[str, Any] = pod({"nodeName": "n1", **spec})
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "nu", "controller": True}
    made["metadata"] |= {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]}
    return made


def node(labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n1", "uid": "nu", "labels": labels or {}}, "spec": spec}


async def test_people_are_not_restricted(objects: Any, ask: Any) -> None:
    await NodeRestriction(objects).admit(ask(UPDATE, "nodes", node(), node(), name="other"))


async def test_an_agent_makes_mirror_pods_of_its_own(objects: Any, ask: Any, pod: Any) -> None:
    objects.add("nodes", node())
    await NodeRestriction(objects).admit(ask(CREATE, "pods", mirror(pod), user=AGENT))
    cases = [
        (pod(), 'pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods'),
        (mirror(pod, nodeName="n2"), 'node "n1" can only create pods with spec.nodeName set to itself'),
        (
            mirror(pod, volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
            'node "n1" can not create pods that reference secrets (via secret volumes)',
        ),
        (
            mirror(pod, containers=[{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}]),
            'node "n1" can not create pods that reference configmaps',
        ),
    ]
    for bad, why in cases:
        assert await refusal(objects, ask(CREATE, "pods", bad, user=AGENT)) == why
    stranger = mirror(pod)
    stranger["metadata"]["ownerReferences"][0]["uid"] = "other"
    assert (
        await refusal(objects, ask(CREATE, "pods", stranger, user=AGENT))
        == "node n1 UID mismatch: expected other got nu"
    )


async def test_an_agent_deletes_evicts_and_reports_its_own_pods(objects: Any, ask: Any, pod: Any) -> None:
    mine, other = pod({"nodeName": "n1"}), pod({"nodeName": "n2"})
    objects.add("pods", {**mine, "metadata": {"name": "mine", "namespace": "default"}})
    objects.add("pods", {**other, "metadata": {"name": "other", "namespace": "default"}})
    plug = NodeRestriction(objects)
    await plug.admit(ask(DELETE, "pods", None, mine, name="mine", user=AGENT))
    await plug.admit(ask(UPDATE, "pods", mine, mine, subresource="status", user=AGENT))
    await plug.admit(ask(CREATE, "pods", {}, subresource="eviction", name="mine", user=AGENT))
    why = 'node "n1" can only delete pods with spec.nodeName set to itself'
    assert await refusal(objects, ask(DELETE, "pods", None, other, name="other", user=AGENT)) == why
    why = 'node "n1" can only update pod status for pods with spec.nodeName set to itself'
    assert await refusal(objects, ask(UPDATE, "pods", other, other, subresource="status", user=AGENT)) == why
    relabelled = {**mine, "metadata": {"name": "mine", "labels": {"a": "b"}}}
    why = 'node "n1" cannot update labels through pod status'
    assert await refusal(objects, ask(UPDATE, "pods", relabelled, mine, subresource="status", user=AGENT)) == why
    with pytest.raises(NotFound, match='pods "gone" not found'):
        await plug.admit(ask(DELETE, "pods", None, None, name="gone", user=AGENT))


@pytest.mark.parametrize(
    ("label", "allowed"),
    [
        ("kubernetes.io/hostname", True),
        ("node.kubernetes.io/anything", True),
        ("x.node.kubernetes.io/anything", True),
        ("example.com/mine", True),
        ("plain", True),
        ("node-role.kubernetes.io/control-plane", False),
        ("node-restriction.kubernetes.io/pci", False),
        ("x.k8s.io/a", False),
    ],
)
async def test_an_agent_labels_its_node_with_what_describes_the_machine(
    objects: Any, ask: Any, label: str, allowed: bool
) -> None:
    req = ask(UPDATE, "nodes", node({label: "x"}), node(), name="n1", user=AGENT)
    if allowed:
        await NodeRestriction(objects).admit(req)
    else:
        assert await refusal(objects, req) == f"is not allowed to modify labels: {label}"


async def test_an_agent_touches_no_other_node_and_no_taints(objects: Any, ask: Any) -> None:
    why = 'node "n1" is not allowed to modify node "n2"'
    assert await refusal(objects, ask(UPDATE, "nodes", node(), node(), name="n2", user=AGENT)) == why
    tainted = node(taints=[{"key": "a", "effect": "NoSchedule"}])
    why = 'node "n1" is not allowed to modify taints'
    assert await refusal(objects, ask(UPDATE, "nodes", node(), tainted, name="n1", user=AGENT)) == why


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "node requested token not bound to a pod"),
        (
            {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine"}},
            "node requested token with a pod binding without a uid",
        ),
        (
            {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "other", "uid": "p2"}},
            "node requested token bound to a pod scheduled on a different node",
        ),
        (
            {
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": "p1"},
                "audiences": ["vault"],
            },
            'audience "vault" not found in pod spec volume, system:node:n1 is not authorized to request tokens for '
            "this audience",
        ),
        ({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": "p1"}}, ""),
    ],
)
async def test_an_agent_gets_tokens_for_pods_it_runs(objects: Any, ask: Any, pod: Any, spec: Any, why: str) -> None:
    token = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    for name, uid, where in (("mine", "p1", "n1"), ("other", "p2", "n2")):
        made = pod({"nodeName": where, "volumes": [token]})
        objects.add("pods", {**made, "metadata": {"name": name, "namespace": "default", "uid": uid}})
    req = ask(CREATE, "serviceaccounts", {"spec": spec}, subresource="token", name="default", user=AGENT)
    if why:
        assert await refusal(objects, req) == why
    else:
        await NodeRestriction(objects).admit(req)


async def test_an_agent_renews_its_own_lease(objects: Any, ask: Any) -> None:
    def lease(namespace: str, name: str) -> Any:
        where = {"group": "coordination.k8s.io", "namespace": namespace, "name": name}
        return ask(UPDATE, "leases", {}, {}, **where, user=AGENT)

    await NodeRestriction(objects).admit(lease("kube-node-lease", "n1"))
    why = "can only access node lease with the same name as the requesting node"
    assert await refusal(objects, lease("kube-node-lease", "n2")) == why
    why = 'can only access leases in the "kube-node-lease" system namespace'
    assert await refusal(objects, lease("kube-system", "n1")) == why


async def test_a_new_node_takes_no_pods_before_it_is_ready(ask: Any) -> None:
    req = ask(CREATE, "nodes", node(), namespace="")
    await TaintNodesByCondition().admit(req)
    await TaintNodesByCondition().admit(req)
    assert req.obj["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
