"""What the node refuses."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.agent.pods import container, pod

from havre.api.meta import Obj
from havre.node.agent.admit import refusal

NODE: Obj = {
    "metadata": {"name": "n", "labels": {"zone": "a", "cores": "8", "kubernetes.io/os": "linux"}},
    "spec": {},
    "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "ephemeral-storage": "10Gi"}},
}


def asking(**requests: str) -> Obj:
    return container("a", resources={"requests": requests})


def reason(p: Obj, others: list[Obj] | None = None, node: Obj = NODE) -> str:
    found = refusal(p, node, others or [])
    return found.reason if found else ""


def test_pod_that_fits_is_taken() -> None:
    assert reason(pod(asking(cpu="2", memory="1Gi"))) == ""


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ({"cpu": "2001m"}, "OutOfcpu"),
        ({"memory": "2Gi"}, "OutOfmemory"),
        ({"ephemeral-storage": "11Gi"}, "OutOfephemeral-storage"),
    ],
)
def test_pod_that_asks_for_too_much(requests: dict[str, str], expected: str) -> None:
    assert reason(pod(asking(**requests))) == expected


def test_others_count() -> None:
    other = pod(asking(cpu="1500m"))
    found = refusal(pod(asking(cpu="600m")), NODE, [other])
    assert found is not None
    assert found.message == "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"
    assert reason(pod(), [pod(), pod(), pod()]) == "OutOfpods"


def test_resource_that_the_node_does_not_know_is_for_others_to_judge() -> None:
    assert reason(pod(asking(**{"example.dev/thing": "1"}))) == ""


def affinity(*expressions: Obj, fields: list[Obj] | None = None) -> dict[str, Any]:
    term = {"matchExpressions": [*expressions], "matchFields": fields or []}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"affinity": {"nodeAffinity": required}}


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["a", "b"], True),
        ("In", ["b"], False),
        ("NotIn", ["b"], True),
        ("NotIn", ["a"], False),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_node_affinity_by_label(operator: str, values: list[str], fits: bool) -> None:
    expression = {"key": "zone", "operator": operator, "values": values}
    assert (reason(pod(**affinity(expression))) == "") is fits


@pytest.mark.parametrize(
    ("operator", "value", "fits"), [("Gt", "7", True), ("Gt", "8", False), ("Lt", "9", True), ("Lt", "x", False)]
)
def test_node_affinity_by_number(operator: str, value: str, fits: bool) -> None:
    expression = {"key": "cores", "operator": operator, "values": [value]}
    assert (reason(pod(**affinity(expression))) == "") is fits


def test_node_affinity_by_name_and_empty_term() -> None:
    assert reason(pod(**affinity(fields=[{"key": "metadata.name", "operator": "In", "values": ["n"]}]))) == ""
    assert reason(pod(**affinity())) == "NodeAffinity"
    assert reason(pod(nodeSelector={"zone": "b"})) == "NodeAffinity"


def ported(port: int, ip: str = "", protocol: str = "TCP") -> Obj:
    return pod(container("a", ports=[{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]))


@pytest.mark.parametrize(
    ("mine", "theirs", "conflict"),
    [
        (ported(80), ported(80), True),
        (ported(80), ported(81), False),
        (ported(80, "127.0.0.1"), ported(80, "127.0.0.2"), False),
        (ported(80, "127.0.0.1"), ported(80), True),
        (ported(80), ported(80, protocol="UDP"), False),
    ],
)
def test_host_ports(mine: Obj, theirs: Obj, conflict: bool) -> None:
    assert (reason(mine, [theirs]) == "NodePorts") is conflict


def test_only_no_execute_taints_are_ours() -> None:
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    tainted = {**NODE, "spec": {"taints": [taint]}}
    assert reason(pod(), node=tainted) == "TaintToleration"
    assert reason(pod(), node={**NODE, "spec": {"taints": [{**taint, "effect": "NoSchedule"}]}}) == ""
    for toleration in ({"operator": "Exists"}, {"key": "k", "value": "v"}, {"key": "k", "operator": "Exists"}):
        assert reason(pod(tolerations=[toleration]), node=tainted) == ""
    assert reason(pod(tolerations=[{"key": "k", "value": "w"}]), node=tainted) == "TaintToleration"


def test_other_systems_and_user_namespaces_are_refused_clearly() -> None:
    assert reason(pod(os={"name": "windows"})) == "PodOSNotSupported"
    assert reason(pod(meta={"labels": {"kubernetes.io/os": "windows"}})) == "PodOSSelectorNodeLabelDoesNotMatch"
    assert reason(pod(hostUsers=False)) == "UnsupportedUserNamespaces"


@pytest.mark.parametrize(
    ("name", "spec", "says"),
    [
        ("kernel.shm_rmid_forced", {}, ""),
        ("net/ipv4/ip_unprivileged_port_start", {}, ""),
        ("net.ipv4.ip_forward", {}, 'forbidden sysctl: "net.ipv4.ip_forward" not allowlisted'),
        ("kernel.core_pattern", {}, 'forbidden sysctl: "kernel.core_pattern" not allowlisted'),
        (
            "net.ipv4.tcp_syncookies",
            {"hostNetwork": True},
            'forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled',
        ),
        (
            "kernel.shm_rmid_forced",
            {"hostIPC": True},
            'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled',
        ),
    ],
)
def test_only_settings_of_the_pod_alone_may_be_turned(name: str, spec: Obj, says: str) -> None:
    asked = pod(container("a"), **spec, securityContext={"sysctls": [{"name": name, "value": "1"}]})
    found = refusal(asked, NODE, [])
    assert ((found.reason, found.message) if found else ("", "")) == ("SysctlForbidden" if says else "", says)
