"""Defaults of the groups apps, batch and autoscaling.

Source: k8s.io/kubernetes, pkg/apis/{apps/v1,batch/v1,autoscaling/v1,autoscaling/v2}/defaults.go.
"""

from __future__ import annotations

from typing import Any, Final

from havre.api.defaults.core import absent, unset
from havre.api.meta import Obj

MAX_INT32: Final = 2**31 - 1
HISTORY: Final = 10  # revisions kept for rollback
PROGRESS_SECONDS: Final = 600
CPU_PERCENT: Final = 80


def _spec(obj: Obj) -> Obj:
    spec: Obj = obj.get("spec") or {}
    obj["spec"] = spec
    return spec


def _rolling_update(spec: Obj, field: str) -> Obj:
    """The rolling update of an update strategy, made when the strategy is that; else a throwaway."""
    strategy = spec[field] = spec.get(field) or {}
    unset(strategy, type="RollingUpdate")
    if strategy["type"] != "RollingUpdate":
        return {}
    rolling: Obj = strategy.get("rollingUpdate") or {}
    strategy["rollingUpdate"] = rolling
    return rolling


def deployment(obj: Obj) -> None:
    spec = _spec(obj)
    absent(spec, replicas=1, revisionHistoryLimit=HISTORY, progressDeadlineSeconds=PROGRESS_SECONDS)
    absent(_rolling_update(spec, "strategy"), maxUnavailable="25%", maxSurge="25%")


def daemon_set(obj: Obj) -> None:
    spec = _spec(obj)
    absent(spec, revisionHistoryLimit=HISTORY)
    absent(_rolling_update(spec, "updateStrategy"), maxUnavailable=1, maxSurge=0)


def stateful_set(obj: Obj) -> None:
    spec = _spec(obj)
    unset(spec, podManagementPolicy="OrderedReady")
    strategy = spec["updateStrategy"] = spec.get("updateStrategy") or {}
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        absent(strategy, rollingUpdate={})
    if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
        absent(strategy["rollingUpdate"], partition=0)
        strategy["rollingUpdate"].pop("maxUnavailable", None)  # alpha in v1.34 and off
    retention = spec["persistentVolumeClaimRetentionPolicy"] = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    unset(retention, whenDeleted="Retain", whenScaled="Retain")
    absent(spec, replicas=1, revisionHistoryLimit=HISTORY)
    for template in spec.get("volumeClaimTemplates") or ():
        unset(template, apiVersion="v1", kind="PersistentVolumeClaim")


def replica_set(obj: Obj) -> None:
    absent(_spec(obj), replicas=1)


def job(obj: Obj) -> None:
    spec = _spec(obj)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    absent(
        spec,
        parallelism=1,
        backoffLimit=6 if spec.get("backoffLimitPerIndex") is None else MAX_INT32,
        completionMode="NonIndexed",
        suspend=False,
        podReplacementPolicy="TerminatingOrFailed" if spec.get("podFailurePolicy") is None else "Failed",
        manualSelector=False,
    )
    if labels := ((spec.get("template") or {}).get("metadata") or {}).get("labels"):
        metadata = obj["metadata"] = obj.get("metadata") or {}
        unset(metadata, labels=labels)  # one map in both places, as upstream: labels that come to one come to the other


def cron_job(obj: Obj) -> None:
    spec = _spec(obj)
    unset(spec, concurrencyPolicy="Allow")
    absent(spec, suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)


def pod_condition_pattern(obj: Obj) -> None:
    unset(obj, status="True")


def autoscaler_v1(obj: Obj) -> None:
    absent(_spec(obj), minReplicas=1)


def autoscaler_v2(obj: Obj) -> None:
    spec = _spec(obj)
    absent(spec, minReplicas=1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    if (behavior := spec.get("behavior")) is not None:
        behavior["scaleUp"] = _rules(behavior.get("scaleUp"), 0, _UP)
        behavior["scaleDown"] = _rules(behavior.get("scaleDown"), None, _DOWN)


_UP: Final = (("Pods", 4), ("Percent", 100))
_DOWN: Final = (("Percent", 100),)


def _rules(given: Obj | None, window: int | None, policies: tuple[tuple[str, int], ...]) -> Obj:
    every: list[Obj] = [{"type": kind, "value": value, "periodSeconds": 15} for kind, value in policies]
    rules: dict[str, Any] = {"selectPolicy": "Max", "policies": every}
    if window is not None:
        rules["stabilizationWindowSeconds"] = window
    return {**rules, **{key: value for key, value in (given or {}).items() if value is not None}}


HOOKS: Final = {
    "apps.v1.DaemonSet": daemon_set,
    "apps.v1.Deployment": deployment,
    "apps.v1.ReplicaSet": replica_set,
    "apps.v1.StatefulSet": stateful_set,
    "autoscaling.v1.HorizontalPodAutoscaler": autoscaler_v1,
    "autoscaling.v2.HorizontalPodAutoscaler": autoscaler_v2,
    "batch.v1.CronJob": cron_job,
    "batch.v1.Job": job,
    "batch.v1.PodFailurePolicyOnPodConditionsPattern": pod_condition_pattern,
}
