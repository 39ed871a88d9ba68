"""What a Job does now: make pods, delete pods, count, end. Pure.

Source: k8s.io/kubernetes, pkg/controller/job/job_controller.go (syncJob, manageJob, trackJobStatusAndRemoveFinalizers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from havre.api.meta import Obj, parse_time, rfc3339
from havre.control.workloads.dependents import BURST
from havre.control.workloads.job import indexes, policy
from havre.control.workloads.job.pods import (
    FAILURES,
    IGNORED,
    all_failures_of_index,
    backoff_left,
    ended_at,
    failures_of_index,
    has_failed,
    index_of,
    is_tracked,
    left_after,
    new_pod,
)
from havre.control.workloads.pods import (
    first_to_go,
    is_active,
    is_finished,
    is_leaving,
    is_ready,
    phase_of,
    status_of,
)
from havre.machinery import conditions
from havre.machinery.events import Note

FAILING, MET, FAILED, COMPLETE, SUSPENDED = "FailureTarget", "SuccessCriteriaMet", "Failed", "Complete", "Suspended"
MOST_UNCOUNTED = 500  # uids in the status, 20 KB


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of Job.spec that decides."""

    parallelism: int
    completions: int | None  # None: the first success is enough
    backoff_limit: int
    deadline: int | None  # seconds
    suspend: bool
    indexed: bool
    limit_per_index: int | None
    most_failed_indexes: int | None
    failure_rules: tuple[Obj, ...]
    success_rules: tuple[Obj, ...]
    only_failed: bool  # only a pod that has ended is replaced
    restarts: bool  # its containers are restarted where they are

    @classmethod
    def of(cls, job: Obj) -> Spec:
        spec = job["spec"]
        rules = tuple((spec.get("podFailurePolicy") or {}).get("rules") or ())
        return cls(
            parallelism=spec.get("parallelism", 1),
            completions=spec.get("completions"),
            backoff_limit=spec.get("backoffLimit", 6),
            deadline=spec.get("activeDeadlineSeconds"),
            suspend=bool(spec.get("suspend")),
            indexed=spec.get("completionMode") == "Indexed",
            limit_per_index=spec.get("backoffLimitPerIndex"),
            most_failed_indexes=spec.get("maxFailedIndexes"),
            failure_rules=rules,
            success_rules=tuple((spec.get("successPolicy") or {}).get("rules") or ()),
            only_failed=spec.get("podReplacementPolicy") == "Failed" or bool(rules),
            restarts=(spec["template"].get("spec") or {}).get("restartPolicy") == "OnFailure",
        )

    @property
    def below(self) -> int:
        """Indexes are smaller than this."""
        return self.completions or 0


@dataclass(frozen=True, slots=True)
class Seen:
    """All pods of the Job that are there."""

    pods: Sequence[Obj]
    now: float  # since the epoch


@dataclass(frozen=True, slots=True)
class Steps:
    """Delete, create, give free; then say."""

    delete: tuple[Obj, ...] = ()
    create: tuple[Obj, ...] = ()
    free: tuple[Obj, ...] = ()  # take the finalizer away: the stored status has them
    status: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    again: float | None = None


def is_over(job: Obj) -> bool:
    held = (job.get("status") or {}).get("conditions") or ()
    return any(each["type"] in (FAILED, COMPLETE) and each["status"] == "True" for each in held)


def plan(job: Obj, spec: Spec, seen: Seen) -> Steps:
    if is_over(job):
        return Steps(free=tuple(pod for pod in seen.pods if is_tracked(pod)))
    return _Draft(job, spec, seen).steps()


class _Draft:
    """The plan while it is made."""

    def __init__(self, job: Obj, spec: Spec, seen: Seen) -> None:
        self._job, self._spec, self._seen = job, spec, seen
        self._live: Obj = job.get("status") or {}
        self._conditions: list[Obj] = [*(self._live.get("conditions") or ())]
        self._started = self._live.get("startTime") or (None if spec.suspend else rfc3339(seen.now))
        self._notes: list[Note] = []
        self._again: list[float] = []
        self._delete: list[Obj] = []
        self._create: list[Obj] = []
        self._settle()
        self._count()

    def _settle(self) -> None:
        """A uid whose pod has lost its finalizer becomes a number."""
        listed = self._live.get("uncountedTerminatedPods") or {}
        tracked = {pod["metadata"]["uid"] for pod in self._seen.pods if is_tracked(pod)}
        self._stored = {key: frozenset(listed.get(key) or ()) for key in ("succeeded", "failed")}
        self._uncounted = {key: [u for u in listed.get(key) or () if u in tracked] for key in ("succeeded", "failed")}
        self._numbers = {
            key: (self._live.get(key) or 0) + len(listed.get(key) or ()) - len(self._uncounted[key])
            for key in ("succeeded", "failed")
        }

    def _count(self) -> None:
        spec, pods = self._spec, self._seen.pods
        self._active = [pod for pod in pods if is_active(pod)]
        self._leaving = sum(is_leaving(pod) and not is_finished(pod) for pod in pods)
        fresh = [pod for pod in pods if self._is_fresh(pod)]
        succeeded = [pod for pod in fresh if phase_of(pod) == "Succeeded"]
        failed = [pod for pod in fresh if self._has_failed(pod) and self._failure(pod).counts]
        self._succeeded = self._numbers["succeeded"] + len(self._uncounted["succeeded"]) + len(succeeded)
        self._failed = self._numbers["failed"] + len(self._uncounted["failed"]) + len(failed)
        self._before = indexes.parse(self._live.get("completedIndexes") or "", spec.below)
        self._done, self._broken = set(self._before), set[int]()
        if spec.indexed:
            self._count_indexes()

    def _count_indexes(self) -> None:
        spec = self._spec
        tracked = [pod for pod in self._seen.pods if is_tracked(pod) and self._has_index(pod)]
        self._done |= {_index(pod) for pod in tracked if phase_of(pod) == "Succeeded"}
        self._succeeded = len(self._done)
        if spec.limit_per_index is not None:
            self._broken = set(indexes.parse(self._live.get("failedIndexes") or "", spec.below))
            self._broken |= {_index(pod) for pod in tracked if self._fails_index(pod)}

    def _is_fresh(self, pod: Obj) -> bool:
        uid = pod["metadata"]["uid"]
        known = uid in self._uncounted["succeeded"] or uid in self._uncounted["failed"]
        return is_tracked(pod) and not known and (not self._spec.indexed or self._has_index(pod))

    def _has_index(self, pod: Obj) -> bool:
        index = index_of(pod)
        return index is not None and index < self._spec.below

    def _has_failed(self, pod: Obj) -> bool:
        return has_failed(pod, only_failed=self._spec.only_failed)

    def _failure(self, pod: Obj) -> policy.Failure:
        return policy.failure_of(self._spec.failure_rules, pod)

    def _fails_index(self, pod: Obj) -> bool:
        if not self._has_failed(pod):
            return False
        failure = self._failure(pod)
        limit = self._spec.limit_per_index or 0
        return failure.fails_index or (failure.counts and failures_of_index(pod) >= limit)

    # is it over?

    def _verdict(self) -> Obj | None:
        """FailureTarget or SuccessCriteriaMet, as it stands or as it has just come about."""
        for type in (MET, FAILING):
            held = conditions.find(self._conditions, type)
            if held is not None and held["status"] == "True":
                return held
        return self._failed_by_policy() or self._failed_by_limits() or self._decided_by_indexes()

    def _failed_by_policy(self) -> Obj | None:
        for pod in self._seen.pods if self._spec.failure_rules else ():
            if self._has_failed(pod) and (message := self._failure(pod).message):
                return self._condition(FAILING, "PodFailurePolicy", message)
        return None

    def _failed_by_limits(self) -> Obj | None:
        spec = self._spec
        if self._failed > spec.backoff_limit or self._restarted_too_often():
            return self._condition(FAILING, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        if spec.deadline is None or spec.suspend or self._started is None:
            return None
        left = parse_time(self._started) + spec.deadline - self._seen.now
        if left <= 0:
            return self._condition(FAILING, "DeadlineExceeded", "Job was active longer than specified deadline")
        self._again.append(left)
        return None

    def _restarted_too_often(self) -> bool:
        if not self._spec.restarts:
            return False
        alive = [pod for pod in self._seen.pods if phase_of(pod) in ("Running", "Pending")]
        keys = ("initContainerStatuses", "containerStatuses")
        statuses = [each for pod in alive for key in keys for each in status_of(pod).get(key) or ()]
        restarts = sum(each.get("restartCount", 0) for each in statuses)
        return bool(restarts > 0 if not self._spec.backoff_limit else restarts >= self._spec.backoff_limit)

    def _decided_by_indexes(self) -> Obj | None:
        spec = self._spec
        if not spec.indexed:
            return None
        if spec.most_failed_indexes is not None and len(self._broken) > spec.most_failed_indexes:
            words = "Job has exceeded the specified maximal number of failed indexes"
            return self._condition(FAILING, "MaxFailedIndexesExceeded", words)
        if self._broken and len(self._broken) + len(self._done) >= spec.below:
            return self._condition(FAILING, "FailedIndexes", "Job has failed indexes")
        message = policy.enough(spec.success_rules, self._done, spec.below)
        return None if message is None else self._condition(MET, "SuccessPolicy", message)

    def _condition(self, type: str, reason: str, message: str, status: str = "True") -> Obj:
        now = rfc3339(self._seen.now)
        times = {"lastProbeTime": now, "lastTransitionTime": now}
        return {"type": type, "status": status, **times, "reason": reason, "message": message}

    # its pods

    def _manage(self) -> None:
        """As many active pods as are wanted, no more, no less."""
        if self._spec.suspend:
            self._delete = [*self._active]
            return
        wanted = self._wanted()
        surplus = self._surplus(max(0, len(self._active) - wanted))
        if surplus:
            self._delete = surplus[:BURST]
            return
        waiting = self._leaving if self._spec.only_failed else 0
        missing = wanted - len(self._active) - waiting
        if missing > 0:
            self._make(min(missing, BURST))

    def _wanted(self) -> int:
        spec = self._spec
        if spec.completions is None:
            return len(self._active) if self._succeeded else spec.parallelism
        return max(0, min(spec.completions - self._succeeded, spec.parallelism))

    def _surplus(self, at_least: int) -> list[Obj]:
        """Pods of no index or of one that another pod has go in any case."""
        ranked, twice = first_to_go(self._active, (), self._seen.now), []
        if self._spec.indexed:
            kept: dict[int, Obj] = {}
            for pod in reversed(ranked):
                index = index_of(pod)
                if index is None or index >= self._spec.below or index in kept:
                    twice.append(pod)
                else:
                    kept[index] = pod
        rest = [pod for pod in ranked if pod not in twice]
        return [*twice, *rest[: max(0, at_least - len(twice))]]

    def _make(self, count: int) -> None:
        if self._spec.limit_per_index is not None:
            self._make_with_own_limits(count)
            return
        left = backoff_left(self._seen.pods, self._seen.now, only_failed=self._spec.only_failed)
        if left > 0:
            self._again.append(left)
        elif self._spec.indexed:
            self._create = [new_pod(self._job, index, {}) for index in self._free_indexes(count)]
        else:
            self._create = [new_pod(self._job, None, {})] * count

    def _make_with_own_limits(self, count: int) -> None:
        """Every index has its own back-off; the new pod takes over the count of the one it replaces."""
        delayed = self._delayed()
        for index in self._free_indexes(count):
            last = delayed.get(index)
            failures = all_failures_of_index(last) + 1 if last else 0
            left = left_after(failures, ended_at(last) if last else 0.0, self._seen.now)
            if left > 0:
                self._again.append(left)
            else:
                self._create.append(new_pod(self._job, index, self._inherited(last)))

    def _inherited(self, last: Obj | None) -> dict[str, str]:
        if last is None:
            return {FAILURES: "0"}
        counted, ignored = failures_of_index(last), all_failures_of_index(last) - failures_of_index(last)
        if self._failure(last).counts:
            counted += 1
        else:
            ignored += 1
        return {FAILURES: str(counted), **({IGNORED: str(ignored)} if ignored else {})}

    def _free_indexes(self, count: int) -> list[int]:
        taken = self._done | self._broken | {index_of(pod) for pod in self._active}
        if self._spec.only_failed:
            taken |= {index_of(pod) for pod in self._seen.pods if is_leaving(pod) and not is_finished(pod)}
        return indexes.first_free(count, self._spec.below, {index for index in taken if index is not None})

    def _delayed(self) -> dict[int, Obj]:
        """The last failed pod of each index that waits for its next: it keeps its finalizer, for its count."""
        if self._spec.limit_per_index is None:
            return {}
        settled = self._done | self._broken | {index_of(pod) for pod in self._active}
        found: dict[int, Obj] = {}
        for pod in self._seen.pods:
            if not (is_tracked(pod) and self._has_index(pod) and self._has_failed(pod)):
                continue
            index = _index(pod)
            if index in settled:
                continue
            held = found.get(index)
            if held is None or _age(held) <= _age(pod):
                found[index] = pod
        return found

    # what is counted, what is said

    def steps(self) -> Steps:
        verdict = self._verdict()
        if verdict is not None:
            self._delete = [*self._active]
        elif not self._job["metadata"].get("deletionTimestamp"):
            self._manage()
            active = len(self._active) - len(self._delete) + len(self._create)
            if self._has_all() and not active:
                verdict = self._condition(MET, "CompletionsReached", "Reached expected number of succeeded pods")
            else:
                self._say_suspended()
        free = self._track(verdict)
        self._end(verdict)
        return Steps(
            tuple(self._delete),
            tuple(self._create),
            tuple(free),
            self._status(),
            tuple(self._notes),
            min(self._again, default=None),
        )

    def _has_all(self) -> bool:
        return self._succeeded > 0 if self._spec.completions is None else self._succeeded >= self._spec.completions

    def _say_suspended(self) -> None:
        held = conditions.find(self._conditions, SUSPENDED)
        if self._spec.suspend and (held or {}).get("status") != "True":
            self._set(self._condition(SUSPENDED, "JobSuspended", "Job suspended"))
            self._notes.append(Note("Suspended", "Job suspended"))
        elif not self._spec.suspend and held is not None and held["status"] == "True":
            self._set(self._condition(SUSPENDED, "JobResumed", "Job resumed", "False"))
            self._notes.append(Note("Resumed", "Job resumed"))
            self._started = rfc3339(self._seen.now)

    def _set(self, condition: Obj) -> None:
        """In its place if there is one of its type."""
        types = [each["type"] for each in self._conditions]
        if condition["type"] in types:
            self._conditions[types.index(condition["type"])] = condition
        else:
            self._conditions.append(condition)

    def _track(self, verdict: Obj | None) -> list[Obj]:
        """Puts ended pods on the list; the pods that are on the stored list, or need not be, are free."""
        delayed, free = {pod["metadata"]["uid"] for pod in self._delayed().values()}, []
        for pod in self._seen.pods:
            uid = pod["metadata"]["uid"]
            if not is_tracked(pod) or not self._is_at_end(pod, verdict, delayed):
                continue
            if len(self._uncounted["succeeded"]) + len(self._uncounted["failed"]) >= MOST_UNCOUNTED:
                break
            key = self._list_of(pod, verdict)
            if key and uid not in self._uncounted[key]:
                self._uncounted[key].append(uid)
            if self._is_safe(pod, key):
                free.append(pod)
        return free

    def _is_at_end(self, pod: Obj, verdict: Obj | None, delayed: set[str]) -> bool:
        if verdict is not None or phase_of(pod) == "Succeeded" or self._job["metadata"].get("deletionTimestamp"):
            return True
        return self._has_failed(pod) and pod["metadata"]["uid"] not in delayed

    def _list_of(self, pod: Obj, verdict: Obj | None) -> str:
        """Where the pod is counted; "" for nowhere, or for the indexes."""
        if phase_of(pod) == "Succeeded" and pod["metadata"]["uid"] not in self._uncounted["failed"]:
            return "" if self._spec.indexed else "succeeded"
        failing = verdict is not None and verdict["type"] == FAILING
        if not self._has_failed(pod) and not failing:
            return ""
        counted = self._failure(pod).counts and (not self._spec.indexed or self._has_index(pod))
        return "failed" if counted else ""

    def _is_safe(self, pod: Obj, key: str) -> bool:
        if key:
            return pod["metadata"]["uid"] in self._stored[key]
        if self._spec.indexed and phase_of(pod) == "Succeeded" and self._has_index(pod):
            return _index(pod) in self._before
        return True

    def _end(self, verdict: Obj | None) -> None:
        """First what will be, then, when no pod is left to end or to count, that it is."""
        if verdict is None:
            return
        if conditions.find(self._conditions, verdict["type"]) is None:
            self._conditions.append(verdict)
        waiting = self._uncounted["succeeded"] or self._uncounted["failed"] or self._leaving or self._delete
        uncounted_index = self._spec.indexed and self._done != set(self._before)
        if waiting or uncounted_index:
            return
        success = verdict["type"] == MET
        self._conditions.append(
            self._condition(COMPLETE if success else FAILED, verdict.get("reason", ""), verdict.get("message", ""))
        )
        note = Note(verdict.get("reason", ""), verdict.get("message", ""), "Warning")
        self._notes.append(Note("Completed", "Job completed") if success else note)

    def _status(self) -> dict[str, Any]:
        spec = self._spec
        gone = {pod["metadata"]["uid"] for pod in self._delete}
        ready = sum(is_ready(pod) for pod in self._active if pod["metadata"]["uid"] not in gone)
        complete = conditions.find(self._conditions, COMPLETE)
        return {
            "active": (len(self._active) - len(self._delete) + len(self._create)) or None,
            "ready": ready,
            "terminating": self._leaving + len(self._delete),
            "succeeded": (len(self._done) if spec.indexed else self._numbers["succeeded"]) or None,
            "failed": self._numbers["failed"] or None,
            "completedIndexes": (indexes.write(self._done) or None) if spec.indexed else None,
            "failedIndexes": indexes.write(self._broken) if spec.limit_per_index is not None else None,
            "uncountedTerminatedPods": {key: found or None for key, found in self._uncounted.items()},
            "startTime": self._started,
            "completionTime": complete["lastTransitionTime"] if complete else None,
            "conditions": self._conditions or None,
        }


def _index(pod: Obj) -> int:
    index = index_of(pod)
    return -1 if index is None else index


def _age(pod: Obj) -> tuple[int, float]:
    return all_failures_of_index(pod), ended_at(pod)
