"""When the failure of a pod counts, and when success is enough. Pure.

Source: k8s.io/kubernetes, pkg/controller/job/pod_failure_policy.go, success_policy.go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from havre.api.meta import Obj, name_of, namespace_of
from havre.control.workloads.job import indexes
from havre.control.workloads.pods import status_of


@dataclass(frozen=True, slots=True)
class Failure:
    """What the failure of a pod means; `message` is not empty where it ends the Job."""

    counts: bool = True
    fails_index: bool = False
    message: str = ""


def failure_of(rules: Sequence[Obj], pod: Obj) -> Failure:
    """The first rule that matches decides; without one it counts."""
    for number, rule in enumerate(rules):
        if (why := _match(rule, pod)) is None:
            continue
        match rule["action"]:
            case "Ignore":
                return Failure(counts=False)
            case "FailIndex":
                return Failure(fails_index=True)
            case "FailJob":
                return Failure(message=f"{why} matching FailJob rule at index {number}")
            case _:
                return Failure()
    return Failure()


def _match(rule: Obj, pod: Obj) -> str | None:
    """What in the pod the rule matches, in words."""
    where = f"{namespace_of(pod)}/{name_of(pod)}"
    if codes := rule.get("onExitCodes"):
        found = _container(codes, pod)
        if found is None:
            return None
        code = found["state"]["terminated"]["exitCode"]
        return f"Container {found['name']} for pod {where} failed with exit code {code}"
    for condition in status_of(pod).get("conditions") or ():
        for pattern in rule.get("onPodConditions") or ():
            if (condition["type"], condition["status"]) == (pattern["type"], pattern.get("status", "True")):
                return f"Pod {where} has condition {condition['type']}"
    return None


def _container(codes: Obj, pod: Obj) -> Obj | None:
    for key in ("containerStatuses", "initContainerStatuses"):
        for each in status_of(pod).get(key) or ():
            ended = (each.get("state") or {}).get("terminated")
            named = codes.get("containerName") in (None, each["name"])
            if ended and named and ended.get("exitCode") and _holds(codes, ended["exitCode"]):
                return dict(each)
    return None


def _holds(codes: Obj, code: int) -> bool:
    listed = code in (codes.get("values") or ())
    return listed if codes["operator"] == "In" else not listed


def enough(rules: Sequence[Obj], succeeded: Collection[int], completions: int) -> str | None:
    """The words of the first success rule that is met."""
    for number, rule in enumerate(rules):
        wanted, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if wanted is not None:
            required = indexes.parse(wanted, completions)
            met = required and len(required & set(succeeded)) >= (len(required) if count is None else count)
        else:
            met = count is not None and len(succeeded) >= count
        if met and succeeded:
            return f"Matched rules at index {number}"
    return None
