"""The thin half of the Job controller: read, plan, carry out. See the folder's docstring.

reads   Job, Pod
writes  Pod, Job.status
wakes   on Job; Pod
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from havre.api.errors import Invalid, NotFound
from havre.api.meta import GVK, Obj, controller_of, labels_of
from havre.control.workloads import dependents
from havre.control.workloads.chore import Change, Chore
from havre.control.workloads.dependents import MANAGER, Done
from havre.control.workloads.job.plan import Seen, Spec, is_over, plan
from havre.control.workloads.job.pods import FINALIZER, is_tracked
from havre.control.workloads.pods import POD, is_leaving
from havre.control.workloads.replicas import RETRY
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import by_controller

JOB = GVK("batch", "v1", "Job")
_OURS = "kubernetes.io/job-controller"


async def reconcile(job: Obj, api: Api, *, now: Callable[[], float] = time.time) -> Plan:
    if job["spec"].get("managedBy", _OURS) != _OURS:
        return Plan()
    selector = LabelSelector.of(job["spec"].get("selector"))
    held = await look(api, POD, job["metadata"]["namespace"])
    pods = await dependents.claim(job, selector, held, api, finalizers=(FINALIZER,))
    steps = plan(job, Spec.of(job), Seen(pods, now()))
    done = Done()
    await dependents.delete_pods(steps.delete, api, done)
    await dependents.create_slowly(steps.create, api, done)
    await asyncio.gather(*(free(pod, api) for pod in steps.free))
    if done.error is not None:  # the status would tell of pods that are not so
        return Plan(notes=tuple(done.notes), failed=done.error)
    return Plan(status=steps.status, notes=(*done.notes, *steps.notes), again=steps.again)


async def free(pod: Obj, api: Api) -> None:
    meta = {"uid": pod["metadata"]["uid"], "$deleteFromPrimitiveList/finalizers": [FINALIZER]}
    try:
        await api.patch(Ref.of(pod), {"metadata": meta}, kind="strategic", manager=MANAGER)
    except (NotFound, Invalid):
        return


def wanted_by(job: Obj, pod: Obj) -> bool:
    return controller_of(pod) is None and LabelSelector.of(job["spec"].get("selector")).matches(labels_of(pod))


def controller() -> Controller:
    return Controller(
        JOB,
        reconcile,
        wakes={POD: by_controller(JOB)},
        selects={POD: wanted_by},
        manager=MANAGER,
        component="job-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )


# pods whose Job counts them no more


async def free_orphan(ref: Ref, api: Api) -> None:
    pod = await api.get(ref)
    if pod is None or not is_tracked(pod):
        return
    owner = controller_of(pod)
    if owner is not None:
        if owner["kind"] != JOB.kind or GVK.of(owner).group != JOB.group:
            return
        job = await api.get(Ref(JOB, ref.namespace, owner["name"]))
        if job is not None and job["metadata"]["uid"] == owner["uid"] and not _lets_go(job):
            return
    await free(pod, api)


def _lets_go(job: Obj) -> bool:
    return is_over(job) or is_leaving(job)


def wakes(change: Change) -> Iterable[Ref]:
    pod = change.obj
    if change.kind.gvk == POD and pod is not None and is_tracked(pod) and (is_leaving(pod) or not controller_of(pod)):
        yield change.node.ref


def chore() -> Chore:
    return Chore("job-finalizer", free_orphan, wakes)
