"""The status to report of a pod, from its spec, what was reported before and what is seen now. Pure.

The phase only moves forward: a pod that has Succeeded or Failed stays so, and becomes so only when nothing of it can
run any more. Conditions of others (readiness gates, DisruptionTarget) are left alone.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (generateAPIPodStatus, getPhase), pkg/kubelet/status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from havre.api.meta import Obj, rfc3339
from havre.node.agent import container_status as containers
from havre.node.agent.seen import Seen
from havre.node.agent.specs import (
    TERMINAL,
    all_containers,
    app_containers,
    ephemeral_containers,
    init_containers,
    is_sidecar,
    on_host_network,
    phase_of,
    qos_class,
    restarts,
)
from havre.node.agent.sync import new_sandbox

MESSAGES: Final = 12 << 10  # bytes of all termination messages of a pod: the API server's objects stay small
OURS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
_LISTS: Final = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_SCALARS: Final = ("phase", "reason", "message", "hostIP", "podIP", "startTime", "qosClass", "observedGeneration")
_BY_IP: Final = ("hostIPs", "podIPs")


class Verdict(NamedTuple):
    """Why a pod is over although its containers did not decide it."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status is made of beside the pod and what is seen."""

    host_ips: tuple[str, ...]
    reasons: Mapping[str, containers.Reason] = field(default_factory=dict)  # why a container waits, by its name
    stopped: bool = False  # the pod is over: nothing will be started again
    verdict: Verdict | None = None


def status(pod: Obj, seen: Seen, facts: Facts) -> Obj:
    """Everything of PodStatus that the agent owns."""
    old = pod.get("status") or {}
    own = _container_statuses(pod, seen, facts)
    phase = _settled_phase(pod, seen, own, facts)
    new: Obj = {
        "phase": phase,
        **_why(old, phase, facts.verdict),
        **_addresses(pod, seen, facts.host_ips),
        "startTime": old.get("startTime") or rfc3339(seen.now),
        "qosClass": qos_class(pod),
        **own,
    }
    if pod["metadata"].get("generation"):
        new["observedGeneration"] = pod["metadata"]["generation"]
    new["conditions"] = conditions(pod, seen, own, phase)
    return {key: value for key, value in new.items() if value not in ("", [], None)}


def _container_statuses(pod: Obj, seen: Seen, facts: Facts) -> Obj:
    old, several = pod.get("status") or {}, bool(init_containers(pod))
    limit = MESSAGES // max(1, sum(1 for _ in all_containers(pod)))

    def listed(key: str, specs: Sequence[Obj]) -> list[Obj]:
        before = {s["name"]: s for s in old.get(key) or ()}
        view = containers.View(pod, seen, facts.reasons, several, key == "initContainerStatuses", limit)
        return [containers.status(view, spec, before.get(spec["name"])) for spec in specs]

    by_name = {
        "containerStatuses": listed("containerStatuses", app_containers(pod)),
        "ephemeralContainerStatuses": listed("ephemeralContainerStatuses", ephemeral_containers(pod)),
    }
    out = {key: sorted(found, key=lambda s: str(s["name"])) for key, found in by_name.items()}
    return {"initContainerStatuses": listed("initContainerStatuses", init_containers(pod)), **out}


def _settled_phase(pod: Obj, seen: Seen, own: Obj, facts: Facts) -> str:
    before = phase_of(pod)
    if before in TERMINAL:
        return before
    new = "Failed" if facts.verdict else phase(pod, own, seen, stopped=facts.stopped)
    return before if new in TERMINAL and seen.running() else new


def _why(old: Obj, phase: str, verdict: Verdict | None) -> Obj:
    if phase == old.get("phase"):
        return {"reason": old.get("reason", ""), "message": old.get("message", "")}
    if verdict is not None and phase in TERMINAL:
        return {"reason": verdict.reason, "message": verdict.message}
    return {}


def _addresses(pod: Obj, seen: Seen, host_ips: tuple[str, ...]) -> Obj:
    """A stopped pod keeps the address that it had."""
    out: Obj = {"hostIP": host_ips[0], "hostIPs": [{"ip": ip} for ip in host_ips]} if host_ips else {}
    kept = [entry["ip"] for entry in (pod.get("status") or {}).get("podIPs") or ()]
    ips = list(seen.ips) or kept or (list(host_ips) if on_host_network(pod) else [])
    if ips:
        out |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    return out


# phase


@dataclass(slots=True)
class _Counted:
    """How many containers are in which state, as the phase looks at them."""

    waiting: int = 0
    running: int = 0
    stopped: int = 0
    over: int = 0  # stopped and not to be restarted
    succeeded: int = 0


def phase(pod: Obj, own: Obj, seen: Seen, *, stopped: bool = False) -> str:
    """The phase that the container statuses mean; `stopped`: nothing is restarted any more."""
    by_name = {s["name"]: s for key in _LISTS for s in own.get(key) or ()}
    pending, failed, sidecar_pending = 0, 0, 0
    count = _Counted()
    for container in init_containers(pod):
        state = by_name[container["name"]]
        if is_sidecar(container):
            sidecar_pending += _count_sidecar(state, count)
            continue
        code = _exit_code(state)
        pending += code is None
        failed += code not in (None, 0) and not restarts(pod, container, code or 0)
    for container in app_containers(pod):
        _count_app(pod, container, by_name[container["name"]], count)
    if failed:
        return "Failed"
    began = any((c := seen.newest(a["name"])) is not None and c.started > 0 for a in app_containers(pod))
    if pending or (sidecar_pending and not began) or count.waiting:
        return "Pending"
    return _phase_of(count, stopped=stopped)


def _phase_of(count: _Counted, *, stopped: bool) -> str:
    if count.running:
        return "Running"
    if not count.stopped:
        return "Pending"
    if not stopped and count.stopped != count.over:
        return "Running"
    return "Succeeded" if count.stopped == count.succeeded else "Failed"


def _exit_code(state: Obj) -> int | None:
    """How it ended, or, waiting for its restart, how it ended last; None: not (yet)."""
    ended = state["state"].get("terminated")
    if ended is None and state["state"].get("waiting") is not None:
        ended = state["lastState"].get("terminated")
    return None if ended is None else int(ended["exitCode"])


def _count_sidecar(state: Obj, count: _Counted) -> int:
    """1 while it has yet to start."""
    if "running" in state["state"]:
        count.running += 1
        return int(not state.get("started"))
    if _exit_code(state) is None:
        count.waiting += 1
        return 1
    return 0


def _count_app(pod: Obj, container: Obj, state: Obj, count: _Counted) -> None:
    if "running" in state["state"]:
        count.running += 1
        return
    code = _exit_code(state)
    if code is None:
        count.waiting += 1
        return
    count.stopped += 1
    count.over += not restarts(pod, container, code)
    count.succeeded += code == 0 and "terminated" in state["state"]


# conditions


def conditions(pod: Obj, seen: Seen, own: Obj, phase: str) -> list[Obj]:
    """Those of others as they are, then ours."""
    before = (pod.get("status") or {}).get("conditions") or []
    theirs = [c for c in before if c["type"] not in OURS]
    containers_ready = _containers_ready(pod, own, phase)
    wanted = {
        "PodReadyToStartContainers": (new_sandbox(pod, seen) is None, "", ""),
        "Initialized": _initialized(pod, own, phase),
        "Ready": _ready(pod, theirs, containers_ready),
        "ContainersReady": containers_ready,
        "PodScheduled": (True, "", ""),
    }
    old = {c["type"]: c for c in before}
    generation = pod["metadata"].get("generation")
    return [*theirs, *(_condition(type, said, old.get(type), generation, seen.now) for type, said in wanted.items())]


_Said = tuple[bool, str, str]  # true, reason, message


def _condition(type: str, said: _Said, old: Obj | None, generation: int | None, now: float) -> Obj:
    true, reason, message = said
    value = "True" if true else "False"
    since = old.get("lastTransitionTime") if old and old.get("status") == value else None
    out: Obj = {"type": type, "status": value, "lastProbeTime": None, "lastTransitionTime": since or rfc3339(now)}
    if generation:
        out["observedGeneration"] = generation
    return out | {key: text for key, text in (("reason", reason), ("message", message)) if text}


def _containers_ready(pod: Obj, own: Obj, phase: str) -> _Said:
    if phase == "Succeeded":
        return False, "PodCompleted", ""
    if phase == "Failed":
        return False, "PodFailed", ""
    by_name = {s["name"]: s for key in _LISTS for s in own.get(key) or ()}
    wanted = [c for c in init_containers(pod) if is_sidecar(c)] + app_containers(pod)
    unready = [c["name"] for c in wanted if not by_name[c["name"]]["ready"]]
    if unready:
        return False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return True, "", ""


def _ready(pod: Obj, theirs: Sequence[Obj], containers_ready: _Said) -> _Said:
    if not containers_ready[0]:
        return containers_ready
    said = {c["type"]: c["status"] for c in theirs}
    missing = []
    for gate in (g["conditionType"] for g in pod["spec"].get("readinessGates") or ()):
        if gate not in said:
            missing.append(f'corresponding condition of pod readiness gate "{gate}" does not exist.')
        elif said[gate] != "True":
            missing.append(f'the status of pod readiness gate "{gate}" is not "True", but {said[gate]}')
    return (False, "ReadinessGatesNotReady", ", ".join(missing)) if missing else (True, "", "")


def _initialized(pod: Obj, own: Obj, phase: str) -> _Said:
    if phase == "Succeeded":
        return True, "PodCompleted", ""
    if any(_has_started(s) for s in own.get("containerStatuses") or ()):
        return True, "", ""
    by_name = {s["name"]: s for s in own.get("initContainerStatuses") or ()}
    incomplete = [
        c["name"] for c in init_containers(pod) if not by_name[c["name"]].get("started" if is_sidecar(c) else "ready")
    ]
    if incomplete:
        return False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(incomplete)}]"
    return True, "", ""


def _has_started(state: Obj) -> bool:
    return bool(state.get("started") or state["state"].get("terminated") or state["lastState"].get("terminated"))


# the end, and the way to the API


def last(pod: Obj, new: Obj) -> Obj:
    """The status of a pod of which nothing runs and nothing will: every container that began has ended, the phase is
    one of the two last ones."""
    begun = not init_containers(pod) or any(
        "waiting" not in s["state"] or s["lastState"].get("terminated") for s in new.get("containerStatuses") or ()
    )
    out = dict(new)
    if begun:
        out["containerStatuses"] = [containers.lost(s) for s in new.get("containerStatuses") or ()]
    inits = new.get("initContainerStatuses") or []
    reached = max((i for i, s in enumerate(inits) if "waiting" not in s["state"] or s["lastState"]), default=0)
    out["initContainerStatuses"] = [containers.lost(s) if i <= reached else s for i, s in enumerate(inits)]
    if not inits:
        del out["initContainerStatuses"]
    if out["phase"] not in TERMINAL:
        out["phase"] = "Failed"
    return out


def rejected(pod: Obj, verdict: Verdict, now: float) -> Obj:
    """A pod that this node never ran."""
    return {
        "phase": "Failed",
        "reason": verdict.reason,
        "message": f"Pod was rejected: {verdict.message}",
        "qosClass": qos_class(pod),
        "startTime": (pod.get("status") or {}).get("startTime") or rfc3339(now),
    }


def patch(old: Obj, new: Obj) -> Obj:
    """The strategic merge patch of the status that makes `new` of `old`; {} when nothing differs.

    Fields that the agent does not own are not touched.
    """
    out: Obj = {}
    for key in (*_SCALARS, *_LISTS):
        if new.get(key) != old.get(key):
            out[key] = new.get(key)
    for key in _BY_IP:
        if new.get(key, []) != old.get(key, []):
            out[key] = [{"$patch": "replace"}, *new.get(key, [])]
    changed = _changed_conditions(old.get("conditions") or [], new.get("conditions") or [])
    if changed:
        out["conditions"] = changed
    return out


def _changed_conditions(old: Sequence[Obj], new: Sequence[Obj]) -> list[Obj]:
    before = {c["type"]: c for c in old}
    out = []
    for condition in new:
        known = before.get(condition["type"], {})
        gone = {key: None for key in known if key not in condition}
        if condition["type"] in OURS and any(known.get(k) != v for k, v in {**condition, **gone}.items()):
            out.append({**condition, **gone})
    return out
