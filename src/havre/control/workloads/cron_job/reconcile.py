"""The thin half of the CronJob controller: read, plan, carry out. See the folder's docstring.

reads   CronJob, Job
writes  Job, CronJob.status
wakes   on CronJob; Job; time
"""

from __future__ import annotations

import time
from collections.abc import Callable

from havre.api.errors import AlreadyExists, ApiError, NotFound
from havre.api.meta import GVK, Obj, name_of, namespace_of, rfc3339
from havre.control.workloads.cron_job.plan import Seen, Spec, Steps, plan, reference_to
from havre.control.workloads.dependents import MANAGER, Done, is_of_ending_namespace
from havre.control.workloads.job import JOB
from havre.control.workloads.pods import is_controlled_by
from havre.control.workloads.replicas import RETRY
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import by_controller

CRON_JOB = GVK("batch", "v1", "CronJob")


async def reconcile(cron_job: Obj, api: Api, *, now: Callable[[], float] = time.time) -> Plan:
    held = await look(api, JOB, namespace_of(cron_job))
    jobs = [job for job in held if is_controlled_by(job, cron_job) and not job["metadata"].get("deletionTimestamp")]
    steps = plan(cron_job, Spec.of(cron_job), Seen(jobs, now()))
    done = Done(notes=[*steps.notes])
    for job in steps.delete:
        await _delete(job, api, done)
    active, status = [*steps.active], {"lastSuccessfulTime": steps.succeeded}
    started = await _start(cron_job, steps, api, done)
    if started is not None and steps.scheduled is not None:
        active = [*(each for each in active if each["uid"] != started["metadata"]["uid"]), reference_to(started)]
        status["lastScheduleTime"] = rfc3339(steps.scheduled)
    return done.plan(steps.again, {**status, "active": active or None})


async def _start(cron_job: Obj, steps: Steps, api: Api, done: Done) -> Obj | None:
    """The Job, also if it was started before and this program ended before it could say so."""
    if steps.create is None or done.error is not None:
        return None
    try:
        job = await api.create(steps.create, manager=MANAGER)
    except AlreadyExists:
        live = await api.get(Ref.of(steps.create))
        return live if live is not None and is_controlled_by(live, cron_job) else None
    except ApiError as error:
        done.error = error
        if not is_of_ending_namespace(error):
            done.warn("FailedCreate", f"Error creating job: {error}")
        return None
    done.say("SuccessfulCreate", f"Created job {name_of(job)}")
    return job


async def _delete(job: Obj, api: Api, done: Done) -> None:
    try:
        await api.delete(Ref.of(job), uid=job["metadata"]["uid"], propagation="Background")
    except NotFound:
        return
    except ApiError as error:
        done.error = error
        done.warn("FailedDelete", f"Deleted job: {error}")
        return
    done.say("SuccessfulDelete", f"Deleted job {name_of(job)}")


def controller() -> Controller:
    return Controller(
        CRON_JOB,
        reconcile,
        wakes={JOB: by_controller(CRON_JOB)},
        manager=MANAGER,
        component="cronjob-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
