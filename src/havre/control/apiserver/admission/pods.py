"""Small plugs for pods: Priority, DefaultTolerationSeconds, RuntimeClass.

Source: k8s.io/kubernetes plugin/pkg/admission/{priority,defaulttolerationseconds,runtimeclass}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from havre.api import amounts
from havre.api.errors import Forbidden
from havre.api.meta import Obj, name_of
from havre.control.apiserver.admission.refusal import forbidden
from havre.machinery.admission import AdmissionRequest, Lister, Operation

TOLERATION_SECONDS = 300  # how long a pod stays on a node that is not ready or not reachable
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"

_PRIORITY_GROUP = "scheduling.k8s.io"


def _is_new_pod(req: AdmissionRequest) -> bool:
    return req.targets("", "pods") and req.operation == Operation.CREATE


@dataclass(frozen=True, slots=True)
class Priority:
    """A pod's number comes from its PriorityClass, never from its author; one class at most is the default."""

    concerns: ClassVar = frozenset({("", "pods"), (_PRIORITY_GROUP, "priorityclasses")})

    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        if not req.targets("", "pods") or req.obj is None:
            return
        spec = req.obj["spec"]
        if req.operation == Operation.UPDATE and req.old is not None:
            for key in ("priority", "preemptionPolicy"):
                if spec.get(key) is None and req.old["spec"].get(key) is not None:
                    spec[key] = req.old["spec"][key]
        elif req.operation == Operation.CREATE:
            self._resolve(req, spec)

    def _resolve(self, req: AdmissionRequest, spec: Obj) -> None:
        name, value, policy = spec.get("priorityClassName"), 0, "PreemptLowerPriority"
        found = self.lister.get(_PRIORITY_GROUP, "priorityclasses", "", name) if name else self._default()
        if found is not None:
            spec["priorityClassName"] = name_of(found)
            value, policy = found["value"], found.get("preemptionPolicy", policy)
        elif name:
            raise forbidden(req, f"no PriorityClass with name {name} was found")
        if spec.get("priority") not in (None, value):
            raise _computed(req, "integer value of priority", spec["priority"], value)
        if spec.get("preemptionPolicy") not in (None, policy):
            raise _computed(req, "string value of PreemptionPolicy", spec["preemptionPolicy"], policy)
        spec["priority"], spec["preemptionPolicy"] = value, policy

    def _default(self) -> Obj | None:
        """Should two be marked after a race, the lower one counts."""
        marked = [c for c in self.lister.list(_PRIORITY_GROUP, "priorityclasses", "") if c.get("globalDefault")]
        return min(marked, key=lambda c: (c["value"], name_of(c)), default=None)

    async def validate(self, req: AdmissionRequest) -> None:
        if not req.targets(_PRIORITY_GROUP, "priorityclasses") or req.obj is None or not req.obj.get("globalDefault"):
            return
        default = self._default()
        if default is not None and (req.operation == Operation.CREATE or name_of(default) != name_of(req.obj)):
            text = f"PriorityClass {name_of(default)} is already marked as default. Only one default can exist"
            raise forbidden(req, text)


def _computed(req: AdmissionRequest, what: str, given: object, computed: object) -> Forbidden:
    return forbidden(
        req,
        f"the {what} ({given}) must not be provided in pod spec; priority admission controller computed {computed} "
        "from the given PriorityClass name",
    )


class DefaultTolerationSeconds:
    """A pod leaves a lost node after five minutes unless it says otherwise."""

    concerns: ClassVar = frozenset({("", "pods")})

    async def admit(self, req: AdmissionRequest) -> None:
        is_write = req.operation in (Operation.CREATE, Operation.UPDATE)
        if not req.targets("", "pods") or not is_write or req.obj is None:
            return
        spec = req.obj["spec"]
        given = spec.get("tolerations") or []
        lacking = [key for key in (NOT_READY, UNREACHABLE) if not any(_tolerates(t, key) for t in given)]
        if lacking:
            spec["tolerations"] = [*given, *map(_for_a_while, lacking)]


def _tolerates(toleration: Obj, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


def _for_a_while(key: str) -> Obj:
    return {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}


@dataclass(frozen=True, slots=True)
class RuntimeClass:
    """A pod costs what its RuntimeClass says, and runs where that class can run."""

    concerns: ClassVar = frozenset({("", "pods")})

    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        if not _is_new_pod(req) or req.obj is None:
            return
        spec = req.obj["spec"]
        found = self._class(req, spec)
        if found is None:
            return
        overhead = (found.get("overhead") or {}).get("podFixed")
        if overhead:
            if spec.get("overhead") and amounts.read(spec["overhead"]) != amounts.read(overhead):
                raise forbidden(req, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            spec["overhead"] = dict(overhead)
        if found.get("scheduling"):
            _schedule(req, spec, found["scheduling"])

    async def validate(self, req: AdmissionRequest) -> None:
        if not _is_new_pod(req) or req.obj is None:
            return
        spec = req.obj["spec"]
        found = self._class(req, spec) or {}
        overhead = (found.get("overhead") or {}).get("podFixed")
        if overhead and amounts.read(spec.get("overhead")) != amounts.read(overhead):
            raise forbidden(req, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        if not overhead and spec.get("overhead"):
            text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise forbidden(req, text)

    def _class(self, req: AdmissionRequest, spec: Obj) -> Obj | None:
        name = spec.get("runtimeClassName")
        if not name:
            return None
        found = self.lister.get("node.k8s.io", "runtimeclasses", "", name)
        if found is None:
            raise forbidden(req, f'pod rejected: RuntimeClass "{name}" not found')
        return found


def _schedule(req: AdmissionRequest, spec: Obj, scheduling: Obj) -> None:
    selector = dict(spec.get("nodeSelector") or {})
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if selector.get(key, value) != value:
            why = (
                f"runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {selector[key]}"
            )
            raise forbidden(req, f"conflict: {why}")
        selector[key] = value
    if selector:
        spec["nodeSelector"] = selector
    tolerations = spec.get("tolerations") or []
    more = [t for t in scheduling.get("tolerations") or () if t not in tolerations]
    if more:
        spec["tolerations"] = [*tolerations, *more]
