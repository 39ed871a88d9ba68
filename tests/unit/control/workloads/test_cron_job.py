"""CronJobs and their schedules; finished Jobs that have lived long enough."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads import ttl_after_finished
from havre.control.workloads.cron_job.plan import Seen, Spec, Steps, plan
from havre.control.workloads.cron_job.reconcile import CRON_JOB, reconcile
from havre.control.workloads.cron_job.schedule import Unreadable, parse
from havre.machinery.api import Ref
from havre.testing import FakeApi

JOB = GVK("batch", "v1", "Job")
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def shown(time: float | None) -> str:
    return "never" if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("*/15 * * * *", "2026-01-01T00:14:59", "2026-01-01T00:15"),
        ("0 0 1 * *", "2026-01-01T00:00:00", "2026-02-01T00:00"),
        ("30 4 * * mon-fri", "2026-01-02T05:00:00", "2026-01-05T04:30"),
        ("0 12 13 * 5", "2026-01-02T13:00:00", "2026-01-09T12:00"),  # a Friday or a 13th
        ("0 12 */2 * 5", "2026-01-01T13:00:00", "2026-01-09T12:00"),  # a Friday on an odd day
        ("@weekly", "2026-01-01T00:00:00", "2026-01-04T00:00"),
        ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00"),
        ("0 0 31 2 *", "2026-01-01T00:00:00", "never"),
        ("5/20 1 * * *", "2026-01-01T00:00:00", "2026-01-01T01:05"),
    ],
)
def test_next_time_of(schedule: str, after: str, expected: str) -> None:
    assert shown(parse(schedule).after(at(after))) == expected


def test_skipped_hour_has_no_time_and_a_doubled_one_has_it_twice() -> None:
    half_past_two = parse("30 2 * * *", BERLIN)
    assert shown(half_past_two.after(at("2026-03-28T02:00:00"))) == "2026-03-30T00:30"
    first = half_past_two.after(at("2026-10-24T12:00:00")) or 0.0
    assert (shown(first), shown(half_past_two.after(first))) == ("2026-10-25T00:30", "2026-10-25T01:30")


def test_fixed_distance_counts_from_the_last_time() -> None:
    assert parse("@every 1h30m").after(at("2026-01-01T00:00:00")) == at("2026-01-01T01:30:00")


@given(st.text(alphabet="0123456789*/,-? @amonevry", max_size=25), st.integers(0, 4_000_000_000))
def test_whatever_is_written_is_a_schedule_with_later_times_or_unreadable(text: str, now: int) -> None:
    try:
        schedule = parse(text)
    except Unreadable:
        return
    found = schedule.after(float(now))
    assert found is None or found > now


def tick(status: Obj | None = None, **spec: Any) -> Obj:
    template = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}
    meta = {"name": "tick", "namespace": "default", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"}
    body = {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "jobTemplate": template, **spec}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": body, "status": status or {}}


def job(name: str, end: str = "", started: str = "2026-01-01T00:01:00Z") -> Obj:
    conditions = [{"type": end, "status": "True", "lastTransitionTime": started}] if end else []
    status = {"startTime": started, "conditions": conditions}
    status |= {"completionTime": started} if end == "Complete" else {}
    return {"metadata": {"name": name, "uid": name, "namespace": "default"}, "status": status}


def step(obj: Obj, now: str, *jobs: Obj) -> Steps:
    return plan(obj, Spec.of(obj), Seen(jobs, at(now)))


def made(steps: Steps) -> str:
    return steps.create["metadata"]["name"] if steps.create else ""


MINUTE_1 = int(at("2026-01-01T00:01:00")) // 60


def test_job_is_named_by_its_minute_and_starts_when_it_is_due() -> None:
    early = step(tick(), "2026-01-01T00:00:45")
    assert made(early) == ""
    assert early.again == pytest.approx(15.1)
    due = step(tick(timeZone="Europe/Berlin"), "2026-01-01T00:01:00")
    assert made(due) == f"tick-{MINUTE_1}"
    annotations = (due.create or {})["metadata"]["annotations"]
    assert annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] == "2026-01-01T01:01:00+01:00"


def test_of_missed_times_only_the_last_is_made_up_for() -> None:
    steps = step(tick(), "2026-01-01T03:00:10")
    assert made(steps) == f"tick-{MINUTE_1 + 179}"
    assert [note.reason for note in steps.notes] == ["TooManyMissedTimes"]


def test_time_that_is_too_long_ago_is_missed() -> None:
    steps = step(tick(schedule="0 * * * *", startingDeadlineSeconds=10), "2026-01-01T01:00:09")
    assert made(steps)
    late = step(tick(schedule="0 * * * *", startingDeadlineSeconds=10), "2026-01-01T01:00:30")
    assert made(late) == ""


def test_suspended_schedule_waits_for_a_change() -> None:
    assert step(tick(suspend=True), "2026-01-01T00:05:00") == Steps()


RUNNING = {"active": [{"name": "old", "uid": "old"}]}


@pytest.mark.parametrize(
    ("policy", "starts", "deleted", "left"),
    [("Allow", True, 0, 1), ("Forbid", False, 0, 1), ("Replace", True, 1, 0)],
)
def test_running_job(policy: str, starts: bool, deleted: int, left: int) -> None:
    steps = step(tick(RUNNING, concurrencyPolicy=policy), "2026-01-01T00:01:00", job("old"))
    assert (bool(steps.create), len(steps.delete), len(steps.active)) == (starts, deleted, left)


def test_finished_job_leaves_the_list_and_old_ones_leave_the_history() -> None:
    jobs = [job(f"j{n}", "Complete", f"2026-01-01T00:0{n}:00Z") for n in range(5)]
    active = {"active": [{"name": "j4", "uid": "j4"}]}
    steps = step(tick(active, suspend=True, successfulJobsHistoryLimit=3), "2026-01-01T00:05:00", *jobs)
    assert [each["metadata"]["name"] for each in steps.delete] == ["j0", "j1"]
    assert (steps.active, steps.succeeded) == ((), "2026-01-01T00:04:00Z")
    assert [note.message for note in steps.notes] == ["Saw completed job: j4, condition: Complete"]


async def test_job_that_was_started_before_a_crash_is_not_started_twice() -> None:
    api = FakeApi(tick())
    cron = api.now(Ref(CRON_JOB, "default", "tick")) or {}
    for _ in range(2):
        plan_ = await reconcile(cron, api, now=lambda: at("2026-01-01T00:01:00"))
        assert [each["name"] for each in plan_.status["active"]] == [f"tick-{MINUTE_1}"]
        assert plan_.status["lastScheduleTime"] == "2026-01-01T00:01:00Z"
    assert len(api.all(JOB)) == 1


# time to live


async def test_finished_job_goes_when_its_time_is_over() -> None:
    ended = {"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(1000)}
    spec = {"ttlSecondsAfterFinished": 60, "template": {"spec": {"restartPolicy": "Never", "containers": []}}}
    meta = {"name": "j", "namespace": "default"}
    done = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec, "status": {"conditions": [ended]}}
    api, ref = FakeApi(done), Ref(JOB, "default", "j")
    assert await ttl_after_finished.Reconciler(now=lambda: 1010.0)(ref, api) == 50.0
    assert await ttl_after_finished.Reconciler(now=lambda: 1061.0)(ref, api) is None
    assert ((api.now(ref) or {}).get("metadata") or {"deletionTimestamp": 1}).get("deletionTimestamp")
