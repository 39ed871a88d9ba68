"""Jobs and CronJobs.

Source: k8s.io/kubernetes, pkg/apis/batch/validation/validation.go.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from havre.api.meta import Obj
from havre.api.validation.checks import (
    Errors,
    checked,
    choice,
    immutable,
    label_selector,
    not_negative,
    selector_matches,
)
from havre.api.validation.cron import schedule_problem
from havre.api.validation.pods import template
from havre.kit import names
from havre.kit.field import FieldError, Problem, duplicate, invalid, required, too_long, too_many

_UID: Final = "batch.kubernetes.io/controller-uid"
_NAME: Final = "batch.kubernetes.io/job-name"
_OLD_UID, _OLD_NAME = "controller-uid", "job-name"
MAX_INDEXED_PARALLELISM: Final = 100_000
CRON_NAME_MAX: Final = 52  # a job's name is that of its cron job and 11 characters, a label's value has 63
MANAGED_BY_MAX: Final = 63
RULES_MAX: Final = 20
CODES_MAX: Final = 255
_ACTIONS: Final = ("Count", "FailIndex", "FailJob", "Ignore")
_NEEDS_INDEX: Final = "requires indexed completion mode"


def job(obj: Obj) -> Errors:
    spec = obj["spec"]
    if not spec.get("manualSelector"):
        yield from _generated_selector(obj)
    yield from job_spec("spec", spec)
    selector = spec.get("selector")
    if selector is None:
        yield required("spec.selector")
    else:
        yield from label_selector("spec.selector", selector)
    pairs = _labels(spec)
    if selector_matches(selector, pairs or {}) is False:
        yield invalid("spec.template.metadata.labels", pairs, "`selector` does not match template `labels`")


def _labels(spec: Obj) -> Any:
    """Labels of the template, sorted as messages show them."""
    pairs = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    return dict(sorted(pairs.items())) if pairs else pairs


def _generated_selector(obj: Obj) -> Errors:
    """The selector and the labels that the server made are untouched."""
    spec, metadata = obj["spec"], obj["metadata"]
    uid, pairs = metadata.get("uid"), _labels(spec) or {}
    for key, value in ((_UID, uid), (_NAME, metadata.get("name"))):
        if pairs.get(key) != value and pairs.get(_OLD_UID if key == _UID else _OLD_NAME) != value:
            yield invalid(f"spec.template.metadata.labels[{key}]", pairs.get(key) or "", f"must be '{value}'")
    selector = spec.get("selector")
    if selector is None:
        return
    expected = ({"matchLabels": {_UID: uid}}, {"matchLabels": {_OLD_UID: uid}})
    if selector not in expected:
        matching = dict(sorted((selector.get("matchLabels") or {}).items()))
        yield invalid("spec.selector", {**selector, "matchLabels": matching}, "`selector` not auto-generated")


def job_spec(path: str, spec: Obj) -> Errors:
    counts = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
    yield from not_negative(path, spec, *counts, "backoffLimitPerIndex", "maxFailedIndexes")
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        yield required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    if (manager := spec.get("managedBy")) is not None:
        yield from checked(f"{path}.managedBy", manager, names.domain_prefixed_path)
        if len(manager) > MANAGED_BY_MAX:
            yield too_long(f"{path}.managedBy", MANAGED_BY_MAX)
    yield from _completion(path, spec)
    if (policy := spec.get("podFailurePolicy")) is not None:
        yield from _failure_policy(f"{path}.podFailurePolicy", policy, spec)
    yield from _success_policy(f"{path}.successPolicy", spec)
    yield from _replacement(f"{path}.podReplacementPolicy", spec)
    yield from template(f"{path}.template", spec.get("template"))
    yield from _restart_policy(f"{path}.template.spec.restartPolicy", spec)


def _completion(path: str, spec: Obj) -> Errors:
    mode, completions = spec.get("completionMode"), spec.get("completions")
    if mode is not None:
        yield from choice(f"{path}.completionMode", mode, ("NonIndexed", "Indexed"))
    if mode == "Indexed":
        if completions is None:
            yield required(f"{path}.completions", "when completion mode is Indexed")
        parallelism, failed = spec.get("parallelism") or 0, spec.get("maxFailedIndexes")
        if parallelism > MAX_INDEXED_PARALLELISM:
            words = f"must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed"
            yield invalid(f"{path}.parallelism", parallelism, words)
        if completions is not None and failed is not None and failed > completions:
            yield invalid(f"{path}.maxFailedIndexes", failed, "must be less than or equal to completions")
    elif mode in (None, "NonIndexed"):
        for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
            if spec.get(field) is not None:
                yield invalid(f"{path}.{field}", spec[field], _NEEDS_INDEX)


def _failure_policy(path: str, policy: Obj, spec: Obj) -> Errors:
    rules = policy.get("rules") or []
    if len(rules) > RULES_MAX:
        yield too_many(f"{path}.rules", len(rules), RULES_MAX)
    taken = {
        item.get("name")
        for field in ("containers", "initContainers")
        for item in ((spec.get("template") or {}).get("spec") or {}).get(field) or ()
    }
    for i, rule in enumerate(rules):
        yield from _failure_rule(f"{path}.rules[{i}]", rule, spec, taken)


def _failure_rule(path: str, rule: Obj, spec: Obj, containers: set[Any]) -> Errors:
    action, codes, conditions = rule.get("action") or "", rule.get("onExitCodes"), rule.get("onPodConditions") or []
    if not action:
        yield FieldError(Problem.REQUIRED, f"{path}.action", None, f"valid values: {sorted(_ACTIONS)}")
    elif action == "FailIndex":
        if spec.get("backoffLimitPerIndex") is None:
            yield invalid(f"{path}.action", action, "requires the backoffLimitPerIndex to be set")
    else:
        yield from choice(f"{path}.action", action, _ACTIONS)
    if codes is not None:
        yield from _exit_codes(f"{path}.onExitCodes", codes, containers)
    for i, condition in enumerate(conditions):
        here = f"{path}.onPodConditions[{i}]"
        yield from checked(f"{here}.type", condition.get("type") or "", names.qualified_name)
        yield from choice(f"{here}.status", condition.get("status") or "", ("False", "True", "Unknown"))
    if codes is not None and conditions:
        yield invalid(path, "", "specifying both OnExitCodes and OnPodConditions is not supported")
    if codes is None and not conditions:
        yield invalid(path, "", "specifying one of OnExitCodes and OnPodConditions is required")


def _exit_codes(path: str, codes: Obj, containers: set[Any]) -> Errors:
    operator, values = codes.get("operator") or "", codes.get("values") or []
    yield from choice(f"{path}.operator", operator, ("In", "NotIn"))
    container = codes.get("containerName")
    if container is not None and container not in containers:
        yield invalid(
            f"{path}.containerName",
            container,
            "must be one of the container or initContainer names in the pod template",
        )
    if not values:
        yield invalid(f"{path}.values", values, "at least one value is required")
    elif len(values) > CODES_MAX:
        yield too_many(f"{path}.values", len(values), CODES_MAX)
    seen: set[int] = set()
    ordered = True
    for i, value in enumerate(values):
        if operator == "In" and value == 0:
            yield invalid(f"{path}.values[{i}]", 0, "must not be 0 for the In operator")
        if value in seen:
            yield duplicate(f"{path}.values[{i}]", value)
        seen.add(value)
        ordered = ordered and (i == 0 or values[i - 1] <= value)
    if not ordered:
        yield invalid(f"{path}.values", values, "must be ordered")


def _success_policy(path: str, spec: Obj) -> Errors:
    policy = spec.get("successPolicy")
    if policy is None:
        return
    if spec.get("completionMode") != "Indexed":
        yield invalid(path, {"Rules": policy.get("rules") or []}, _NEEDS_INDEX)
        return
    rules = policy.get("rules") or []
    if not rules:
        yield required(f"{path}.rules", "at least one rules must be specified when the successPolicy is specified")
    for i, rule in enumerate(rules):
        if rule.get("succeededCount") is None and rule.get("succeededIndexes") is None:
            words = "at least one of succeededCount or succeededIndexes must be specified"
            yield required(f"{path}.rules[{i}]", words)
        yield from not_negative(f"{path}.rules[{i}]", rule, "succeededCount")


def _replacement(path: str, spec: Obj) -> Errors:
    policy = spec.get("podReplacementPolicy")
    if policy is None:
        return
    if spec.get("podFailurePolicy") is not None:
        yield from choice(path, policy, ("Failed",))
    else:
        yield from choice(path, policy, ("Failed", "TerminatingOrFailed"))


def _restart_policy(path: str, spec: Obj) -> Errors:
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy") or "Always"
    if policy == "Always":
        yield required(path, 'valid values: "OnFailure", "Never"')
    elif policy not in ("OnFailure", "Never"):
        yield from choice(path, policy, ("OnFailure", "Never"))
    elif spec.get("podFailurePolicy") is not None and policy != "Never":
        yield invalid(path, policy, 'only "Never" is supported when podFailurePolicy is specified')


_IMMUTABLE: Final = ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy")
_SCHEDULING: Final = ("nodeSelector", "tolerations", "schedulingGates")


def job_update(new: Obj, old: Obj) -> Errors:
    spec, before = new["spec"], old["spec"]
    yield from job(new)
    if spec.get("completionMode") != "Indexed":
        yield from immutable("spec.completions", spec.get("completions"), before.get("completions"))
    elif spec.get("completions") not in (None, before.get("completions"), spec.get("parallelism")):
        words = "can only be modified in tandem with spec.parallelism"
        yield invalid("spec.completions", spec["completions"], words)
    yield from immutable("spec.selector", spec.get("selector"), before.get("selector"))
    expected = before.get("template") or {}
    if before.get("suspend") and not (old.get("status") or {}).get("startTime"):
        expected = _rescheduled(expected, spec.get("template") or {})
    yield from immutable("spec.template", spec.get("template"), expected)
    for field in _IMMUTABLE:
        yield from immutable(f"spec.{field}", spec.get(field), before.get(field))


def _rescheduled(old: Obj, new: Obj) -> Obj:
    """The old template with where and how its pods are scheduled taken from the new one: a suspended job may move."""
    spec = {key: value for key, value in (old.get("spec") or {}).items() if key not in _SCHEDULING}
    wanted = new.get("spec") or {}
    spec |= {key: wanted[key] for key in _SCHEDULING if key in wanted}
    affinity = {k: v for k, v in (spec.get("affinity") or {}).items() if k != "nodeAffinity"}
    if node := (wanted.get("affinity") or {}).get("nodeAffinity"):
        affinity["nodeAffinity"] = node
    spec.pop("affinity", None)
    if affinity:
        spec["affinity"] = affinity
    metadata = {k: v for k, v in (old.get("metadata") or {}).items() if k not in ("labels", "annotations")}
    metadata |= {k: v for k, v in (new.get("metadata") or {}).items() if k in ("labels", "annotations")}
    return {**old, "metadata": metadata, "spec": spec}


def cron_job(obj: Obj) -> Errors:
    if len(obj["metadata"].get("name") or "") > CRON_NAME_MAX:
        yield invalid("metadata.name", obj["metadata"]["name"], names.max_length_error(CRON_NAME_MAX))
    yield from _cron_spec(obj["spec"], None)


def cron_job_update(new: Obj, old: Obj) -> Errors:
    yield from _cron_spec(new["spec"], old["spec"])


def _cron_spec(spec: Obj, before: Obj | None) -> Errors:
    schedule, zone = spec.get("schedule") or "", spec.get("timeZone")
    if not schedule:
        yield required("spec.schedule")
    else:
        yield from _schedule(schedule, zone, (before or {}).get("schedule") or "")
    yield from not_negative("spec", spec, "startingDeadlineSeconds")
    if zone is not None and (before is None or before.get("timeZone") != zone):
        yield from _time_zone("spec.timeZone", zone)
    policy = spec.get("concurrencyPolicy")
    if not policy:
        yield required("spec.concurrencyPolicy")
    else:
        yield from choice("spec.concurrencyPolicy", policy, ("Allow", "Forbid", "Replace"))
    yield from _job_template("spec.jobTemplate.spec", (spec.get("jobTemplate") or {}).get("spec") or {})
    yield from not_negative("spec", spec, "successfulJobsHistoryLimit", "failedJobsHistoryLimit")


def _schedule(schedule: str, zone: str | None, before: str) -> Errors:
    text = schedule
    if "TZ" in schedule:
        if "TZ" not in before:
            words = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            yield invalid("spec.schedule", schedule, words)
            if schedule.startswith(("TZ=", "CRON_TZ=")):
                return
        elif zone is not None:
            words = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
            yield invalid("spec.schedule", schedule, words)
        text = schedule.partition(" ")[2].strip() if schedule.startswith(("TZ=", "CRON_TZ=")) else schedule
    if problem := schedule_problem(text):
        yield invalid("spec.schedule", schedule, problem)


def _job_template(path: str, spec: Obj) -> Errors:
    yield from job_spec(path, spec)
    if (selector := spec.get("selector")) is not None:
        yield invalid(f"{path}.selector", selector, "`selector` will be auto-generated")
    if spec.get("manualSelector"):
        yield FieldError(Problem.NOT_SUPPORTED, f"{path}.manualSelector", True, 'supported values: "nil", "false"')


def _time_zone(path: str, zone: str) -> Errors:
    if not zone:
        yield invalid(path, zone, "timeZone must be nil or non-empty string")
    elif zone.lower() == "local":
        words = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        yield invalid(path, zone, words)
    elif not _is_zone(zone):
        yield invalid(path, zone, f"unknown time zone {zone}")


@lru_cache(maxsize=512)
def _is_zone(name: str) -> bool:
    """Whether the time zone database knows the name; the one place here that looks outside, once per name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
