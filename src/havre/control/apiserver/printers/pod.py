"""Pods: one word for the state of all containers, as `kubectl get pods` has always shown it.

The word is the phase, unless something is more telling: a reason in the status, the first init container that is not
done, the last container that waits or has ended, a deletion.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printPod).
"""

from __future__ import annotations

from dataclasses import dataclass

from havre.api.meta import Obj
from havre.control.apiserver.printers.reading import EMPTY, NONE, condition, created, spec_of, status_of, when
from havre.control.apiserver.table import Completed, Since

_MESSAGES = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}
_NEVER = float("-inf")


@dataclass(slots=True)
class _Tally:
    """What the containers looked at so far add up to."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last: float = _NEVER  # when a container last ended before it was restarted

    def add(self, status: Obj) -> None:
        self.restarts += status.get("restartCount") or 0
        if (before := status.get("lastState")) and (ended := before.get("terminated")) is not None:
            self.last = max(self.last, when(ended.get("finishedAt")) or _NEVER)

    def shown(self) -> object:
        if not self.restarts or self.last == _NEVER:
            return str(self.restarts)
        return Since(self.last, f"{self.restarts} (", " ago)")


def pod(obj: Obj) -> list[object]:
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    phase = status.get("phase", "")
    init = spec.get("initContainers") or ()
    total = len(spec.get("containers") or ())
    tally = _Tally(_first_reason(status, phase))
    initializing = False
    if init:
        sidecars = [c.get("name") for c in init if c.get("restartPolicy") == "Always"]
        total += len(sidecars)
        initializing = _count_init(tally, status, sidecars, len(init))
    if not initializing or _is_true(status, "Initialized"):
        _count_containers(tally, status)
    cells: list[object] = [
        meta["name"],
        f"{tally.ready}/{total}",
        _last_reason(meta, status, phase, tally.reason),
        tally.shown(),
        created(meta),
        _address(status),
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(spec, status),
    ]
    message = _MESSAGES.get(phase)
    return Completed(cells, phase, message) if message else cells


def _first_reason(status: Obj, phase: str) -> str:
    for found in status.get("conditions") or ():
        if found.get("reason") == "SchedulingGated" and found.get("type") == "PodScheduled":
            return "SchedulingGated"
    return status.get("reason") or phase


def _last_reason(meta: Obj, status: Obj, phase: str, reason: str) -> str:
    if meta.get("deletionTimestamp") is None:
        return reason
    if status.get("reason") == "NodeLost":
        return "Unknown"
    return reason if phase in _MESSAGES else "Terminating"


def _is_true(status: Obj, kind: str) -> bool:
    found = condition(status.get("conditions"), kind)
    return found is not None and found.get("status") == "True"


def _count_init(tally: _Tally, status: Obj, sidecars: list[str | None], total: int) -> bool:
    """Looks at the init containers in order until one is not done; says whether there is one.

    Once initialization is over, only the restarts of sidecars count: the tally is left with those.
    """
    sidecar = _Tally("")
    initializing = False
    for index, found in enumerate(status.get("initContainerStatuses") or ()):
        tally.add(found)
        stays = found.get("name") in sidecars
        if stays:
            sidecar.add(found)
        state = found.get("state") or EMPTY
        ended = state.get("terminated")
        if ended is not None and not ended.get("exitCode"):
            continue
        if stays and found.get("started"):
            tally.ready += bool(found.get("ready"))
            continue
        tally.reason = _init_reason(state, ended, index, total)
        initializing = True
        break
    if not initializing or _is_true(status, "Initialized"):
        tally.restarts, tally.last = sidecar.restarts, sidecar.last
    return initializing


def _init_reason(state: Obj, ended: Obj | None, index: int, total: int) -> str:
    if ended is not None:
        return f"Init:{ended.get('reason') or _exit(ended)}"
    waiting = (state.get("waiting") or EMPTY).get("reason")
    return f"Init:{waiting}" if waiting and waiting != "PodInitializing" else f"Init:{index}/{total}"


def _exit(ended: Obj) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode') or 0}"


def _count_containers(tally: _Tally, status: Obj) -> None:
    """From the last to the first, so that the first container that has something to say is heard."""
    running = False
    for found in reversed(status.get("containerStatuses") or ()):
        tally.add(found)
        state = found.get("state") or EMPTY
        waiting = (state.get("waiting") or EMPTY).get("reason")
        ended = state.get("terminated")
        if waiting:
            tally.reason = waiting
        elif ended is not None:
            tally.reason = ended.get("reason") or _exit(ended)
        elif found.get("ready") and state.get("running") is not None:
            running = True
            tally.ready += 1
    if tally.reason == "Completed" and running:
        tally.reason = "Running" if _any_ready(status) else "NotReady"


def _any_ready(status: Obj) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())


def _address(status: Obj) -> str:
    """`podIP` wins over the list, which older kubelets do not write."""
    if address := status.get("podIP"):
        return str(address)
    listed = status.get("podIPs")
    return (listed[0].get("ip") if listed else "") or NONE


def _gates(spec: Obj, status: Obj) -> str:
    gates = spec.get("readinessGates")
    if not gates:
        return NONE
    return f"{sum(_is_true(status, gate.get('conditionType')) for gate in gates)}/{len(gates)}"
