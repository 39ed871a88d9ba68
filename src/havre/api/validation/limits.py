"""ResourceQuotas, LimitRanges, PodDisruptionBudgets, HorizontalPodAutoscalers.

Source: k8s.io/kubernetes, pkg/apis/{core,policy,autoscaling,scheduling}/validation/validation.go.
"""

from __future__ import annotations

from typing import Any, Final

from havre.api.defaults.amounts import amount
from havre.api.meta import Obj, split_api_version
from havre.api.validation.checks import (
    QUOTA_COUNTS,
    Errors,
    at_most_all,
    checked,
    choice,
    count_or_percent,
    immutable,
    is_extended,
    label_selector,
    quantity,
    required_name,
    resource_name,
    whole_quantity,
)
from havre.kit import names
from havre.kit.field import Structure, duplicate, forbidden, invalid, not_supported, required

_SCOPES: Final = frozenset(
    {"Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass"}
    | {"CrossNamespacePodAffinity", "VolumeAttributesClass"}
)
_CONFLICTS: Final = ({"Terminating", "NotTerminating"}, {"BestEffort", "NotBestEffort"})
_POD_RESOURCES: Final = frozenset(
    {"cpu", "memory", "pods"} | {f"{side}.{name}" for side in ("requests", "limits") for name in ("cpu", "memory")}
)
_SCOPE_RESOURCES: Final = {
    "BestEffort": frozenset({"pods"}),
    "CrossNamespacePodAffinity": _POD_RESOURCES | {"ephemeral-storage"},
}
_QUOTA_PREFIXES: Final = ("requests.", "limits.", "count/")
_METRICS: Final = ("ContainerResource", "External", "Object", "Pods", "Resource")
_METRIC_FIELDS: Final = (
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
)
WINDOW_MAX, PERIOD_MAX = 3600, 1800  # seconds


def quota(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    hard = spec.get("hard") or {}
    for name, value in hard.items():
        path = f"spec.hard[{name}]"
        yield from _quota_name(path, name)
        yield from _quota_amount(path, name, value)
    scopes = spec.get("scopes") or []
    if scopes:
        yield from _scopes(scopes, hard)


def _quota_amount(path: str, name: str, value: Any) -> Errors:
    whole = name in QUOTA_COUNTS or name.startswith("count/") or is_extended(name)
    yield from (whole_quantity(path, value) if whole else quantity(path, value))


def _quota_name(path: str, name: str) -> Errors:
    yield from resource_name(path, name)
    known = name in QUOTA_COUNTS or name in _POD_RESOURCES or name.startswith(_QUOTA_PREFIXES)
    if "/" not in name and not known and name not in ("ephemeral-storage",):
        yield invalid(path, name, "must be a standard resource for quota")


def _scopes(scopes: list[str], hard: Obj) -> Errors:
    for scope in scopes:
        if scope not in _SCOPES:
            yield invalid("spec.scopes", scopes, "unsupported scope")
        allowed = _SCOPE_RESOURCES.get(scope, _POD_RESOURCES | {"requests.ephemeral-storage"})
        if scope in _SCOPES and scope != "VolumeAttributesClass":
            for name in hard:
                if name not in allowed and "/" not in name:
                    yield invalid("spec.scopes", scopes, "unsupported scope applied to resource")
    if any(pair <= set(scopes) for pair in _CONFLICTS):
        yield invalid("spec.scopes", scopes, "conflicting scopes")


def quota_update(new: Obj, old: Obj) -> Errors:
    yield from quota(new)
    scopes, before = (sorted((o.get("spec") or {}).get("scopes") or ()) for o in (new, old))
    if scopes != before:
        yield invalid("spec.scopes", (new.get("spec") or {}).get("scopes"), "field is immutable")


def limit_range(obj: Obj) -> Errors:
    seen: set[str] = set()
    for i, limit in enumerate((obj.get("spec") or {}).get("limits") or ()):
        path, kind = f"spec.limits[{i}]", limit.get("type") or ""
        bad = names.qualified_name(kind)
        for message in bad:
            yield invalid(f"{path}.type", kind, message)
        if not bad and "/" not in kind and kind not in ("Pod", "Container", "PersistentVolumeClaim"):
            yield invalid(f"{path}.type", kind, "must be a standard limit type or fully qualified")
        if kind in seen:
            yield duplicate(f"{path}.type", kind)
        seen.add(kind)
        if kind == "Pod":
            for field in ("default", "defaultRequest"):
                if limit.get(field):
                    yield forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'")
        yield from _limit(path, limit, kind)


def _limit(path: str, limit: Obj, kind: str) -> Errors:
    parts = {field: limit.get(field) or {} for field in ("max", "min", "default", "defaultRequest")}
    if kind == "Pod":
        parts["default"] = parts["defaultRequest"] = {}
    ratios = limit.get("maxLimitRequestRatio") or {}
    for name in dict.fromkeys([*parts["max"], *parts["min"], *parts["default"], *parts["defaultRequest"], *ratios]):
        low, high, default, request = (parts[f].get(name) for f in ("min", "max", "default", "defaultRequest"))
        if _above(low, high):
            yield invalid(f"{path}.min[{name}]", low, f"min value {low} is greater than max value {high}")
        here = f"{path}.defaultRequest[{name}]"
        if _above(low, request):
            yield invalid(here, request, f"min value {low} is greater than default request value {request}")
        if _above(request, high):
            yield invalid(here, request, f"default request value {request} is greater than max value {high}")
        if _above(request, default):
            yield invalid(
                here, request, f"default request value {request} is greater than default limit value {default}"
            )
        here = f"{path}.default[{name}]"
        if _above(low, default):
            yield invalid(here, low, f"min value {low} is greater than default value {default}")
        if _above(default, high):
            yield invalid(here, high, f"default value {default} is greater than max value {high}")
        if name in ratios and amount(str(ratios[name])) < 1:
            yield invalid(f"{path}.maxLimitRequestRatio[{name}]", ratios[name], f"ratio {ratios[name]} is less than 1")


def _above(a: Any, b: Any) -> bool:
    return a is not None and b is not None and amount(str(a)) > amount(str(b))


def budget(obj: Obj) -> Errors:
    spec = obj.get("spec") or {}
    least, most, policy = spec.get("minAvailable"), spec.get("maxUnavailable"), spec.get("unhealthyPodEvictionPolicy")
    if least is not None and most is not None:
        shown = {
            "MinAvailable": least,
            "Selector": spec.get("selector"),
            "MaxUnavailable": most,
            "UnhealthyPodEvictionPolicy": policy,
        }
        yield invalid("spec", Structure(shown), "minAvailable and maxUnavailable cannot be both set")
    for field, value in (("minAvailable", least), ("maxUnavailable", most)):
        if value is not None:
            yield from count_or_percent(f"spec.{field}", value)
            yield from at_most_all(f"spec.{field}", value)
    yield from label_selector("spec.selector", spec.get("selector"))
    if policy is not None:
        yield from choice("spec.unhealthyPodEvictionPolicy", policy, ("AlwaysAllow", "IfHealthyBudget"))


def autoscaler(obj: Obj) -> Errors:
    """An autoscaler in its v2 view."""
    spec = obj.get("spec") or {}
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < 1:
        yield invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield invalid("spec.maxReplicas", most, "must be greater than 0")
    if least is not None and most < least:
        yield invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    yield from _reference("spec.scaleTargetRef", spec.get("scaleTargetRef") or {})
    metrics = spec.get("metrics") or []
    for i, metric in enumerate(metrics):
        yield from _metric(f"spec.metrics[{i}]", metric)
    if least == 0 and not any(metric.get("type") in ("Object", "External") for metric in metrics):
        words = "must specify at least one Object or External metric to support scaling to zero replicas"
        yield forbidden("spec.metrics", words)
    if (behavior := spec.get("behavior")) is not None:
        for side in ("scaleUp", "scaleDown"):
            if (rules := behavior.get(side)) is not None:
                yield from _rules(f"spec.behavior.{side}", rules)


def _reference(path: str, ref: Obj) -> Errors:
    yield from required_name(f"{path}.kind", ref.get("kind"), names.path_segment)
    yield from required_name(f"{path}.name", ref.get("name"), names.path_segment)
    api_version = ref.get("apiVersion") or ""
    group, _ = split_api_version(api_version)
    if not group and not (ref.get("kind") == "ReplicationController" and api_version == "v1"):
        yield invalid(f"{path}.apiVersion", api_version, "apiVersion must specify API group")


def _metric(path: str, metric: Obj) -> Errors:
    kind = metric.get("type") or ""
    if not kind:
        yield required(f"{path}.type", "must specify a metric source type")
    yield from choice(f"{path}.type", kind, _METRICS)
    present = [field for field, _ in _METRIC_FIELDS if metric.get(field) is not None]
    for field in present[:1]:
        yield from _metric_source(f"{path}.{field}", metric[field], field)
    expected = next((field for field, name in _METRIC_FIELDS if name == kind), "")
    if not expected:
        yield from choice(f"{path}.type", kind, _METRICS)
    elif metric.get(expected) is None:
        yield required(f"{path}.{expected}", "must populate information for the given metric source")
    if len(present) > 1:
        for field in present:
            if field != expected:
                yield forbidden(f"{path}.{field}", "must populate the given metric source only")


def _metric_source(path: str, source: Obj, field: str) -> Errors:
    target = source.get("target") or {}
    value, average = target.get("value"), target.get("averageValue")
    here = f"{path}.target"
    if field in ("resource", "containerResource"):
        if not source.get("name"):
            yield required(f"{path}.name", "must specify a resource name")
        yield from _metric_target(here, target)
        if target.get("averageUtilization") is None and average is None:
            yield required(f"{here}.averageUtilization", "must set either a target raw value or a target utilization")
        if target.get("averageUtilization") is not None and average is not None:
            words = "may not set both a target raw value and a target utilization"
            yield forbidden(f"{here}.averageValue", words)
        return
    if field == "object":
        yield from _reference(f"{path}.describedObject", source.get("describedObject") or {})
    metric = source.get("metric") or {}
    if not metric.get("name"):
        yield required(f"{path}.metric.name", "must specify a metric name")
    else:
        yield from checked(f"{path}.metric.name", metric["name"], names.path_segment)
    yield from _metric_target(here, target)
    if field == "pods" and average is None:
        yield required(f"{here}.averageValue", "must specify a positive target averageValue")
    if field == "object" and value is None and average is None:
        yield required(f"{here}.averageValue", "must set either a target value or averageValue")
    if field == "external":
        if value is None and average is None:
            yield required(f"{here}.averageValue", "must set either a target value for metric or a per-pod target")
        if value is not None and average is not None:
            yield forbidden(f"{here}.value", "may not set both a target value for metric and a per-pod target")


def _metric_target(path: str, target: Obj) -> Errors:
    kind = target.get("type") or ""
    if not kind:
        yield required(f"{path}.type", "must specify a metric target type")
    if kind not in ("Utilization", "Value", "AverageValue"):
        yield invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue")
    for field in ("value", "averageValue"):
        if (value := target.get(field)) is not None and amount(str(value)) <= 0:
            yield invalid(f"{path}.{field}", value, "must be positive")
    utilization = target.get("averageUtilization")
    if utilization is not None and utilization < 1:
        yield invalid(f"{path}.averageUtilization", utilization, "must be greater than 0")


def _rules(path: str, rules: Obj) -> Errors:
    window, select, policies = (rules.get(f) for f in ("stabilizationWindowSeconds", "selectPolicy", "policies"))
    if window is not None and window < 0:
        yield invalid(f"{path}.stabilizationWindowSeconds", window, "must be greater than or equal to zero")
    if window is not None and window > WINDOW_MAX:
        words = f"must be less than or equal to {WINDOW_MAX}"
        yield invalid(f"{path}.stabilizationWindowSeconds", window, words)
    if select is not None and select not in ("Disabled", "Max", "Min"):
        yield not_supported(f"{path}.selectPolicy", select, ("Disabled", "Max", "Min"))
    if not policies:
        yield required(f"{path}.policies", "must specify at least one Policy")
    for i, policy in enumerate(policies or ()):
        here, value, period = f"{path}.policies[{i}]", policy.get("value") or 0, policy.get("periodSeconds") or 0
        yield from choice(f"{here}.type", policy.get("type") or "", ("Percent", "Pods"))
        if value <= 0:
            yield invalid(f"{here}.value", value, "must be greater than zero")
        if period <= 0:
            yield invalid(f"{here}.periodSeconds", period, "must be greater than zero")
        if period > PERIOD_MAX:
            yield invalid(f"{here}.periodSeconds", period, f"must be less than or equal to {PERIOD_MAX}")


def priority_class(obj: Obj) -> Errors:
    name, value = obj["metadata"].get("name") or "", obj.get("value") or 0
    if name.startswith("system-"):
        if name not in ("system-node-critical", "system-cluster-critical"):
            words = "priority class names with 'system-' prefix are reserved for system use only. error: "
            yield forbidden("metadata.name", f"{words}{name} is not a known system priority class")
    elif value > HIGHEST_USER_PRIORITY:
        words = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        yield forbidden("value", words)
    if policy := obj.get("preemptionPolicy"):
        yield from choice("preemptionPolicy", policy, ("PreemptLowerPriority", "Never"))


HIGHEST_USER_PRIORITY: Final = 1_000_000_000


def priority_class_update(new: Obj, old: Obj) -> Errors:
    if (new.get("value") or 0) != (old.get("value") or 0):
        yield forbidden("value", "may not be changed in an update.")
    yield from immutable("preemptionPolicy", new.get("preemptionPolicy"), old.get("preemptionPolicy"))
