"""Cells of what a cluster and its namespaces consist of: Node, Namespace, ConfigMap, Secret, quotas, events, leases.

Source: k8s.io/kubernetes, pkg/printers/internalversion (printers.go).
"""

from __future__ import annotations

from havre.api.meta import Obj
from havre.control.apiserver.printers.reading import (
    EMPTY,
    NONE,
    UNKNOWN,
    condition,
    count,
    created,
    quantity,
    spec_of,
    status_of,
    when,
)
from havre.control.apiserver.table import Since

_ROLE_PREFIX = "node-role.kubernetes.io/"
_ROLE = "kubernetes.io/role"


def created_at(obj: Obj) -> list[object]:
    """Kinds that have no columns of their own show the time itself."""
    meta = obj["metadata"]
    return [meta["name"], meta.get("creationTimestamp") or "0001-01-01T00:00:00Z"]


def name_and_age(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], created(meta)]


def namespace(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], status_of(obj).get("phase", ""), created(meta)]


def config_map(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], count(obj.get("data")) + count(obj.get("binaryData")), created(meta)]


def secret(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], obj.get("type", ""), count(obj.get("data")), created(meta)]


def service_account(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], count(obj.get("secrets")), created(meta)]


def resource_quota(obj: Obj) -> list[object]:
    meta, status = obj["metadata"], status_of(obj)
    hard, used = status.get("hard") or EMPTY, status.get("used")
    shown = [(name, f"{name}: {quantity(used, name)}/{hard[name]}") for name in sorted(hard)]
    requests = [text for name, text in shown if not name.startswith("limits.")]
    limits = [text for name, text in shown if name.startswith("limits.")]
    return [meta["name"], ", ".join(requests), ", ".join(limits), created(meta)]


def priority_class(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    default = obj.get("globalDefault") or False
    return [meta["name"], obj.get("value") or 0, default, created(meta), obj.get("preemptionPolicy") or ""]


def runtime_class(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], obj.get("handler", ""), created(meta)]


def lease(obj: Obj) -> list[object]:
    meta = obj["metadata"]
    return [meta["name"], spec_of(obj).get("holderIdentity") or "", created(meta)]


def component_status(obj: Obj) -> list[object]:
    healthy = condition(obj.get("conditions"), "Healthy")
    if healthy is None:
        return [obj["metadata"]["name"], "Unknown", "", ""]
    state = "Healthy" if healthy.get("status") == "True" else "Unhealthy"
    return [obj["metadata"]["name"], state, healthy.get("message", ""), healthy.get("error", "")]


# --- nodes ----------------------------------------------------------------------------------------------------------


def node(obj: Obj) -> list[object]:
    meta, status = obj["metadata"], status_of(obj)
    about = status.get("nodeInfo") or EMPTY
    return [
        meta["name"],
        _node_state(obj, status),
        ",".join(_roles(meta.get("labels") or EMPTY)) or NONE,
        created(meta),
        about.get("kubeletVersion", ""),
        _node_address(status, "InternalIP"),
        _node_address(status, "ExternalIP"),
        about.get("osImage") or UNKNOWN,
        about.get("kernelVersion") or UNKNOWN,
        about.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _node_state(obj: Obj, status: Obj) -> str:
    state = "Unknown"
    for found in status.get("conditions") or ():
        if found.get("type") == "Ready":
            state = "Ready" if found.get("status") == "True" else "NotReady"
    return f"{state},SchedulingDisabled" if spec_of(obj).get("unschedulable") else state


def _roles(labels: Obj) -> list[str]:
    roles = {key[len(_ROLE_PREFIX) :] for key in labels if key.startswith(_ROLE_PREFIX)}
    return sorted((roles | {labels.get(_ROLE, "")}) - {""})


def _node_address(status: Obj, kind: str) -> str:
    found = condition(status.get("addresses"), kind)
    return NONE if found is None else str(found.get("address", ""))


# --- events ---------------------------------------------------------------------------------------------------------


def event(obj: Obj) -> list[object]:
    about, series, times_seen = obj.get("involvedObject") or EMPTY, obj.get("series"), obj.get("count") or 1
    first = when(obj.get("firstTimestamp")) or when(obj.get("eventTime"))
    last = when(obj.get("lastTimestamp")) or first
    if series is not None:
        last, times_seen = when(series.get("lastObservedTime")), series.get("count") or 0
    kind, name = about.get("kind", "").lower(), about.get("name")
    return [
        Since(last),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{name}" if name else kind,
        about.get("fieldPath", ""),
        _source(obj, obj.get("source") or EMPTY),
        obj.get("message", "").strip(),
        Since(first),
        times_seen,
        obj["metadata"]["name"],
    ]


def _source(obj: Obj, source: Obj) -> str:
    component = source.get("component") or obj.get("reportingComponent") or ""
    instance = source.get("host") or obj.get("reportingInstance")
    return f"{component}, {instance}" if instance else component
