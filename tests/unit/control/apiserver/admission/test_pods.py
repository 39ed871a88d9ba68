"""Priority, DefaultTolerationSeconds, RuntimeClass."""

from __future__ import annotations

from typing import Any

import pytest

from havre.api.errors import Forbidden
from havre.control.apiserver.admission.pods import DefaultTolerationSeconds, Priority, RuntimeClass
from havre.machinery.admission import Operation

CREATE, UPDATE = Operation.CREATE, Operation.UPDATE
SCHEDULING = "scheduling.k8s.io"


def priority_class(name: str, value: int, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "value": value, **more}


async def test_a_pods_priority_comes_from_its_class(objects: Any, ask: Any, pod: Any) -> None:
    objects.add("priorityclasses", priority_class("high", 1000, preemptionPolicy="Never"), SCHEDULING)
    req = ask(CREATE, "pods", pod({"priorityClassName": "high"}))
    await Priority(objects).admit(req)
    assert (req.obj["spec"]["priority"], req.obj["spec"]["preemptionPolicy"]) == (1000, "Never")


async def test_without_a_class_the_lowest_default_counts_or_zero(objects: Any, ask: Any, pod: Any) -> None:
    req = ask(CREATE, "pods", pod())
    await Priority(objects).admit(req)
    assert (req.obj["spec"]["priority"], req.obj["spec"]["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    assert "priorityClassName" not in req.obj["spec"]
    for name, value in (("b", 20), ("a", 10)):
        objects.add("priorityclasses", priority_class(name, value, globalDefault=True), SCHEDULING)
    req = ask(CREATE, "pods", pod())
    await Priority(objects).admit(req)
    assert (req.obj["spec"]["priorityClassName"], req.obj["spec"]["priority"]) == ("a", 10)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"priorityClassName": "nosuch"}, "no PriorityClass with name nosuch was found"),
        (
            {"priority": 7},
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller "
            "computed 0 from the given PriorityClass name",
        ),
        (
            {"preemptionPolicy": "Never"},
            "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission "
            "controller computed PreemptLowerPriority from the given PriorityClass name",
        ),
    ],
)
async def test_a_pod_cannot_choose_its_own_number(objects: Any, ask: Any, pod: Any, spec: Any, why: str) -> None:
    with pytest.raises(Forbidden) as refused:
        await Priority(objects).admit(ask(CREATE, "pods", pod(spec)))
    assert refused.value.message == f'pods "web" is forbidden: {why}'


async def test_an_update_keeps_the_priority_it_forgot_to_send(objects: Any, ask: Any, pod: Any) -> None:
    req = ask(UPDATE, "pods", pod(), pod({"priority": 5, "preemptionPolicy": "Never"}))
    await Priority(objects).admit(req)
    assert (req.obj["spec"]["priority"], req.obj["spec"]["preemptionPolicy"]) == (5, "Never")


async def test_there_is_one_default_class_at_most(objects: Any, ask: Any) -> None:
    first = priority_class("first", 1, globalDefault=True)
    objects.add("priorityclasses", first, SCHEDULING)
    second = priority_class("second", 2, globalDefault=True)
    with pytest.raises(Forbidden, match="PriorityClass first is already marked as default"):
        await Priority(objects).validate(ask(CREATE, "priorityclasses", second, group=SCHEDULING, namespace=""))
    await Priority(objects).validate(ask(UPDATE, "priorityclasses", first, first, group=SCHEDULING, namespace=""))


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ([], ["not-ready", "unreachable"]),
        ([{"operator": "Exists"}], []),
        ([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}], ["unreachable"]),
        ([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}], ["not-ready", "unreachable"]),
    ],
)
async def test_a_pod_leaves_a_lost_node_after_five_minutes(ask: Any, pod: Any, given: Any, added: list[str]) -> None:
    req = ask(CREATE, "pods", pod({"tolerations": given}))
    await DefaultTolerationSeconds().admit(req)
    assert req.obj["spec"]["tolerations"] == given + [
        {"key": f"node.kubernetes.io/{k}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for k in added
    ]


async def test_a_runtime_class_gives_overhead_and_a_place(objects: Any, ask: Any, pod: Any) -> None:
    scheduling = {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}
    kind = {"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": scheduling}
    objects.add("runtimeclasses", kind, "node.k8s.io")
    plug, req = RuntimeClass(objects), ask(CREATE, "pods", pod({"runtimeClassName": "vm", "nodeSelector": {"a": "b"}}))
    await plug.admit(req)
    await plug.validate(req)
    spec = req.obj["spec"]
    assert (spec["overhead"], spec["nodeSelector"]) == ({"cpu": "250m"}, {"a": "b", "vm": "yes"})
    assert spec["tolerations"] == [{"key": "vm"}]
    clash = ask(CREATE, "pods", pod({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}))
    with pytest.raises(Forbidden, match=r"conflict: runtimeClass.scheduling.nodeSelector\[vm\] = yes"):
        await plug.admit(clash)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"runtimeClassName": "nosuch"}, 'pod rejected: RuntimeClass "nosuch" not found'),
        (
            {"overhead": {"cpu": "1"}},
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
    ],
)
async def test_overhead_needs_its_class(objects: Any, ask: Any, pod: Any, spec: Any, why: str) -> None:
    with pytest.raises(Forbidden) as refused:
        await RuntimeClass(objects).validate(ask(CREATE, "pods", pod(spec)))
    assert refused.value.message == f'pods "web" is forbidden: {why}'
