"""What an object costs in each resource that a ResourceQuota can limit, as pure functions.

Pods cost compute, services cost ports and load balancers, claims cost storage; everything costs `count/RESOURCE.GROUP`.
The admission charges with these numbers before an object exists; a quota controller recounts with the same ones.

Source: k8s.io/kubernetes pkg/quota/v1/evaluator/core, k8s.io/apiserver pkg/quota/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from havre.api import amounts
from havre.api.meta import Obj, annotations_of, parse_time
from havre.api.pod_resources import is_best_effort, pod_total
from havre.kit.quantity import ZERO, Quantity

ONE = Quantity.of(1)
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"

_STORAGE_CLASS = ".storageclass.storage.k8s.io/"
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_PODS = frozenset(
    {"pods", "count/pods", *_COMPUTE, *(f"requests.{c}" for c in _COMPUTE), *(f"limits.{c}" for c in _COMPUTE)}
)
_SERVICES = frozenset({"services", "count/services", "services.nodeports", "services.loadbalancers"})
_CLAIMS = frozenset({"persistentvolumeclaims", "requests.storage"})
_NAMED = frozenset(  # resources that also have a short name without count/
    {"configmaps", "secrets", "replicationcontrollers", "resourcequotas"}
)
# A quota on one of these makes every container say how much it wants: upstream's mistake, kept for compatibility.
_REQUIRED = frozenset({"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"})


def usage(group: str, resource: str, obj: Obj, now: float) -> dict[str, Quantity]:
    """What one object costs."""
    match group, resource:
        case "", "pods":
            return _pod_usage(obj, now)
        case "", "services":
            return _service_usage(obj)
        case "", "persistentvolumeclaims":
            return _claim_usage(obj)
        case _:
            return dict.fromkeys(_counted(group, resource), ONE)


def matching(group: str, resource: str, names: Iterable[str]) -> list[str]:
    """Those of a quota's resources that objects of this kind cost."""
    match group, resource:
        case "", "pods":
            return [
                n for n in names if n in _PODS or n.startswith(("hugepages-", "requests.hugepages-")) or _extended(n)
            ]
        case "", "services":
            return [n for n in names if n in _SERVICES]
        case "", "persistentvolumeclaims":
            suffixes = tuple(_STORAGE_CLASS + c for c in _CLAIMS)
            return [n for n in names if n in _CLAIMS or n == "count/persistentvolumeclaims" or n.endswith(suffixes)]
        case _:
            counted = _counted(group, resource)
            return [n for n in names if n in counted]


def counted(quota: Obj, group: str, resource: str, objects: Iterable[Obj], now: float) -> dict[str, Quantity]:
    """What these objects, all of one kind in the namespace of the quota, cost it: 0 when there are none."""
    names = matching(group, resource, (quota.get("spec") or {}).get("hard") or ())
    total = dict.fromkeys(names, ZERO)
    for obj in objects:
        if in_scope(quota, resource, obj):
            for name, amount in usage(group, resource, obj, now).items():
                if name in total:
                    total[name] += amount
    return total


def _counted(group: str, resource: str) -> tuple[str, ...]:
    count = f"count/{resource}.{group}" if group else f"count/{resource}"
    return (count, resource) if not group and resource in _NAMED else (count,)


def _extended(name: str) -> bool:
    """requests.example.com/gpu"""
    return name.startswith("requests.") and "/" in name and "kubernetes.io/" not in name


def _pod_usage(pod: Obj, now: float) -> dict[str, Quantity]:
    if not _is_live(pod, now):
        return {"count/pods": ONE}
    requests = pod_total(pod, "requests", overhead=True)
    limits = pod_total(pod, "limits", overhead=True)
    return {"count/pods": ONE, **_compute(requests, limits)}


def _compute(requests: dict[str, Quantity], limits: dict[str, Quantity]) -> dict[str, Quantity]:
    out = {"pods": ONE}
    for name, amount in requests.items():
        if name in _COMPUTE or name.startswith("hugepages-"):
            out[name] = out[f"requests.{name}"] = amount
        elif "/" in name and "kubernetes.io/" not in name:
            out[f"requests.{name}"] = amount
    for name in _COMPUTE:
        if name in limits:
            out[f"limits.{name}"] = limits[name]
    return out


def _is_live(pod: Obj, now: float) -> bool:
    """Finished pods cost nothing, nor do those that should be gone (their node may be lost)."""
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return False
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata and "deletionGracePeriodSeconds" in metadata:
        grace: int = metadata["deletionGracePeriodSeconds"]
        return now <= parse_time(metadata["deletionTimestamp"]) + grace
    return True


def _service_usage(service: Obj) -> dict[str, Quantity]:
    spec = service.get("spec") or {}
    ports, kind = spec.get("ports") or [], spec.get("type")
    node_ports = balancers = 0
    if kind == "NodePort":
        node_ports = len(ports)
    elif kind == "LoadBalancer":
        balancers = 1
        given = [p for p in ports if p.get("nodePort")]
        node_ports = len(given if spec.get("allocateLoadBalancerNodePorts") is False else ports)
    return {
        "services": ONE,
        "count/services": ONE,
        "services.nodeports": Quantity.of(node_ports),
        "services.loadbalancers": Quantity.of(balancers),
    }


def _claim_usage(claim: Obj) -> dict[str, Quantity]:
    spec = claim.get("spec") or {}
    out = {"persistentvolumeclaims": ONE, "count/persistentvolumeclaims": ONE}
    asked = amounts.read((spec.get("resources") or {}).get("requests")).get("storage")
    allocated = amounts.read((claim.get("status") or {}).get("allocatedResources")).get("storage", ZERO)
    if asked is not None:
        larger = allocated if allocated > asked else asked
        out["requests.storage"] = Quantity.of(larger.value(), larger.format)  # whole bytes
    storage_class = annotations_of(claim).get(BETA_CLASS) or spec.get("storageClassName")
    if storage_class:
        out |= {f"{storage_class}{_STORAGE_CLASS}{n}": out[n] for n in _CLAIMS if n in out}
    return out


def lacking(names: Iterable[str], pod: Obj) -> str:
    """`must specify cpu for: web; memory for: web` when a container leaves out what a quota limits, else ""."""
    spec = pod.get("spec") or {}
    if spec.get("resources"):
        return ""
    required = sorted(_REQUIRED.intersection(names))
    without: dict[str, list[str]] = {}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        said = _compute(amounts.read(resources.get("requests")), amounts.read(resources.get("limits")))
        for name in required:
            if name not in said:
                without.setdefault(name, []).append(container["name"])
    parts = (f"{name} for: {','.join(sorted(without[name]))}" for name in sorted(without))
    return f"must specify {'; '.join(parts)}" if without else ""


# scopes


def in_scope(quota: Obj, resource: str, obj: Obj) -> bool:
    """Does the quota care about this object? Only pods (and claims) know scopes; others match a quota without any."""
    return all(_matches(scope, resource, obj) for scope in _scopes(quota))


def _scopes(quota: Obj) -> Iterator[Obj]:
    spec = quota.get("spec") or {}
    for name in spec.get("scopes") or ():
        yield {"scopeName": name, "operator": "Exists"}
    yield from (spec.get("scopeSelector") or {}).get("matchExpressions") or ()


def _matches(scope: Obj, resource: str, obj: Obj) -> bool:
    if resource == "persistentvolumeclaims":
        return scope["scopeName"] == "VolumeAttributesClass" and _class_matches(scope, obj)
    if resource != "pods":
        return False
    match scope["scopeName"]:
        case "Terminating":
            return is_terminating(obj)
        case "NotTerminating":
            return not is_terminating(obj)
        case "BestEffort":
            return is_best_effort(obj)
        case "NotBestEffort":
            return not is_best_effort(obj)
        case "PriorityClass":
            return _value_matches(scope, (obj.get("spec") or {}).get("priorityClassName"))
        case "CrossNamespacePodAffinity":
            return _crosses_namespaces(obj)
        case _:
            return False


def _class_matches(scope: Obj, claim: Obj) -> bool:
    return _value_matches(scope, (claim.get("spec") or {}).get("volumeAttributesClassName"))


def _value_matches(scope: Obj, value: str | None) -> bool:
    """By the rules of label selectors, the scope being the key."""
    values = scope.get("values") or ()
    match scope["operator"]:
        case "In":
            return bool(value) and value in values
        case "NotIn":
            return not value or value not in values
        case "Exists":
            return bool(value)
        case "DoesNotExist":
            return not value
        case unknown:
            raise ValueError(f"{unknown!r} is not a valid label selector operator")


def is_terminating(pod: Obj) -> bool:
    """Pods with a deadline, in the words of quota scopes."""
    deadline = (pod.get("spec") or {}).get("activeDeadlineSeconds")
    return deadline is not None and deadline >= 0


def _crosses_namespaces(pod: Obj) -> bool:
    affinity = (pod.get("spec") or {}).get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        terms += [w["podAffinityTerm"] for w in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False
