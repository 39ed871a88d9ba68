"""Words for the Warning header of a write that succeeded: what is deprecated, ignored or surprising in the object.

Source: k8s.io/kubernetes, pkg/api/pod/warnings.go, pkg/api/service/warnings.go, WarningsOnCreate of pkg/registry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.equality import semantic_equal
from havre.kit.names import dns1123_label

_POD_NAME: Final = "this is used in the Pod's hostname, which can result in surprising behavior"
_OWNER_NAME: Final = "this is used in Pod names and hostnames, which can result in surprising behavior"
_NAMED_PODS: Final = frozenset({"Deployment", "ReplicaSet", "ReplicationController", "Job", "CronJob"})
_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "Job": ("spec", "template"),
    "PodTemplate": ("template",),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
}
_KIND_LIFECYCLE: Final = {
    "ComponentStatus": "v1 ComponentStatus is deprecated in v1.19+",
    "Endpoints": "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
_REMOVED_VOLUMES: Final = {
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "gitRepo": "deprecated in v1.11, and disabled by default in v1.33+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
}
_OLD_NODE_LABELS: Final = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}
_MOUNTABLE_SECRETS: Final = "kubernetes.io/enforce-mountable-secrets"


def warnings(obj: Obj, old: Obj | None = None) -> list[str]:
    """Warnings about `obj` as created, or as updated from `old`."""
    kind: str = obj["kind"]
    core = obj["apiVersion"] == "v1"
    found: list[str] = []
    if core and kind in _KIND_LIFECYCLE:
        found.append(_KIND_LIFECYCLE[kind])
    if old is None and (kind in _NAMED_PODS or (core and kind == "Pod")):
        found += _name_warnings(obj, _POD_NAME if kind == "Pod" else _OWNER_NAME)
    if core and kind == "Pod" and old is None:
        found += _pod_warnings("", obj)
    elif kind in _TEMPLATES:
        found += _template_warnings(obj, old)
    elif core and kind == "Service":
        found += _service_warnings(obj)
    elif core and kind == "ServiceAccount":
        found += _account_warnings(obj, old)
    return found


def _name_warnings(obj: Obj, why: str) -> list[str]:
    problems = dns1123_label(obj["metadata"].get("name", ""))
    return [f"metadata.name: {why}; a DNS label is recommended: [{' '.join(problems)}]"] if problems else []


def _template_warnings(obj: Obj, old: Obj | None) -> list[str]:
    path = _TEMPLATES[obj["kind"]]
    template = _at(obj, path)
    if not template or (old is not None and semantic_equal(template, _at(old, path))):
        return []
    return _pod_warnings(".".join(path) + ".", template)


def _at(obj: Obj, path: tuple[str, ...]) -> Obj:
    node: Any = obj
    for key in path:
        node = node.get(key) or {}
    result: Obj = node
    return result


def _pod_warnings(prefix: str, pod: Obj) -> list[str]:
    spec = pod.get("spec") or {}
    found = [
        f"{prefix}spec.nodeSelector[{label}]: {_OLD_NODE_LABELS[label]}"
        for label in spec.get("nodeSelector") or ()
        if label in _OLD_NODE_LABELS
    ]
    for i, volume in enumerate(spec.get("volumes") or ()):
        found += [
            f"{prefix}spec.volumes[{i}].{source}: {words}"
            for source, words in _REMOVED_VOLUMES.items()
            if source in volume
        ]
    found += _selector_warnings(f"{prefix}spec", spec)
    found += _list_warnings(f"{prefix}spec", spec)
    containers = list(_containers(f"{prefix}spec", spec))
    for path, container in containers:
        found += _env_warnings(path, container)
        found += _fraction_warnings(path, container)
    found += _port_warnings(containers)
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        words = "must be >= 0; negative values are invalid and will be treated as 1"
        found.append(f"{prefix}spec.terminationGracePeriodSeconds: {words}")
    return found


_NULL_SELECTOR: Final = "a null labelSelector results in matching no pod"


def _selector_warnings(path: str, spec: Obj) -> list[str]:
    """Terms without a selector, which select nothing."""
    terms = [
        (f"{path}.topologySpreadConstraints[{i}]", constraint)
        for i, constraint in enumerate(spec.get("topologySpreadConstraints") or ())
    ]
    for side in ("podAffinity", "podAntiAffinity"):
        rules = (spec.get("affinity") or {}).get(side) or {}
        field = "requiredDuringSchedulingIgnoredDuringExecution"
        terms += [(f"{path}.affinity.{side}.{field}[{i}]", term) for i, term in enumerate(rules.get(field) or ())]
        field = "preferredDuringSchedulingIgnoredDuringExecution"
        terms += [
            (f"{path}.affinity.{side}.{field}[{i}].podAffinityTerm", weighted.get("podAffinityTerm") or {})
            for i, weighted in enumerate(rules.get(field) or ())
        ]
    return [f"{here}.labelSelector: {_NULL_SELECTOR}" for here, term in terms if term.get("labelSelector") is None]


def _list_warnings(path: str, spec: Obj) -> list[str]:
    """Host aliases and pull secrets named twice, pull secrets without a name."""
    found: list[str] = []
    for field, key in (("hostAliases", "ip"), ("imagePullSecrets", "name")):
        values = [item.get(key) or "" for item in spec.get(field) or ()]
        found += [
            f'{path}.{field}[{i}].{key}: duplicate {key} "{value}"'
            for i, value in enumerate(values)
            if value in values[:i]
        ]
    for i, item in enumerate(spec.get("imagePullSecrets") or ()):
        if not item.get("name"):
            found.append(f'{path}.imagePullSecrets[{i}].name: invalid empty name ""')
    return found


def _fraction_warnings(path: str, container: Obj) -> list[str]:
    resources = container.get("resources") or {}
    return [
        f'{path}.resources.{side}[{name}]: fractional byte value "{value}" is invalid, must be an integer'
        for name in ("memory", "ephemeral-storage")
        for side in ("limits", "requests")
        if (value := (resources.get(side) or {}).get(name)) is not None and str(value)[-1:] in ("m", "u", "n")
    ]


def _containers(path: str, spec: Obj) -> Iterator[tuple[str, Obj]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for i, container in enumerate(spec.get(field) or ()):
            yield f"{path}.{field}[{i}]", container


def _env_warnings(path: str, container: Obj) -> list[str]:
    env = container.get("env") or ()
    found: list[str] = []
    seen: set[str] = set()
    for i, item in enumerate(env):
        name, value = item.get("name", ""), item.get("value") or ""
        extends = f"$({name})" in value and value != f"$({name})" and not item.get("valueFrom")
        if name in seen and not extends:
            words = f'hides previous definition of "{name}", which may be dropped when using apply'
            found.append(f"{path}.env[{i}]: {words}")
        seen.add(name)
    return found


def _port_warnings(containers: list[tuple[str, Obj]]) -> list[str]:
    ports = [
        (f"{path}.ports[{i}]", port)
        for path, container in containers
        for i, port in enumerate(container.get("ports") or ())
    ]
    found = [
        f"{path}: hostIP set without hostPort: {_shown_port(port)}"
        for path, port in ports
        if port.get("hostIP") and not port.get("hostPort")
    ]
    if len(ports) < 2:
        return found
    same: dict[tuple[Any, Any], list[tuple[str, Obj]]] = {}
    for path, port in ports:
        others = same.setdefault((port.get("containerPort"), port.get("protocol")), [])
        found += [f"{path}: {words} with {other}" for other, before in others if (words := _clash(port, before))]
        others.append((path, port))
    names: dict[str, str] = {}
    for path, port in ports:
        name = port.get("name")
        if name and (other := names.setdefault(name, path)) != path:
            words = f"services and probes that select ports by name will use {other}"
            found.append(f'{path}: duplicate port name "{name}" with {other}, {words}')
    return found


def _shown_port(port: Obj) -> str:
    """A port as Go prints the structure."""
    words = (f"{shown}:{port.get(key) or zero}" for shown, key, zero in _PORT_FIELDS)
    return f"{{{' '.join(words)}}}"


_PORT_FIELDS: Final = (
    ("Name", "name", ""),
    ("HostPort", "hostPort", "0"),
    ("ContainerPort", "containerPort", "0"),
    ("Protocol", "protocol", ""),
    ("HostIP", "hostIP", ""),
)


def _clash(a: Obj, b: Obj) -> str:
    ips, ports = (a.get("hostIP") or "", b.get("hostIP") or ""), (a.get("hostPort") or 0, b.get("hostPort") or 0)
    if ips[0] == ips[1] and ports[0] == ports[1]:
        return "duplicate port definition"
    if not all(ports):
        return "overlapping port definition"
    if ports[0] == ports[1] and ips.count("") == 1:
        return "dangerously ambiguous port definition"
    return ""


def _service_warnings(obj: Obj) -> list[str]:
    spec = obj.get("spec") or {}
    found: list[str] = []
    if spec.get("clusterIP") == "None" and spec.get("type") != "ExternalName":
        ignored = [field for field in ("loadBalancerIP", "externalIPs") if spec.get(field)]
        if spec.get("sessionAffinity", "None") != "None":
            ignored.append("SessionAffinity")
        found += [f"spec.{field} is ignored for headless services" for field in ignored]
    external = spec.get("type") == "ExternalName"
    if external and spec.get("externalIPs"):
        found.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    if not external and spec.get("externalName"):
        found.append('spec.externalName is ignored when spec.type is not "ExternalName"')
    return found


def _account_warnings(obj: Obj, old: Obj | None) -> list[str]:
    def marked(account: Obj) -> bool:
        return _MOUNTABLE_SECRETS in (account["metadata"].get("annotations") or {})

    if not marked(obj) or (old is not None and marked(old)):
        return []
    words = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    return [f"metadata.annotations[{_MOUNTABLE_SECRETS}]: {words}"]
