"""Amounts of the API as the kernel takes them: cpu shares and quotas, memory limits, OOM scores; pure.

    cpu 500m  →  shares 512, quota 50 000 µs of each 100 000 µs;  on v2 weight 20 and `50000 100000`

Source: k8s.io/kubernetes pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go; runc's conversion of shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from havre.api.meta import Obj
from havre.api.pod_resources import pod_total
from havre.kit.quantity import ZERO, Quantity
from havre.node.agent.specs import amount, app_containers, init_containers, is_sidecar, qos_class

PERIOD: Final = 100_000  # µs of one period of the CPU quota
MIN_QUOTA: Final = 1_000  # µs: the kernel takes no less
MIN_SHARES: Final = 2
MAX_SHARES: Final = 262_144
GUARANTEED_SCORE: Final = -997
BEST_EFFORT_SCORE: Final = 1000
CRITICAL: Final = 2_000_001_000  # priority of system-node-critical


def shares(milli: int) -> int:
    """cpu.shares of a request in thousandths of a CPU."""
    return min(max(milli * 1024 // 1000, MIN_SHARES), MAX_SHARES)


def quota(milli: int) -> int:
    """cpu.cfs_quota_us of a limit; 0: none."""
    return max(milli * PERIOD // 1000, MIN_QUOTA) if milli else 0


def weight(cpu_shares: int) -> int:
    """cpu.weight (1 … 10 000) of shares (2 … 262 144)."""
    return 1 + (cpu_shares - MIN_SHARES) * 9999 // (MAX_SHARES - MIN_SHARES)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pod's cgroup is given; None: not limited."""

    cpu_shares: int
    cpu_quota: int | None = None
    memory: int | None = None


def pod_limits(pod: Obj) -> Limits:
    """Limits hold for the whole pod only when every container has one (or the pod itself)."""
    requests = pod_total(pod, "requests", overhead=True)
    limits = pod_total(pod, "limits", overhead=True)
    if qos_class(pod) == "BestEffort":
        return Limits(MIN_SHARES)
    cpu = limits.get("cpu", ZERO) if _declared(pod, "cpu") else ZERO
    memory = limits.get("memory", ZERO) if _declared(pod, "memory") else ZERO
    return Limits(
        shares(requests.get("cpu", ZERO).milli_value()),
        quota(cpu.milli_value()) or None,
        memory.value() or None,
    )


def _declared(pod: Obj, name: str) -> bool:
    if amount((pod["spec"].get("resources") or {}).get("limits") or {}, name):
        return True
    every = [*app_containers(pod), *init_containers(pod)]
    return all(amount(_part(container, "limits"), name) for container in every)


def _part(holder: Obj, which: str) -> Obj:
    part: Obj = (holder.get("resources") or {}).get(which) or {}
    return part


def container_resources(pod: Obj, container: Obj, memory_capacity: int, *, group_oom: bool) -> Obj:
    """LinuxContainerResources of CRI; `group_oom`: cgroup v2, where the kernel kills the whole container."""
    requests, limits = _part(container, "requests"), _part(container, "limits")
    level = _part(pod["spec"], "limits")
    cpu_limit = amount(limits, "cpu") or amount(level, "cpu")
    memory_limit = amount(limits, "memory") or amount(level, "memory")
    request = amount(requests, "cpu") if "cpu" in requests else cpu_limit
    out: Obj = {
        "cpu_shares": shares(request.milli_value()),
        "cpu_period": PERIOD,
        "cpu_quota": quota(cpu_limit.milli_value()),
        "oom_score_adj": oom_score(pod, container, memory_capacity),
    }
    if memory_limit:
        out["memory_limit_in_bytes"] = memory_limit.value()
    if group_oom:
        out["unified"] = {"memory.oom.group": "1"}
    return out


def oom_score(pod: Obj, container: Obj, memory_capacity: int) -> int:
    """Who asked for much memory is killed late; one that asked for nothing first."""
    quality = qos_class(pod)
    if quality == "Guaranteed" or (pod["spec"].get("priority") or 0) >= CRITICAL:
        return GUARANTEED_SCORE
    if quality == "BestEffort":
        return BEST_EFFORT_SCORE
    spare = _spare_memory(pod)
    score = 1000 - 1000 * (_memory(container) + spare) // memory_capacity
    if is_sidecar(container):  # as safe as the least of the containers it serves
        least = min((_memory(c) for c in app_containers(pod)), default=0) + spare
        score = min(score, 1000 - 1000 * least // memory_capacity)
    return min(max(score, 1000 + GUARANTEED_SCORE), BEST_EFFORT_SCORE - 1)


def _memory(container: Obj) -> int:
    return amount(_part(container, "requests"), "memory").value()


def _spare_memory(pod: Obj) -> int:
    """What the pod itself asks for beyond its containers, shared among them."""
    asked: Quantity = amount(_part(pod["spec"], "requests"), "memory")
    if not asked:
        return 0
    holders = [*app_containers(pod), *(c for c in init_containers(pod) if is_sidecar(c))]
    return max(0, asked.value() - sum(map(_memory, holders))) // max(1, len(holders))


def burstable_shares(pods: list[Obj]) -> int:
    """cpu.shares of the group of all Burstable pods: what they asked for together."""
    milli = sum(
        pod_total(pod, "requests").get("cpu", ZERO).milli_value() for pod in pods if qos_class(pod) == "Burstable"
    )
    return shares(milli)
