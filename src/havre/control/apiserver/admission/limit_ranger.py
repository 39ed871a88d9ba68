"""LimitRanger: containers get the defaults of their namespace's LimitRanges; what is too small or too large is refused.

Source: k8s.io/kubernetes plugin/pkg/admission/limitranger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from havre.api import amounts
from havre.api.amounts import Amounts
from havre.api.meta import Obj, annotations_of, name_of
from havre.api.pod_resources import pod_total
from havre.control.apiserver.admission.refusal import forbidden
from havre.kit.quantity import ZERO, Quantity
from havre.machinery.admission import AdmissionRequest, Lister, Operation

ANNOTATION = "kubernetes.io/limit-ranger"
_KINDS = (("containers", "container"), ("initContainers", "init container"))


@dataclass(frozen=True, slots=True)
class LimitRanger:
    concerns: ClassVar = frozenset({("", "pods"), ("", "persistentvolumeclaims")})
    lister: Lister

    async def admit(self, req: AdmissionRequest) -> None:
        if not _concerned(req) or req.attributes.resource != "pods" or req.obj is None:
            return
        for limit_range in self._ranges(req):
            _default(limit_range, req.obj)

    async def validate(self, req: AdmissionRequest) -> None:
        if not _concerned(req) or req.obj is None:
            return
        for limit_range in self._ranges(req):
            problems = list(dict.fromkeys(_problems(limit_range, req.attributes.resource, req.obj)))
            if problems:
                why = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
                raise forbidden(req, why)

    def _ranges(self, req: AdmissionRequest) -> list[Obj]:
        if req.old is not None and "deletionTimestamp" in req.old["metadata"]:
            return []
        found = self.lister.list("", "limitranges", req.attributes.namespace)
        return sorted(found, key=name_of) if len(found) > 1 else found


def _concerned(req: AdmissionRequest) -> bool:
    """New pods, pods being resized, claims."""
    a = req.attributes
    if a.group or not a.namespace:
        return False
    if a.resource == "pods":
        wanted = Operation.UPDATE if a.subresource == "resize" else Operation.CREATE
        return a.subresource in ("", "resize") and req.operation == wanted
    is_write = req.operation in (Operation.CREATE, Operation.UPDATE)
    return a.resource == "persistentvolumeclaims" and not a.subresource and is_write


def _limits(limit_range: Obj, kind: str) -> Iterator[Obj]:
    for limit in (limit_range.get("spec") or {}).get("limits") or ():
        if limit["type"] == kind:
            yield limit


def _default(limit_range: Obj, pod: Obj) -> None:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for limit in _limits(limit_range, "Container"):
        requests |= limit.get("defaultRequest") or {}
        limits |= limit.get("default") or {}
    if not requests and not limits:
        return
    told: list[str] = []
    for key, words in _KINDS:
        for container in pod["spec"].get(key) or ():
            resources = container["resources"] = dict(container.get("resources") or {})
            for which, defaults in (("requests", requests), ("limits", limits)):
                given = resources.get(which) or {}
                added = {name: value for name, value in defaults.items() if name not in given}
                if added:
                    resources[which] = {**given, **added}
                    told.append(f"{', '.join(sorted(added))} {which[:-1]} for {words} {container['name']}")
    if told:
        value = "LimitRanger plugin set: " + "; ".join(told)
        pod["metadata"]["annotations"] = {**annotations_of(pod), ANNOTATION: value}


def _problems(limit_range: Obj, resource: str, obj: Obj) -> Iterator[str]:
    if resource == "persistentvolumeclaims":
        for limit in _limits(limit_range, "PersistentVolumeClaim"):
            requests = amounts.read((obj["spec"].get("resources") or {}).get("requests"))
            yield from _below(limit, requests, {})
            yield from _request_above(limit, requests)
        return
    containers = [c for key in ("containers", "initContainers") for c in obj["spec"].get(key) or ()]
    for limit in _limits(limit_range, "Container"):
        for container in containers:
            resources = container.get("resources") or {}
            yield from _outside(limit, amounts.read(resources.get("requests")), amounts.read(resources.get("limits")))
    for limit in _limits(limit_range, "Pod"):
        yield from _outside(limit, pod_total(obj, "requests"), pod_total(obj, "limits"))


def _outside(limit: Obj, requests: Amounts, limits: Amounts) -> Iterator[str]:
    yield from _below(limit, requests, limits)
    yield from _above(limit, requests, limits)
    yield from _ratio(limit, requests, limits)


def _bounds(limit: Obj, which: str) -> Iterator[tuple[str, Quantity]]:
    yield from sorted(amounts.read(limit.get(which)).items())


def _below(limit: Obj, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, bound in _bounds(limit, "min"):
        text = f"minimum {name} usage per {limit['type']} is {bound}"
        request, upper = requests.get(name), limits.get(name)
        if request is None:
            yield f"{text}.  No request is specified"
        elif request < bound:
            yield f"{text}, but request is {request}"
        elif upper is not None and upper < bound:
            yield f"{text}, but limit is {upper}"


def _above(limit: Obj, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, bound in _bounds(limit, "max"):
        text = f"maximum {name} usage per {limit['type']} is {bound}"
        request, upper = requests.get(name), limits.get(name)
        if upper is None:
            yield f"{text}.  No limit is specified"
        elif upper > bound:
            yield f"{text}, but limit is {upper}"
        elif request is not None and request > bound:
            yield f"{text}, but request is {request}"


def _request_above(limit: Obj, requests: Amounts) -> Iterator[str]:
    for name, bound in _bounds(limit, "max"):
        text = f"maximum {name} usage per {limit['type']} is {bound}"
        request = requests.get(name)
        if request is None:
            yield f"{text}.  No request is specified"
        elif request > bound:
            yield f"{text}, but request is {request}"


def _ratio(limit: Obj, requests: Amounts, limits: Amounts) -> Iterator[str]:
    for name, bound in _bounds(limit, "maxLimitRequestRatio"):
        text = f"{name} max limit to request ratio per {limit['type']} is {bound}"
        request, upper = requests.get(name, ZERO), limits.get(name, ZERO)
        if not request:
            yield f"{text}, but no request is specified or request is 0"
        elif not upper:
            yield f"{text}, but no limit is specified or limit is 0"
        elif upper.amount > bound.amount * request.amount:
            yield f"{text}, but provided ratio is {upper.nano / request.nano:f}"
