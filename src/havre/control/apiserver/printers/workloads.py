"""Cells of what makes pods: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob; autoscalers and budgets.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printers.go).
"""

from __future__ import annotations

from havre.api.meta import Obj, controller_of
from havre.control.apiserver.printers.reading import (
    EMPTY,
    NIL,
    NONE,
    UNKNOWN,
    UNSET,
    condition,
    containers,
    count,
    created,
    labels,
    selector,
    spec_of,
    status_of,
    when,
)
from havre.control.apiserver.table import Since, age

_METRICS_SHOWN = 2


def deployment(obj: Obj) -> list[object]:
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    return [
        meta["name"],
        f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
        status.get("updatedReplicas") or 0,
        status.get("availableReplicas") or 0,
        created(meta),
        *containers(spec.get("template")),
        selector(spec.get("selector"), everything="", invalid="<invalid>"),
    ]


def replica_set(obj: Obj) -> list[object]:
    spec = spec_of(obj)
    return [*_replicas(obj), *containers(spec.get("template")), selector(spec.get("selector"))]


def replication_controller(obj: Obj) -> list[object]:
    spec = spec_of(obj)
    return [*_replicas(obj), *containers(spec.get("template")), labels(spec.get("selector"))]


def _replicas(obj: Obj) -> list[object]:
    meta, status = obj["metadata"], status_of(obj)
    wanted = spec_of(obj).get("replicas") or 0
    return [meta["name"], wanted, status.get("replicas") or 0, status.get("readyReplicas") or 0, created(meta)]


def stateful_set(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    ready = f"{status_of(obj).get('readyReplicas') or 0}/{spec.get('replicas') or 0}"
    return [meta["name"], ready, created(meta), *containers(spec.get("template"))]


def daemon_set(obj: Obj) -> list[object]:
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    template = spec.get("template") or EMPTY
    return [
        meta["name"],
        status.get("desiredNumberScheduled") or 0,
        status.get("currentNumberScheduled") or 0,
        status.get("numberReady") or 0,
        status.get("updatedNumberScheduled") or 0,
        status.get("numberAvailable") or 0,
        labels(spec_of(template).get("nodeSelector")),
        created(meta),
        *containers(template),
        selector(spec.get("selector")),
    ]


def controller_revision(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], _controller(obj), obj.get("revision") or 0, created(meta)]


def _controller(obj: Obj) -> str:
    """`statefulset.apps/web`."""
    ref = controller_of(obj)
    if ref is None:
        return NONE
    group, _, _ = ref.get("apiVersion", "").rpartition("/")
    kind = f"{ref.get('kind', '')}.{group}" if group else ref.get("kind", "")
    return f"{kind.lower()}/{ref['name']}" if kind else ref["name"]


def pod_template(obj: Obj) -> list[object]:
    template = obj.get("template") or EMPTY
    return [obj["metadata"]["name"], *containers(template), labels((template.get("metadata") or EMPTY).get("labels"))]


# --- batch ----------------------------------------------------------------------------------------------------------

# The first condition that is true names the state; a deletion comes before those of a job that still runs.
_ENDED = ("Complete", "Failed")
_UNDER_WAY = ("Suspended", "FailureTarget", "SuccessCriteriaMet")


def job(obj: Obj) -> list[object]:
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    return [
        meta["name"],
        _job_state(meta, status),
        _completions(spec, status.get("succeeded") or 0),
        _duration(status),
        created(meta),
        *containers(spec.get("template")),
        selector(spec.get("selector")),
    ]


def _job_state(meta: Obj, status: Obj) -> str:
    conditions = status.get("conditions")
    found = _first_true(conditions, _ENDED)
    if not found and meta.get("deletionTimestamp") is not None:
        return "Terminating"
    return found or _first_true(conditions, _UNDER_WAY) or "Running"


def _first_true(conditions: list[Obj] | None, kinds: tuple[str, ...]) -> str:
    for kind in kinds:
        found = condition(conditions, kind)
        if found is not None and found.get("status") == "True":
            return kind
    return ""


def _completions(spec: Obj, succeeded: int) -> str:
    wanted = spec.get("completions")
    if wanted is not None:
        return f"{succeeded}/{wanted}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _duration(status: Obj) -> object:
    if status.get("startTime") is None:
        return ""
    start, end = when(status["startTime"]), status.get("completionTime")
    if end is None:
        return Since(start)
    return age((when(end) or 0) - (start or 0)).decode()


def cron_job(obj: Obj) -> list[object]:
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    last, zone, suspend = status.get("lastScheduleTime"), spec.get("timeZone"), spec.get("suspend")
    made = spec_of(spec.get("jobTemplate") or EMPTY)
    return [
        meta["name"],
        spec.get("schedule", ""),
        NONE if zone is None else zone,
        UNSET if suspend is None else str(suspend),
        count(status.get("active")),
        NONE if last is None else Since(when(last)),
        created(meta),
        *containers(made.get("template")),
        selector(made.get("selector")),
    ]


# --- autoscaling and budgets ----------------------------------------------------------------------------------------


def autoscaler(obj: Obj) -> list[object]:
    """HorizontalPodAutoscaler."""
    meta, spec, status = obj["metadata"], spec_of(obj), status_of(obj)
    target, least = spec.get("scaleTargetRef") or EMPTY, spec.get("minReplicas")
    return [
        meta["name"],
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _metrics(spec.get("metrics") or [], status.get("currentMetrics") or []),
        UNSET if least is None else str(least),
        spec.get("maxReplicas") or 0,
        status.get("currentReplicas") or 0,
        created(meta),
    ]


def _metrics(wanted: list[Obj], seen: list[Obj]) -> str:
    if not wanted:
        return NONE
    shown = [_metric(metric, seen[i] if i < len(seen) else EMPTY) for i, metric in enumerate(wanted[:_METRICS_SHOWN])]
    text = ", ".join(shown)
    return f"{text} + {len(wanted) - _METRICS_SHOWN} more..." if len(wanted) > _METRICS_SHOWN else text


def _metric(wanted: Obj, seen: Obj) -> str:
    match wanted.get("type"):
        case "External":
            return _valued(wanted["external"], seen.get("external"))
        case "Object":
            return _valued(wanted["object"], seen.get("object"))
        case "Pods":
            target = (wanted["pods"].get("target") or EMPTY).get("averageValue", NIL)
            return f"{_current(seen.get('pods'), 'averageValue', NIL)}/{target}"
        case "Resource":
            return _used(wanted["resource"], seen.get("resource"))
        case "ContainerResource":
            return _used(wanted["containerResource"], seen.get("containerResource"))
    return "<unknown type>"


def _current(seen: Obj | None, key: str, absent: str) -> str:
    return UNKNOWN if seen is None else str((seen.get("current") or EMPTY).get(key, absent))


def _valued(source: Obj, seen: Obj | None) -> str:
    target = source.get("target") or EMPTY
    average = target.get("averageValue")
    if average is not None:
        return f"{_current(seen, 'averageValue', UNKNOWN)}/{average} (avg)"
    return f"{_current(seen, 'value', NIL)}/{target.get('value', NIL)}"


def _used(source: Obj, seen: Obj | None) -> str:
    target, name = source.get("target") or EMPTY, source.get("name", "")
    average = target.get("averageValue")
    if average is not None:
        return f"{name}: {_current(seen, 'averageValue', NIL)}/{average}"
    percent = target.get("averageUtilization")
    used = _current(seen, "averageUtilization", UNKNOWN)
    return f"{name}: {used if used == UNKNOWN else used + '%'}/{'<auto>' if percent is None else f'{percent}%'}"


def scale(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], spec_of(obj).get("replicas") or 0, status_of(obj).get("replicas") or 0, created(meta)]


def disruption_budget(obj: Obj) -> list[object]:
    meta, spec = obj["metadata"], spec_of(obj)
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    return [
        meta["name"],
        "N/A" if least is None else str(least),
        "N/A" if most is None else str(most),
        status_of(obj).get("disruptionsAllowed") or 0,
        created(meta),
    ]
