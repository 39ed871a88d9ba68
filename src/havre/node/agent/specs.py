"""Small readers of a pod's spec that several decisions share; pure.

Source: k8s.io/kubernetes pkg/api/v1/pod/util.go, pkg/kubelet/container/helpers.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from havre.api.meta import Obj
from havre.api.pod_resources import is_best_effort
from havre.kit.quantity import ZERO, Quantity, parse

TERMINAL: Final = frozenset({"Succeeded", "Failed"})
DEFAULT_GRACE: Final = 30  # seconds; the API's default of terminationGracePeriodSeconds


def uid_of(pod: Obj) -> str:
    return str(pod["metadata"]["uid"])


def described(pod: Obj) -> str:
    """`name_namespace(uid)`, as kubelet's messages name a pod."""
    meta = pod["metadata"]
    return f"{meta['name']}_{meta['namespace']}({meta['uid']})"


def app_containers(pod: Obj) -> list[Obj]:
    return list(pod["spec"].get("containers") or ())


def init_containers(pod: Obj) -> list[Obj]:
    return list(pod["spec"].get("initContainers") or ())


def ephemeral_containers(pod: Obj) -> list[Obj]:
    return list(pod["spec"].get("ephemeralContainers") or ())


def all_containers(pod: Obj) -> Iterator[Obj]:
    yield from init_containers(pod)
    yield from app_containers(pod)
    yield from ephemeral_containers(pod)


def container_named(pod: Obj, name: str) -> Obj | None:
    return next((c for c in all_containers(pod) if c["name"] == name), None)


def is_sidecar(container: Obj) -> bool:
    """An init container that stays: the next one starts when it has started."""
    return container.get("restartPolicy") == "Always"


def is_deleted(pod: Obj) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def on_host_network(pod: Obj) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def phase_of(pod: Obj) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_finished(pod: Obj) -> bool:
    return phase_of(pod) in TERMINAL


def pod_policy(pod: Obj) -> str:
    return str(pod["spec"].get("restartPolicy") or "Always")


def restarts(pod: Obj, container: Obj, exit_code: int) -> bool:
    """Whether a container that ended so is started again; its own rules, then its own policy, then the pod's."""
    policy = container.get("restartPolicy")
    if policy and any(_matches(rule, exit_code) for rule in container.get("restartPolicyRules") or ()):
        return True
    match policy or pod_policy(pod):
        case "Never":
            return False
        case "OnFailure":
            return exit_code != 0
        case _:
            return True


def _matches(rule: Obj, exit_code: int) -> bool:
    codes = rule.get("exitCodes") or {}
    if rule.get("action") != "Restart" or not codes:
        return False
    listed = exit_code in (codes.get("values") or ())
    return listed if codes.get("operator") == "In" else not listed


def may_restart(pod: Obj, container: Obj) -> bool:
    """Whether a running container that is killed for its health is started again."""
    return (container.get("restartPolicy") or pod_policy(pod)) != "Never"


def port_number(port: object, container: Obj) -> int | None:
    """The number of a port that a probe or hook gives as number or as the name of a container's port."""
    if isinstance(port, int):
        return port
    text = str(port)
    if text.isdigit():
        return int(text)
    named = (p["containerPort"] for p in container.get("ports") or () if p.get("name") == text)
    return next((int(p) for p in named), None)


def qos_class(pod: Obj) -> str:
    """Guaranteed, Burstable or BestEffort; what the API server wrote, else the same rules."""
    return str((pod.get("status") or {}).get("qosClass") or _qos(pod))


def _qos(pod: Obj) -> str:
    if is_best_effort(pod):
        return "BestEffort"
    spec = pod["spec"]
    level = spec.get("resources") or {}
    if level.get("requests") or level.get("limits"):
        return "Guaranteed" if _equal(level) else "Burstable"
    return "Guaranteed" if all(_equal(c.get("resources") or {}) for c in _long_lived(pod)) else "Burstable"


def _long_lived(pod: Obj) -> list[Obj]:
    return [*app_containers(pod), *init_containers(pod)]


def _equal(resources: Obj) -> bool:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return all(
        amount(limits, name) > ZERO and amount(requests, name, amount(limits, name)) == amount(limits, name)
        for name in ("cpu", "memory")
    )


def amount(resources: Obj, name: str, default: Quantity = ZERO) -> Quantity:
    return parse(str(resources[name])) if name in resources else default
