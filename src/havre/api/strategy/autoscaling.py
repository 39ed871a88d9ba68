"""HorizontalPodAutoscaler has two views of one stored object: `autoscaling/v2`, and `v1` that knows only CPU.

What v1 has no field for travels in annotations, in the shapes of v1, so that a client of v1 loses nothing.

Source: k8s.io/kubernetes, pkg/apis/autoscaling/v1/conversion.go, pkg/apis/autoscaling/annotations.go.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from havre.api.meta import Obj

METRICS: Final = "autoscaling.alpha.kubernetes.io/metrics"
CURRENT_METRICS: Final = "autoscaling.alpha.kubernetes.io/current-metrics"
BEHAVIOR: Final = "autoscaling.alpha.kubernetes.io/behavior"
CONDITIONS: Final = "autoscaling.alpha.kubernetes.io/conditions"
_ANNOTATIONS: Final = frozenset(
    {METRICS, CURRENT_METRICS, BEHAVIOR, CONDITIONS}
    | {f"autoscaling.alpha.kubernetes.io/scale-{side}-tolerance" for side in ("up", "down")}
)
DEFAULT_CPU_UTILIZATION: Final = 80  # percent
_KEPT_SPEC: Final = ("scaleTargetRef", "minReplicas", "maxReplicas")
_KEPT_STATUS: Final = ("observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas")


def v2_to_v1(obj: Obj) -> Obj:
    """The autoscaling/v1 view of a v2 autoscaler."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    metrics, current = spec.get("metrics") or [], status.get("currentMetrics") or []
    out: Obj = {key: value for key, value in obj.items() if key not in ("apiVersion", "spec", "status", "metadata")}
    out["apiVersion"] = "autoscaling/v1"
    out["spec"] = {key: spec[key] for key in _KEPT_SPEC if key in spec}
    cpu = next((m for m in metrics if _cpu_utilization(m) is not None), None)
    if cpu is not None:
        out["spec"]["targetCPUUtilizationPercentage"] = _cpu_utilization(cpu)
    out["status"] = {"currentReplicas": 0, **{key: status[key] for key in _KEPT_STATUS if key in status}}
    for metric in current:
        if (used := _cpu_used(metric)) is not None:
            out["status"]["currentCPUUtilizationPercentage"] = used
    extra = {
        METRICS: [_metric_v1(m) for m in metrics if _cpu_utilization(m) is None],
        CURRENT_METRICS: [_metric_status_v1(m) for m in current],
        BEHAVIOR: _capitalized(spec.get("behavior")),
        CONDITIONS: status.get("conditions"),
    }
    out["metadata"] = _with_annotations(obj["metadata"], {k: _dump(v) for k, v in extra.items() if v})
    return out


def v1_to_v2(obj: Obj) -> Obj:
    """The autoscaling/v2 autoscaler of a v1 one; broken annotations count as absent."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    annotations = obj["metadata"].get("annotations") or {}
    out: Obj = {key: value for key, value in obj.items() if key not in ("apiVersion", "spec", "status", "metadata")}
    out["apiVersion"] = "autoscaling/v2"
    out["spec"] = {key: spec[key] for key in _KEPT_SPEC if key in spec}
    metrics = [_metric_v2(m) for m in _load_list(annotations.get(METRICS))]
    target = spec.get("targetCPUUtilizationPercentage")
    if target is not None:
        metrics.append(_cpu_metric(target))
    out["spec"]["metrics"] = metrics or [_cpu_metric(DEFAULT_CPU_UTILIZATION)]
    if isinstance(behavior := _load(annotations.get(BEHAVIOR)), dict) and behavior:
        out["spec"]["behavior"] = _uncapitalized(behavior)
    out["status"] = {key: status[key] for key in _KEPT_STATUS if key in status}
    if current := _load_list(annotations.get(CURRENT_METRICS)):
        out["status"]["currentMetrics"] = [_metric_status_v2(m) for m in current]
    elif (used := status.get("currentCPUUtilizationPercentage")) is not None:
        resource = {"name": "cpu", "current": {"averageUtilization": used}}
        out["status"]["currentMetrics"] = [{"type": "Resource", "resource": resource}]
    if conditions := _load_list(annotations.get(CONDITIONS)):
        out["status"]["conditions"] = conditions
    out["metadata"] = _with_annotations(obj["metadata"], {})
    return out


def _cpu_metric(percent: int) -> Obj:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _cpu_utilization(metric: Obj) -> Any:
    resource = metric.get("resource") or {}
    is_cpu = metric.get("type") == "Resource" and resource.get("name") == "cpu"
    return (resource.get("target") or {}).get("averageUtilization") if is_cpu else None


def _cpu_used(metric: Obj) -> Any:
    resource = metric.get("resource") or {}
    is_cpu = metric.get("type") == "Resource" and resource.get("name") == "cpu"
    return (resource.get("current") or {}).get("averageUtilization") if is_cpu else None


def _with_annotations(metadata: Obj, extra: dict[str, str]) -> Obj:
    kept = {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in _ANNOTATIONS}
    kept |= extra
    out = {key: value for key, value in metadata.items() if key != "annotations"}
    return {**out, "annotations": kept} if kept else out


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _load(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _load_list(text: str | None) -> list[Obj]:
    value = _load(text)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _present(**fields: Any) -> Obj:
    return {key: value for key, value in fields.items() if value is not None}


# v2 puts the amounts into `target` or `current`; v1 spreads them over names of their own. One row per metric type:
# v2 name of the metric, v1 names of utilization, average and value
_AMOUNTS_V1: Final = {
    "resource": ("targetAverageUtilization", "targetAverageValue", ""),
    "containerResource": ("targetAverageUtilization", "targetAverageValue", ""),
    "pods": ("", "targetAverageValue", ""),
    "object": ("", "averageValue", "targetValue"),
    "external": ("", "targetAverageValue", "targetValue"),
}
_CURRENT_V1: Final = {
    "resource": ("currentAverageUtilization", "currentAverageValue", ""),
    "containerResource": ("currentAverageUtilization", "currentAverageValue", ""),
    "pods": ("", "currentAverageValue", ""),
    "object": ("", "averageValue", "currentValue"),
    "external": ("", "currentAverageValue", "currentValue"),
}
_V2_AMOUNTS: Final = ("averageUtilization", "averageValue", "value")
_TYPES: Final = ("Utilization", "AverageValue", "Value")


def _metric_v1(metric: Obj) -> Obj:
    return _flattened(metric, "target", _AMOUNTS_V1)


def _metric_status_v1(metric: Obj) -> Obj:
    return _flattened(metric, "current", _CURRENT_V1)


def _metric_v2(metric: Obj) -> Obj:
    return _nested(metric, "target", _AMOUNTS_V1)


def _metric_status_v2(metric: Obj) -> Obj:
    return _nested(metric, "current", _CURRENT_V1)


def _flattened(metric: Obj, amounts: str, names: dict[str, tuple[str, str, str]]) -> Obj:
    out: Obj = {"type": metric.get("type", "")}
    for field, v1_names in names.items():
        source = metric.get(field)
        if source is None:
            continue
        values = source.get(amounts) or {}
        flat = _present(name=source.get("name"), container=source.get("container"))
        flat |= {v1: values[v2] for v1, v2 in zip(v1_names, _V2_AMOUNTS, strict=True) if v1 and v2 in values}
        if "metric" in source:
            selector = "metricSelector" if field == "external" else "selector"
            flat |= _present(metricName=source["metric"].get("name"), **{selector: source["metric"].get("selector")})
        if field == "object":
            flat["target"] = source.get("describedObject") or {}
            flat.setdefault("targetValue" if amounts == "target" else "currentValue", "0")
        out[field] = flat
    return out


def _nested(metric: Obj, amounts: str, names: dict[str, tuple[str, str, str]]) -> Obj:
    out: Obj = {"type": metric.get("type", "")}
    for field, v1_names in names.items():
        source = metric.get(field)
        if not isinstance(source, dict):
            continue
        nested = _present(name=source.get("name"), container=source.get("container"))
        values = {v2: source[v1] for v1, v2 in zip(v1_names, _V2_AMOUNTS, strict=True) if v1 and v1 in source}
        if field == "object":
            nested["describedObject"] = source.get("target") or {}
            if "averageValue" in values and values.get("value") == "0":
                del values["value"]
        if "metricName" in source:
            nested["metric"] = _present(
                name=source["metricName"], selector=source.get("selector") or source.get("metricSelector")
            )
        if amounts == "target":
            known = [kind for kind, amount in zip(_TYPES, _V2_AMOUNTS, strict=True) if amount in values]
            values = {"type": known[0] if known else "", **values}
        nested[amounts] = values
        out[field] = nested
    return out


def _capitalized(behavior: Any) -> Any:
    """Field names as upstream writes them into the annotation: those of its internal structures."""
    return _renamed_keys(behavior, lambda key: key[:1].upper() + key[1:])


def _uncapitalized(behavior: Any) -> Any:
    return _renamed_keys(behavior, lambda key: key[:1].lower() + key[1:])


def _renamed_keys(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {rename(key): _renamed_keys(item, rename) for key, item in value.items() if item is not None}
    return [_renamed_keys(item, rename) for item in value] if isinstance(value, list) else value
