"""What this node refuses to run although it was told to: pods that do not fit or cannot work here. Pure.

The scheduler asks the same questions before; this is for pods that were bound by hand, or in a race.

Source: k8s.io/kubernetes pkg/kubelet/lifecycle/predicate.go, pkg/kubelet/sysctl/safe_sysctls.go,
pkg/scheduler/framework/plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from havre.api import amounts
from havre.api.meta import Obj, labels_of
from havre.api.pod_resources import pod_total
from havre.kit.quantity import ZERO, Quantity
from havre.node.agent.specs import all_containers, on_host_network
from havre.node.agent.status import Verdict

_NATIVE = ("cpu", "memory", "ephemeral-storage")
_SAFE_SYSCTLS = frozenset(
    (
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    )
)
_TESTS = {
    "In": lambda value, values: value is not None and value in values,
    "NotIn": lambda value, values: value is None or value not in values,
    "Exists": lambda value, values: value is not None,
    "DoesNotExist": lambda value, values: value is None,
    "Gt": lambda value, values: _compared(value, values, 1),
    "Lt": lambda value, values: _compared(value, values, -1),
}


def refusal(pod: Obj, node: Obj, others: Sequence[Obj]) -> Verdict | None:
    """Why the pod cannot run here beside the `others`; None: it can."""
    spec = pod["spec"]
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        return Verdict("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    if labels_of(pod).get("kubernetes.io/os", "linux") != "linux":
        text = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
        return Verdict("PodOSSelectorNodeLabelDoesNotMatch", text)
    if spec.get("hostUsers") is False:
        return Verdict(
            "UnsupportedUserNamespaces", "this node cannot run pods in user namespaces; drop hostUsers: false"
        )
    return (
        _unsafe_sysctl(pod)
        or _short(pod, node, others)
        or _elsewhere(pod, node)
        or _ports_taken(pod, others)
        or _untolerated(pod, node)
        or None
    )


def _unsafe_sysctl(pod: Obj) -> Verdict | None:
    """Only settings that a pod can turn for itself alone and that cannot exhaust the machine."""
    spec = pod["spec"]
    for sysctl in (spec.get("securityContext") or {}).get("sysctls") or ():
        name = sysctl["name"].replace("/", ".")
        why = "" if name in _SAFE_SYSCTLS else "not allowlisted"
        if name.startswith("net.") and on_host_network(pod):
            why = "not allowed with host net enabled"
        elif name.startswith("kernel.") and spec.get("hostIPC"):
            why = "not allowed with host ipc enabled"
        if why:
            return Verdict("SysctlForbidden", f'forbidden sysctl: "{name}" {why}')
    return None


def _short(pod: Obj, node: Obj, others: Sequence[Obj]) -> Verdict | None:
    room = amounts.read((node.get("status") or {}).get("allocatable"))
    if not room:
        return None
    asked = pod_total(pod, "requests", overhead=True)
    used = amounts.add(*(pod_total(other, "requests", overhead=True) for other in others))
    if len(others) + 1 > room.get("pods", ZERO).value():
        return _out_of("pods", Quantity.of(1), Quantity.of(len(others)), room.get("pods", ZERO))
    for name in (*_NATIVE, *(n for n in asked if n not in _NATIVE and n in room)):
        want, have = asked.get(name, ZERO), used.get(name, ZERO)
        if want > ZERO and want + have > room.get(name, ZERO):
            return _out_of(name, want, have, room.get(name, ZERO))
    return None


def _out_of(name: str, asked: Quantity, used: Quantity, capacity: Quantity) -> Verdict:
    numbers = [q.milli_value() if name == "cpu" else q.value() for q in (asked, used, capacity)]
    text = "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}".format(name, *numbers)
    return Verdict(f"OutOf{name}", text)


def _elsewhere(pod: Obj, node: Obj) -> Verdict | None:
    wanted = pod["spec"].get("nodeSelector") or {}
    labels = labels_of(node)
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    fits = all(labels.get(key) == value for key, value in wanted.items())
    if fits and required is not None:
        fits = any(_term_fits(term, node) for term in required.get("nodeSelectorTerms") or ())
    if fits:
        return None
    return Verdict("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")


def _term_fits(term: Obj, node: Obj) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    labels, known = labels_of(node), {"metadata.name": node["metadata"]["name"]}
    if not expressions and not fields:
        return False
    return all(_fits(e, labels) for e in expressions) and all(_fits(f, known) for f in fields)


def _fits(requirement: Obj, values: Obj) -> bool:
    test = _TESTS.get(requirement.get("operator", ""))
    return bool(test and test(values.get(requirement["key"]), requirement.get("values") or []))


def _compared(value: str | None, values: Sequence[str], sign: int) -> bool:
    try:
        return value is not None and len(values) == 1 and sign * (int(value) - int(values[0])) > 0
    except ValueError:
        return False


def _ports_taken(pod: Obj, others: Iterable[Obj]) -> Verdict | None:
    taken = [port for other in others for port in _host_ports(other)]
    if any(_conflict(mine, theirs) for mine in _host_ports(pod) for theirs in taken):
        text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        return Verdict("NodePorts", text)
    return None


def _host_ports(pod: Obj) -> list[tuple[str, int, str]]:
    return [
        (port.get("protocol") or "TCP", number, port.get("hostIP") or "0.0.0.0")  # noqa: S104 - compared, not bound
        for container in all_containers(pod)
        for port in container.get("ports") or ()
        if (number := port.get("hostPort") or (port["containerPort"] if on_host_network(pod) else 0))
    ]


def _conflict(mine: tuple[str, int, str], theirs: tuple[str, int, str]) -> bool:
    return mine[:2] == theirs[:2] and (mine[2] == theirs[2] or "0.0.0.0" in (mine[2], theirs[2]))  # noqa: S104


def _untolerated(pod: Obj, node: Obj) -> Verdict | None:
    """Only NoExecute: other effects are the scheduler's business."""
    tolerations = pod["spec"].get("tolerations") or []
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("effect") == "NoExecute" and not any(_tolerates(t, taint) for t in tolerations):
            return Verdict("TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint(s)")
    return None


def _tolerates(toleration: Obj, taint: Obj) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")
