"""Deployments, ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers, ControllerRevisions.

Source: k8s.io/kubernetes, pkg/apis/apps/validation/validation.go; pkg/apis/core/validation (replication controllers).
"""

from __future__ import annotations

from typing import Any, Final

from havre.api.meta import Obj
from havre.api.strategy.equality import semantic_equal
from havre.api.validation.checks import (
    Errors,
    at_most_all,
    choice,
    count_or_percent,
    immutable,
    is_empty_selector,
    is_zero_percent,
    label_selector,
    not_negative,
    optional_name,
    selector_matches,
)
from havre.api.validation.pods import template
from havre.kit import names
from havre.kit.field import Structure, forbidden, invalid, required

_MISMATCH: Final = "`selector` does not match template `labels`"
_STATEFUL_FORBIDDEN: Final = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_STATEFUL_MUTABLE: Final = frozenset(
    {"replicas", "template", "updateStrategy", "minReadySeconds", "ordinals", "revisionHistoryLimit"}
    | {"persistentVolumeClaimRetentionPolicy"}
)


def _labels(spec: Obj) -> Any:
    """Labels of the template, sorted as messages show them."""
    pairs = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    return dict(sorted(pairs.items())) if pairs else pairs


def _selector(spec: Obj, kind: str) -> Errors:
    """A selector is there, is not empty and can be understood."""
    selector = spec.get("selector")
    if selector is None:
        yield required("spec.selector")
        return
    yield from label_selector("spec.selector", selector)
    if is_empty_selector(selector):
        yield invalid("spec.selector", {}, f"empty selector is invalid for {kind}")


def _always(path: str, spec: Obj, owner: str) -> Errors:
    pod = (spec.get("template") or {}).get("spec") or {}
    yield from choice(f"{path}.spec.restartPolicy", pod.get("restartPolicy") or "", ("Always",))
    if pod.get("activeDeadlineSeconds") is not None and owner:
        yield forbidden(f"{path}.spec.activeDeadlineSeconds", f"activeDeadlineSeconds in {owner} is not Supported")


def _matching_template(spec: Obj, owner: str) -> Errors:
    pairs = _labels(spec)
    if selector_matches(spec.get("selector"), pairs or {}) is False and not _is_blank(spec):
        yield invalid("spec.template.metadata.labels", pairs, _MISMATCH)
    yield from template("spec.template", spec.get("template"))
    yield from _always("spec.template", spec, owner)


def _is_blank(spec: Obj) -> bool:
    selector = spec.get("selector")
    return selector is not None and is_empty_selector(selector)


def deployment(obj: Obj) -> Errors:
    spec = obj["spec"]
    yield from not_negative("spec", spec, "replicas")
    yield from _selector(spec, "deployment")
    if selector_matches(spec.get("selector"), {}) is None:
        yield invalid("spec.selector", _shown_selector(spec["selector"]), "invalid label selector")
    else:
        yield from _matching_template(spec, "ReplicaSet")
    yield from _deployment_strategy(spec.get("strategy") or {})
    yield from not_negative("spec", spec, "minReadySeconds", "revisionHistoryLimit")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        yield from not_negative("spec", spec, "progressDeadlineSeconds")
        if deadline <= (spec.get("minReadySeconds") or 0):
            yield invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def _shown_selector(selector: Obj) -> Obj:
    """Members in the order of the Go structure."""
    shown: Obj = {key: selector[key] for key in ("matchLabels", "matchExpressions") if key in selector}
    if expressions := shown.get("matchExpressions"):
        order = ("key", "operator", "values")
        shown["matchExpressions"] = [Structure({key: e[key] for key in order if key in e}) for e in expressions]
    return Structure(shown)


def _deployment_strategy(strategy: Obj) -> Errors:
    path, kind, rolling = "spec.strategy", strategy.get("type"), strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            yield forbidden(f"{path}.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    elif kind == "RollingUpdate":
        if rolling is None:
            yield required(f"{path}.rollingUpdate", "this should be defaulted and never be nil")
        else:
            yield from _rolling_deployment(f"{path}.rollingUpdate", rolling)
    else:
        shown = Structure({"Type": kind, "RollingUpdate": None})
        yield from choice(path, shown, ("Recreate", "RollingUpdate"))


def _rolling_deployment(path: str, rolling: Obj) -> Errors:
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    yield from count_or_percent(f"{path}.maxUnavailable", unavailable)
    yield from count_or_percent(f"{path}.maxSurge", surge)
    if is_zero_percent(unavailable) and is_zero_percent(surge):
        yield invalid(f"{path}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
    yield from at_most_all(f"{path}.maxUnavailable", unavailable)


def deployment_update(new: Obj, old: Obj) -> Errors:
    yield from deployment(new)
    yield from _same_selector(new, old)


def _same_selector(new: Obj, old: Obj) -> Errors:
    selector, before = new["spec"].get("selector"), old["spec"].get("selector")
    shown = _shown_selector(selector) if selector else selector
    if not semantic_equal(selector, before):
        yield from immutable("spec.selector", shown, before)


def replica_set(obj: Obj) -> Errors:
    spec = obj["spec"]
    yield from not_negative("spec", spec, "replicas", "minReadySeconds")
    yield from _selector(spec, "deployment")  # the word that upstream uses here too
    yield from _matching_template(spec, "ReplicaSet")


def replica_set_update(new: Obj, old: Obj) -> Errors:
    yield from replica_set(new)
    yield from _same_selector(new, old)


def daemon_set(obj: Obj) -> Errors:
    spec = obj["spec"]
    yield from label_selector("spec.selector", spec.get("selector"))
    selector, pairs = spec.get("selector"), _labels(spec)
    if selector_matches(selector, pairs or {}) is False:
        yield invalid("spec.template.metadata.labels", pairs, _MISMATCH)
    if selector is not None and is_empty_selector(selector):
        yield invalid("spec.selector", {}, "empty selector is invalid for daemonset")
    yield from template("spec.template", spec.get("template"))
    yield from _always("spec.template", spec, "DaemonSet")
    yield from not_negative("spec", spec, "minReadySeconds")
    yield from _daemon_strategy(spec.get("updateStrategy") or {})
    yield from not_negative("spec", spec, "revisionHistoryLimit")


def _daemon_strategy(strategy: Obj) -> Errors:
    path, kind = "spec.updateStrategy", strategy.get("type")
    if kind == "RollingUpdate":
        yield from _rolling_daemon(f"{path}.rollingUpdate", strategy.get("rollingUpdate") or {})
    elif kind != "OnDelete":
        yield from choice(path, Structure({"Type": kind, "RollingUpdate": None}), ("RollingUpdate", "OnDelete"))


def _rolling_daemon(path: str, rolling: Obj) -> Errors:
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    yield from count_or_percent(f"{path}.maxUnavailable", unavailable)
    yield from at_most_all(f"{path}.maxUnavailable", unavailable)
    yield from count_or_percent(f"{path}.maxSurge", surge)
    yield from at_most_all(f"{path}.maxSurge", surge)
    has_unavailable, has_surge = not is_zero_percent(unavailable), not is_zero_percent(surge)
    if has_unavailable and has_surge:
        yield invalid(f"{path}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")
    elif not has_unavailable and not has_surge:
        yield required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")


def daemon_set_update(new: Obj, old: Obj) -> Errors:
    yield from _same_selector(new, old)
    yield from daemon_set(new)


def stateful_set(obj: Obj) -> Errors:
    yield from _stateful_set(obj["spec"], created=True)


def _stateful_set(spec: Obj, *, created: bool) -> Errors:
    policy = spec.get("podManagementPolicy")
    if policy not in ("OrderedReady", "Parallel"):
        yield invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    yield from _stateful_strategy(spec.get("updateStrategy") or {})
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for field in ("whenDeleted", "whenScaled"):
        path = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
        yield from choice(path, retention.get(field), ("Retain", "Delete"))
    yield from not_negative("spec", spec, "replicas", "minReadySeconds")
    yield from not_negative("spec.ordinals", spec.get("ordinals") or {}, "start")
    selector = spec.get("selector")
    if selector is None:
        yield required("spec.selector")
    else:
        yield from label_selector("spec.selector", selector)
        if is_empty_selector(selector):
            yield invalid("spec.selector", {}, "empty selector is invalid for statefulset")
    if created:
        yield from optional_name("spec.serviceName", spec.get("serviceName"), names.dns1123_label)
    if selector_matches(selector, {}) is None:
        yield invalid("spec.selector", _shown_selector(selector or {}), "")
    else:
        yield from _matching_template(_with_claims(spec), "StatefulSet")
    yield from not_negative("spec", spec)


def _with_claims(spec: Obj) -> Obj:
    """As its pods will be: every claim template is a volume, in the place of one of the same name."""
    claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates") or ()]
    template = spec.get("template")
    if not claims or not template:
        return spec
    pod = template.get("spec") or {}
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
    volumes += [volume for volume in pod.get("volumes") or () if volume.get("name") not in claims]
    return {**spec, "template": {**template, "spec": {**pod, "volumes": volumes}}}


def _stateful_strategy(strategy: Obj) -> Errors:
    path, kind, rolling = "spec.updateStrategy", strategy.get("type"), strategy.get("rollingUpdate")
    if not kind:
        yield required(path)
    elif kind == "OnDelete":
        if rolling is not None:
            shown = Structure({"Partition": rolling.get("partition"), "MaxUnavailable": None})
            yield invalid(f"{path}.rollingUpdate", shown, "only allowed for updateStrategy 'RollingUpdate'")
    elif kind == "RollingUpdate":
        yield from not_negative(f"{path}.rollingUpdate", rolling or {}, "partition")
    else:
        shown = Structure({"Type": kind, "RollingUpdate": None})
        yield invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'")


def stateful_set_update(new: Obj, old: Obj) -> Errors:
    spec, before = new["spec"], old["spec"]
    yield from _stateful_set(spec, created=False)
    fixed = (spec.keys() | before.keys()) - _STATEFUL_MUTABLE
    if any(not semantic_equal(spec.get(field), before.get(field)) for field in fixed):
        yield forbidden("spec", _STATEFUL_FORBIDDEN)


def replication_controller(obj: Obj) -> Errors:
    spec = obj["spec"]
    yield from not_negative("spec", spec, "minReadySeconds")
    selector, pairs = spec.get("selector") or {}, _labels(spec) or {}
    if not selector:
        yield required("spec.selector")
    yield from not_negative("spec", spec, "replicas")
    if spec.get("template") is None:
        yield required("spec.template")
        return
    if any(pairs.get(key) != value for key, value in selector.items()):
        yield invalid("spec.template.metadata.labels", pairs, _MISMATCH)
    yield from template("spec.template", spec["template"])
    yield from _always("spec.template", spec, "ReplicationController")


def controller_revision(obj: Obj) -> Errors:
    yield from not_negative("", obj, "revision")
    if obj.get("data") is None:
        yield required("data", "data is mandatory")


def controller_revision_update(new: Obj, old: Obj) -> Errors:
    yield from controller_revision(new)
    yield from immutable("data", new.get("data"), old.get("data"))
