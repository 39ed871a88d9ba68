"""PodSecurity: the labels of a namespace say which Pod Security Standard its pods must meet.

`enforce` refuses pods; `warn` tells the author, of pods and of workloads that will make pods; `audit` is read and has
no output, as there is no audit log. A stricter `enforce` on a namespace warns about pods that are there already.

Source: k8s.io/pod-security-admission admission/admission.go, api/helpers.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from havre.api.errors import Forbidden, InternalError, Invalid
from havre.api.meta import Obj, controller_of, labels_of, name_of
from havre.control.apiserver.admission.pod_security_checks import LATEST, violations
from havre.kit import field
from havre.kit.field import FieldError
from havre.machinery.admission import AdmissionRequest, Lister, Operation

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")  # by strictness
MAX_CHECKED = 3000  # pods looked at when a namespace becomes stricter

_VERSION = re.compile(r"v1\.(0|[1-9]\d{0,3})", re.ASCII)
_QUIET_SUBRESOURCES = frozenset(("exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"))
_TEMPLATES = {
    ("", "replicationcontrollers"): ("spec", "template"),
    ("", "podtemplates"): ("template",),
    ("apps", "replicasets"): ("spec", "template"),
    ("apps", "deployments"): ("spec", "template"),
    ("apps", "statefulsets"): ("spec", "template"),
    ("apps", "daemonsets"): ("spec", "template"),
    ("batch", "jobs"): ("spec", "template"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True, slots=True)
class Standard:
    """A level, and the minor version whose rules count; None is the latest."""

    level: str = "privileged"
    minor: int | None = None

    def __str__(self) -> str:
        return f"{self.level}:latest" if self.minor is None else f"{self.level}:v1.{self.minor}"

    def check(self, template: Obj) -> str:
        """What it forbids about a pod, "" for nothing."""
        return ", ".join(map(str, violations(self.level, LATEST if self.minor is None else self.minor, template)))


@dataclass(frozen=True, slots=True)
class Policy:
    enforce: Standard = Standard()
    warn: Standard = Standard()


_OPEN = Policy()


def policy_of(labels: Mapping[str, str]) -> tuple[Policy, list[FieldError]]:
    """The policy that a namespace's labels ask for. A bad label enforces restricted, and warns of nothing."""
    if not any(label.startswith(PREFIX) for label in labels):
        return _OPEN, []
    problems: list[FieldError] = []
    found = {}
    for mode in ("enforce", "audit", "warn"):
        found[mode] = _standard(mode, labels, problems)
    enforce, warn = found["enforce"], found["warn"]
    level = labels.get(f"{PREFIX}enforce")
    if f"{PREFIX}warn" not in labels and level in LEVELS and LEVELS.index(level) > LEVELS.index(warn.level):
        versioned = f"{PREFIX}warn-version" in labels
        warn = Standard(level, warn.minor if versioned else enforce.minor)
    return Policy(enforce, warn), problems


def _standard(mode: str, labels: Mapping[str, str], problems: list[FieldError]) -> Standard:
    standard = Standard()
    level, version = labels.get(PREFIX + mode), labels.get(f"{PREFIX}{mode}-version")
    if level in LEVELS:
        standard = replace(standard, level=level)
    elif level is not None:
        problems.append(field.invalid(f"metadata.labels[{PREFIX}{mode}]", level, f"must be one of {', '.join(LEVELS)}"))
        standard = replace(standard, level="restricted" if mode == "enforce" else "privileged")
    if version not in (None, "latest"):
        match = _VERSION.fullmatch(version)
        if match:
            standard = replace(standard, minor=int(match[1]))
        else:
            path = f"metadata.labels[{PREFIX}{mode}-version]"
            problems.append(field.invalid(path, version, 'must be "latest" or "v1.x"'))
    return standard


@dataclass(frozen=True, slots=True)
class PodSecurity:
    concerns: ClassVar = frozenset({("", "pods"), ("", "namespaces"), *_TEMPLATES})
    lister: Lister

    async def validate(self, req: AdmissionRequest) -> None:
        a = req.attributes
        if req.obj is None or req.operation not in (Operation.CREATE, Operation.UPDATE):
            return
        if (a.group, a.resource) == ("", "pods"):
            if a.subresource not in _QUIET_SUBRESOURCES:
                self._pod(req, req.obj)
        elif a.subresource:
            return
        elif (a.group, a.resource) == ("", "namespaces"):
            self._namespace(req, req.obj)
        elif (path := _TEMPLATES.get((a.group, a.resource))) is not None:
            self._workload(req, _template(req.obj, path))

    def _pod(self, req: AdmissionRequest, pod: Obj) -> None:
        a = req.attributes
        namespace = self.lister.get("", "namespaces", "", a.namespace)
        if namespace is None:
            raise InternalError.of(f'failed to lookup namespace "{a.namespace}"')
        policy, _ = policy_of(labels_of(namespace))
        if policy == _OPEN or (req.old is not None and not _is_significant(pod, req.old)):
            return
        why = policy.enforce.check(pod)
        if why:
            name = a.name or pod["metadata"].get("name", "")
            raise Forbidden.of("pods", "", name, f'violates PodSecurity "{policy.enforce}": {why}')
        _warn(req, policy.warn, pod)

    def _workload(self, req: AdmissionRequest, template: Obj | None) -> None:
        namespace = self.lister.get("", "namespaces", "", req.attributes.namespace)
        if namespace is not None and template:
            _warn(req, policy_of(labels_of(namespace))[0].warn, template)

    def _namespace(self, req: AdmissionRequest, namespace: Obj) -> None:
        policy, problems = policy_of(labels_of(namespace))
        before, problems_before = policy_of(labels_of(req.old)) if req.old is not None else (_OPEN, [])
        if problems and problems != problems_before:
            raise Invalid.of("", "Namespace", name_of(namespace), problems)
        new, old = policy.enforce, before.enforce
        if req.operation == Operation.CREATE or new == old or new.level == "privileged":
            return
        if new.minor == old.minor and LEVELS.index(new.level) <= LEVELS.index(old.level):
            return
        req.warnings.extend(self._existing(name_of(namespace), new))

    def _existing(self, namespace: str, standard: Standard) -> list[str]:
        """Warnings about pods that would not be let in any more."""
        pods = _one_per_controller_first(self.lister.list("", "pods", namespace))
        minor = LATEST if standard.minor is None else standard.minor
        named: dict[str, list[str]] = {}
        for pod in pods[:MAX_CHECKED]:
            reasons = ", ".join(v.reason for v in violations(standard.level, minor, pod))
            if reasons:
                named.setdefault(reasons, []).append(name_of(pod))
        warnings = []
        if len(pods) > MAX_CHECKED:
            what = f"the first {MAX_CHECKED} of {len(pods)} existing pods"
            warnings.append(f"new PodSecurity enforce level only checked against {what}")
        if named:
            text = f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{standard}"'
            warnings.append(text)
        return warnings + sorted(f"{_and_others(names)}: {reasons}" for reasons, names in named.items())


def _and_others(names: list[str]) -> str:
    others = len(names) - 1
    if not others:
        return names[0]
    return f"{min(names)} (and {others} other pod{'' if others == 1 else 's'})"


def _one_per_controller_first(pods: list[Obj]) -> list[Obj]:
    """Replicas are alike: one of each first, should there be too many pods to check."""
    first, more, seen = [], [], set()
    for pod in pods:
        owner = controller_of(pod)
        if owner is not None and owner["uid"] in seen:
            more.append(pod)
            continue
        first.append(pod)
        if owner is not None:
            seen.add(owner["uid"])
    return first + more


def _warn(req: AdmissionRequest, standard: Standard, template: Obj) -> None:
    why = standard.check(template)
    if why:
        req.warnings.append(f'would violate PodSecurity "{standard}": {why}')


def _template(obj: Obj, path: tuple[str, ...]) -> Obj | None:
    found: Obj | None = obj
    for key in path:
        found = (found or {}).get(key)
    return found


def _is_significant(new: Obj, old: Obj) -> bool:
    """Only images and containers can change what a pod is allowed to be."""
    if any(len(_containers(new, key)) != len(_containers(old, key)) for key in ("containers", "initContainers")):
        return True
    for key in ("containers", "initContainers"):
        pairs = zip(_containers(new, key), _containers(old, key), strict=True)
        if any(one.get("image") != other.get("image") for one, other in pairs):
            return True
    images = {c["name"]: c.get("image") for c in _containers(old, "ephemeralContainers")}
    return any(
        c["name"] not in images or images[c["name"]] != c.get("image") for c in _containers(new, "ephemeralContainers")
    )


def _containers(pod: Obj, key: str) -> list[Obj]:
    return (pod.get("spec") or {}).get(key) or []
