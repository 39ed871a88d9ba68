"""Which Job of a CronJob starts now, which go, when to look again. Pure.

Source: k8s.io/kubernetes, pkg/controller/cronjob (cronjob_controllerv2.go, utils.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from havre.api.meta import Obj, name_of, namespace_of, parse_time
from havre.control.workloads.cron_job.schedule import Schedule, Unreadable, parse
from havre.lang.json import copied
from havre.machinery.events import Note
from havre.machinery.owners import adopted

STAMP = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MANY = 100  # missed times that are worth a warning
SLACK = 0.1  # seconds after a time to look at it


@dataclass(frozen=True, slots=True)
class Spec:
    """The part of CronJob.spec that decides."""

    schedule: Schedule | None  # None: it cannot be read
    zone: ZoneInfo
    suspend: bool
    deadline: int | None  # seconds after its time within which a Job may still start
    policy: str  # Allow, Forbid, Replace
    keep_succeeded: int | None
    keep_failed: int | None
    problem: Note | None = None

    @classmethod
    def of(cls, obj: Obj) -> Spec:
        spec = obj["spec"]
        zone, problem = _zone(spec.get("timeZone"))
        schedule: Schedule | None = None
        try:
            schedule = parse(spec["schedule"], zone)
        except Unreadable as error:
            problem = Note("UnparseableSchedule", f'unparseable schedule: "{spec["schedule"]}" : {error}', "Warning")
        return cls(
            schedule=None if problem else schedule,
            zone=zone,
            suspend=bool(spec.get("suspend")),
            deadline=spec.get("startingDeadlineSeconds"),
            policy=spec.get("concurrencyPolicy", "Allow"),
            keep_succeeded=spec.get("successfulJobsHistoryLimit"),
            keep_failed=spec.get("failedJobsHistoryLimit"),
            problem=problem,
        )


def _zone(name: str | None) -> tuple[ZoneInfo, Note | None]:
    try:
        return ZoneInfo(name or "UTC"), None
    except (ZoneInfoNotFoundError, ValueError):
        words = f'invalid timeZone: "{name}": unknown time zone {name}'
        return ZoneInfo("UTC"), Note("UnknownTimeZone", words, "Warning")


@dataclass(frozen=True, slots=True)
class Seen:
    """The Jobs that the CronJob controls."""

    jobs: Sequence[Obj]
    now: float  # since the epoch


@dataclass(frozen=True, slots=True)
class Steps:
    """Delete, create; then say."""

    delete: tuple[Obj, ...] = ()
    create: Obj | None = None
    scheduled: float | None = None  # the time that the new Job is for
    active: tuple[Obj, ...] = ()  # references, without the new Job
    succeeded: str | None = None  # when one last did
    notes: tuple[Note, ...] = ()
    again: float | None = None


def plan(cron_job: Obj, spec: Spec, seen: Seen) -> Steps:
    live = cron_job.get("status") or {}
    active, notes = _active(live.get("active") or (), seen.jobs)
    ends = [job["status"].get("completionTime") for job in seen.jobs if end_of(job) == "Complete"]
    succeeded = max(filter(None, [*ends, live.get("lastSuccessfulTime")]), default=None)
    old = _beyond_history(spec, seen.jobs)
    if spec.problem is not None:
        notes.append(spec.problem)
    if spec.suspend or spec.schedule is None:
        return Steps(tuple(old), active=tuple(active), succeeded=succeeded, notes=tuple(notes))
    at, missed = _due(cron_job, spec.schedule, spec.deadline, seen.now)
    again = _next(cron_job, spec.schedule, seen.now)
    if missed > MANY:
        words = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        notes.append(Note("TooManyMissedTimes", words, "Warning"))
    if at is not None and (why := _keeps_from(cron_job, spec, at, active, seen.now)) is not None:
        notes += why
        at = None
    if at is not None and spec.policy == "Replace":
        running = {each["uid"] for each in active}
        old += [job for job in seen.jobs if job["metadata"]["uid"] in running and job not in old]
        active = []
    create = None if at is None else job_of(cron_job, at, spec.zone)
    return Steps(tuple(old), create, at, tuple(active), succeeded, tuple(notes), again)


def _active(listed: Sequence[Obj], jobs: Sequence[Obj]) -> tuple[list[Obj], list[Note]]:
    """Who of the list still runs."""
    by_uid = {job["metadata"]["uid"]: job for job in jobs}
    active, notes = [], []
    for each in listed:
        job = by_uid.get(each["uid"])
        if job is None:
            notes.append(Note("MissingJob", f"Active job went missing: {each['name']}"))
        elif end := end_of(job):
            notes.append(Note("SawCompletedJob", f"Saw completed job: {each['name']}, condition: {end}"))
        else:
            active.append(each)
    known = {each["uid"] for each in listed}
    for uid, job in by_uid.items():
        if uid not in known and not end_of(job):
            words = f"Saw a job that the controller did not create or forgot: {name_of(job)}"
            notes.append(Note("UnexpectedJob", words, "Warning"))
    return active, notes


def end_of(job: Obj) -> str:
    """Complete or Failed; "" while it runs."""
    held = (job.get("status") or {}).get("conditions") or ()
    ends = [each["type"] for each in held if each["type"] in ("Complete", "Failed") and each["status"] == "True"]
    return str(ends[0]) if ends else ""


def _beyond_history(spec: Spec, jobs: Sequence[Obj]) -> list[Obj]:
    old: list[Obj] = []
    for end, keep in (("Complete", spec.keep_succeeded), ("Failed", spec.keep_failed)):
        ended = sorted((job for job in jobs if end_of(job) == end), key=_started)
        if keep is not None:
            old += ended[: max(0, len(ended) - keep)]
    return old


def _started(job: Obj) -> tuple[bool, str, str]:
    at = (job.get("status") or {}).get("startTime")
    return at is None, at or "", name_of(job)


# time


def _since(cron_job: Obj) -> float:
    last = (cron_job.get("status") or {}).get("lastScheduleTime")
    return parse_time(last or cron_job["metadata"]["creationTimestamp"])


def _due(cron_job: Obj, schedule: Schedule, deadline: int | None, now: float) -> tuple[float | None, int]:
    """(the last time that has come and was not served, about how many such times there were)."""
    since = _since(cron_job)
    if deadline is not None:
        since = max(since, now - deadline)
    first = schedule.after(since)
    if first is None or first > now:
        return None, 0
    second = schedule.after(first)
    if second is None or second > now:
        return first, 1
    distance = max(1.0, second - first)
    missed = int((now - first) // distance) + 1
    last, at = first, schedule.after(first + (missed - 2) * distance)
    while at is not None and at <= now:
        last, at = at, schedule.after(at)
    return last, missed


def _next(cron_job: Obj, schedule: Schedule, now: float) -> float | None:
    """Seconds until the next time."""
    at, _ = _due(cron_job, schedule, None, now)
    following = schedule.after(_since(cron_job) if at is None else at)
    return None if following is None else max(SLACK, following + SLACK - now)


def _keeps_from(cron_job: Obj, spec: Spec, at: float, active: Sequence[Obj], now: float) -> list[Note] | None:
    """What to say when the Job of this time does not start; None: it starts."""
    last = (cron_job.get("status") or {}).get("lastScheduleTime")
    if spec.deadline is not None and at + spec.deadline < now:
        when = format_datetime(datetime.fromtimestamp(at, UTC))
        return [Note("MissSchedule", f"Missed scheduled time to start a job: {when}", "Warning")]
    if (last and parse_time(last) == at) or job_name(cron_job, at) in [each["name"] for each in active]:
        return []
    if spec.policy == "Forbid" and active:
        words = "Not starting job because prior execution is running and concurrency policy is Forbid"
        return [Note("JobAlreadyActive", words)]
    return None


# the Job


def job_name(cron_job: Obj, at: float) -> str:
    return f"{name_of(cron_job)}-{int(at) // 60}"


def job_of(cron_job: Obj, at: float, zone: ZoneInfo) -> Obj:
    template = cron_job["spec"]["jobTemplate"]
    meta = template.get("metadata") or {}
    local = datetime.fromtimestamp(int(at), zone)
    stamp = local.strftime("%Y-%m-%dT%H:%M:%SZ") if not local.utcoffset() else local.isoformat(timespec="seconds")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(cron_job, at),
            "namespace": namespace_of(cron_job),
            "labels": dict(meta.get("labels") or {}),
            "annotations": {**(meta.get("annotations") or {}), STAMP: stamp},
        },
        "spec": copied(template.get("spec") or {}),
    }
    return adopted(job, cron_job)


def reference_to(job: Obj) -> Obj:
    meta = job["metadata"]
    keys = {key: meta[key] for key in ("namespace", "name", "uid", "resourceVersion") if meta.get(key)}
    return {"apiVersion": "batch/v1", "kind": "Job", **keys}
