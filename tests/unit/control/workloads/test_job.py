"""Jobs: indexes, policies, limits; and whole Jobs over the real API in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.meta import GVK, Obj, rfc3339
from havre.control.workloads import job
from havre.control.workloads.job import JOB, indexes, policy
from havre.control.workloads.job.plan import Seen, Spec, Steps, plan
from havre.control.workloads.job.pods import FAILURES, FINALIZER, INDEX, left_after
from havre.control.workloads.job.reconcile import free_orphan
from havre.machinery import controller
from havre.machinery.api import Ref
from havre.testing import FakeApi, eventually

pytestmark = pytest.mark.looptime

POD, EVENT = GVK("", "v1", "Pod"), GVK("", "v1", "Event")
NOW = 1_800_000_000.0
WORK = Ref(JOB, "default", "work")


def work(status: Obj | None = None, **spec: Any) -> Obj:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    body = {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": template, **spec}
    meta = {"name": "work", "namespace": "default", "uid": "j"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": body, "status": status or {}}


def pod(name: str, phase: str = "Running", *, index: int | None = None, tracked: bool = True, **meta: Any) -> Obj:
    annotations = {} if index is None else {INDEX: str(index)}
    made = {"name": name, "uid": name, "namespace": "default", "creationTimestamp": rfc3339(NOW - 1000)}
    finalizers = [FINALIZER] if tracked else []
    annotations |= meta.pop("annotations", {})
    return {
        "metadata": {**made, "annotations": annotations, "finalizers": finalizers, **meta},
        "spec": {},
        "status": {"phase": phase},
    }


def step(obj: Obj, *pods: Obj) -> Steps:
    return plan(obj, Spec.of(obj), Seen(pods, NOW))


def said(steps: Steps) -> list[tuple[str, str]]:
    return [(each["type"], each["reason"]) for each in steps.status["conditions"] or ()]


# counting


@given(st.sets(st.integers(0, 60)))
def test_indexes_survive_being_written_and_read(found: set[int]) -> None:
    assert indexes.parse(indexes.write(found), 61) == found


@pytest.mark.parametrize(("found", "text"), [({1}, "1"), ({1, 2}, "1,2"), ({1, 2, 3, 7}, "1-3,7"), (set(), "")])
def test_indexes_are_written_as_upstream_writes_them(found: set[int], text: str) -> None:
    assert indexes.write(found) == text


@given(st.text(alphabet="0123456789,-x", max_size=20))
def test_unreadable_indexes_are_left_out_and_never_too_large(text: str) -> None:
    assert all(0 <= index < 10 for index in indexes.parse(text, 10))


def test_end_is_listed_first_then_the_pod_is_free_then_it_is_a_number() -> None:
    first = step(work(), pod("a", "Succeeded"))
    assert first.status["uncountedTerminatedPods"] == {"succeeded": ["a"], "failed": None}
    assert (first.free, first.status["succeeded"]) == ((), None)
    listed = work({"uncountedTerminatedPods": {"succeeded": ["a"]}})
    assert [each["metadata"]["name"] for each in step(listed, pod("a", "Succeeded")).free] == ["a"]
    last = step(listed, pod("a", "Succeeded", tracked=False))
    assert last.status["succeeded"] == 1
    assert last.status["uncountedTerminatedPods"] == {"succeeded": None, "failed": None}


def test_pod_that_vanished_after_it_was_listed_is_counted_once() -> None:
    again = step(work({"uncountedTerminatedPods": {"failed": ["a"]}, "failed": 1}))
    assert again.status["failed"] == 2


def test_success_is_announced_before_it_is_declared() -> None:
    met = step(work(), pod("a", "Succeeded"))
    assert said(met) == [("SuccessCriteriaMet", "CompletionsReached")]
    done = step(work({"succeeded": 1, "conditions": met.status["conditions"]}))
    assert said(done) == [("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]
    assert done.status["completionTime"] == rfc3339(NOW)


def test_failure_waits_for_the_last_pod_to_end() -> None:
    failing = work(backoffLimit=0)
    first = step(failing, pod("a", "Failed"), pod("b"))
    assert (said(first), [p["metadata"]["name"] for p in first.delete]) == (
        [("FailureTarget", "BackoffLimitExceeded")],
        ["b"],
    )
    failing["status"] = {"failed": 1, "conditions": first.status["conditions"]}
    leaving = pod("b", deletionTimestamp=rfc3339(NOW))
    assert said(step(failing, leaving)) == [("FailureTarget", "BackoffLimitExceeded")]
    assert said(step(failing))[-1] == ("Failed", "BackoffLimitExceeded")


def test_deadline_ends_the_job_and_is_awaited() -> None:
    young = work({"startTime": rfc3339(NOW - 20)}, activeDeadlineSeconds=30)
    assert step(young, pod("a")).again == 10.0
    late = work({"startTime": rfc3339(NOW - 31)}, activeDeadlineSeconds=30)
    assert said(step(late, pod("a"))) == [("FailureTarget", "DeadlineExceeded")]


def test_suspended_job_has_no_pods_and_starts_its_clock_anew() -> None:
    held = step(work(suspend=True), pod("a"))
    assert (len(held.delete), said(held), held.status["startTime"]) == (1, [("Suspended", "JobSuspended")], None)
    resumed = step(work({"conditions": held.status["conditions"], "startTime": rfc3339(NOW - 99)}))
    assert (said(resumed), resumed.status["startTime"]) == ([("Suspended", "JobResumed")], rfc3339(NOW))


def test_failed_pod_is_replaced_after_its_back_off() -> None:
    ended = {"state": {"terminated": {"exitCode": 1, "finishedAt": rfc3339(NOW - 4)}}}
    failed = pod("a", "Failed", tracked=False)
    failed["status"]["containerStatuses"] = [ended]
    waiting = step(work({"failed": 1}), failed)
    assert (waiting.create, waiting.again) == ((), 6.0)


@pytest.mark.parametrize(("failures", "left"), [(0, 0), (1, 10), (2, 20), (3, 40), (20, 600)])
def test_back_off_doubles_up_to_ten_minutes(failures: int, left: float) -> None:
    assert left_after(failures, NOW, NOW) == left


# indexes


def test_indexed_pods_know_their_number() -> None:
    steps = step(work(completions=3, parallelism=2, completionMode="Indexed"), pod("a", index=0))
    (made,) = steps.create
    assert made["metadata"]["generateName"] == "work-1-"
    assert (made["metadata"]["annotations"][INDEX], made["metadata"]["labels"][INDEX]) == ("1", "1")
    assert made["spec"]["hostname"] == "work-1"
    assert made["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"


def test_second_pod_of_an_index_goes() -> None:
    obj = work(completions=2, parallelism=2, completionMode="Indexed")
    steps = step(obj, pod("a", index=0), pod("b", "Pending", index=0), pod("c", index=1))
    assert [each["metadata"]["name"] for each in steps.delete] == ["b"]


def test_index_that_has_failed_too_often_ends_the_job_when_the_others_are_done() -> None:
    obj = work(completions=2, parallelism=2, completionMode="Indexed", backoffLimitPerIndex=0)
    steps = step(obj, pod("a", "Failed", index=0), pod("b", "Succeeded", index=1))
    assert said(steps) == [("FailureTarget", "FailedIndexes")]
    assert (steps.status["failedIndexes"], steps.status["completedIndexes"]) == ("0", "1")


def test_replacement_of_an_index_inherits_its_failures() -> None:
    obj = work(completions=1, completionMode="Indexed", backoffLimitPerIndex=3)
    steps = step(obj, pod("a", "Failed", index=0, annotations={FAILURES: "1"}))
    assert steps.create[0]["metadata"]["annotations"][FAILURES] == "2"
    assert steps.free == ()


# policies


def exits(code: int) -> Obj:
    failed = pod("a", "Failed")
    failed["status"]["containerStatuses"] = [{"name": "c", "state": {"terminated": {"exitCode": code}}}]
    return failed


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("Ignore", policy.Failure(counts=False)),
        ("Count", policy.Failure()),
        ("FailIndex", policy.Failure(fails_index=True)),
        (
            "FailJob",
            policy.Failure(
                message="Container c for pod default/a failed with exit code 42 matching FailJob rule at index 0"
            ),
        ),
    ],
)
def test_rule_decides_what_a_failure_means(action: str, expected: policy.Failure) -> None:
    rule = {"action": action, "onExitCodes": {"operator": "In", "values": [42]}}
    assert policy.failure_of([rule], exits(42)) == expected
    assert policy.failure_of([rule], exits(1)) == policy.Failure()


def test_ignored_failure_is_freed_and_not_counted() -> None:
    rules = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}
    failed = pod("a", "Failed")
    failed["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    steps = step(work(podFailurePolicy=rules, backoffLimit=0), failed)
    assert (len(steps.free), said(steps)) == (1, [])


@pytest.mark.parametrize(
    ("rule", "met"),
    [
        ({"succeededIndexes": "0,2"}, True),
        ({"succeededIndexes": "0-3"}, False),
        ({"succeededIndexes": "0-3", "succeededCount": 2}, True),
        ({"succeededCount": 3}, False),
    ],
)
def test_success_rule(rule: Obj, met: bool) -> None:
    assert policy.enough([rule], {0, 2}, 5) == ("Matched rules at index 0" if met else None)


# whole Jobs


@asynccontextmanager
async def at_work(api: FakeApi) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run([job.controller()], api))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def status(api: FakeApi) -> Obj:
    return (api.now(WORK) or {}).get("status") or {}


async def end(api: FakeApi, phase: str) -> None:
    for each in api.all(POD):
        if each["status"]["phase"] == "Pending":
            await api.patch(Ref.of(each), {"status": {"phase": phase}}, subresource="status")


async def test_job_runs_to_its_end_and_lets_its_pods_go() -> None:
    api = FakeApi()
    async with at_work(api):
        obj = work(completions=3, parallelism=2)
        del obj["metadata"]["uid"]
        await api.create(obj)
        for running in (2, 1):
            await eventually(lambda n=running: status(api).get("active") == n)  # type: ignore[misc]
            await end(api, "Succeeded")
        await eventually(lambda: [c["type"] for c in status(api).get("conditions", ())][-1:] == ["Complete"])
        await eventually(lambda: not any(p["metadata"].get("finalizers") for p in api.all(POD)))
    assert (status(api)["succeeded"], len(api.all(POD))) == (3, 3)
    assert status(api)["uncountedTerminatedPods"] == {}
    assert [e["message"] for e in api.all(EVENT) if e["reason"] == "Completed"] == ["Job completed"]


async def test_many_stops_and_starts_count_every_pod_once() -> None:
    api = FakeApi()
    obj = work(completions=6, parallelism=3)
    del obj["metadata"]["uid"]
    await api.create(obj)
    for _ in range(200):  # a new controller for every few turns of the loop: nothing is kept in memory
        async with at_work(api):
            await asyncio.sleep(0.003)
            await end(api, "Succeeded")
        if any(c["type"] == "Complete" for c in status(api).get("conditions") or ()):
            break
    assert (status(api)["succeeded"], len(api.all(POD))) == (6, 6)


async def test_pod_without_a_job_is_freed() -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "gone", "uid": "g", "controller": True}
    lost = pod("a", deletionTimestamp=rfc3339(NOW), ownerReferences=[owner])
    lost |= {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i"}]}}
    api = FakeApi(lost)
    await free_orphan(Ref(POD, "default", "a"), api)
    assert "finalizers" not in ((api.now(Ref(POD, "default", "a")) or {"metadata": {}})["metadata"])
