"""The thin half of the StatefulSet controller: read, plan, carry out. See the folder's docstring.

reads   StatefulSet, Pod, PersistentVolumeClaim, ControllerRevision
writes  Pod, PersistentVolumeClaim, ControllerRevision, StatefulSet.status
wakes   on StatefulSet; Pod; PersistentVolumeClaim
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from havre.api.errors import AlreadyExists, ApiError, NotFound
from havre.api.meta import GVK, Obj, controller_of, labels_of, name_of, namespace_of
from havre.control.workloads import controller_revision, dependents
from havre.control.workloads.controller_revision import CONTROLLER_REVISION, Collision, Revisions
from havre.control.workloads.dependents import MANAGER, Done, is_of_ending_namespace
from havre.control.workloads.pods import POD, next_available
from havre.control.workloads.replicas import RETRY
from havre.control.workloads.stateful_set.plan import Create, Delete, Fill, Label, Own, Seen, Spec, Step, plan
from havre.control.workloads.stateful_set.pods import identity, ordinal_of, revision_of
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.informer import look
from havre.machinery.owners import by_controller

STATEFUL_SET = GVK("apps", "v1", "StatefulSet")
CLAIM = GVK("", "v1", "PersistentVolumeClaim")
REVISION_LABEL = "controller.kubernetes.io/hash"


async def reconcile(set: Obj, api: Api, *, now: Callable[[], float] = time.time) -> Plan:
    spec, namespace = Spec.of(set), namespace_of(set)
    try:
        revisions = await controller_revision.revisions_of(set, REVISION_LABEL, api)
    except Collision as collision:
        count = (set.get("status") or {}).get("collisionCount") or 0
        return Plan(status={"collisionCount": count + 1}, failed=collision.error)
    mine = [pod for pod in await look(api, POD, namespace) if ordinal_of(set, pod) is not None]
    pods = await dependents.claim(set, LabelSelector.of(set["spec"]["selector"]), mine, api)
    claims = {name_of(each): each for each in await look(api, CLAIM, namespace)}
    seen = Seen(pods, claims, revisions, now())
    steps = plan(set, spec, seen)
    done = await _carry_out(set, steps.do, api)
    await _clean_up(spec, revisions, set, pods, api)
    return done.plan(next_available(pods, spec.min_ready, seen.now), steps.status)


async def _carry_out(set: Obj, steps: Iterable[Step], api: Api) -> Done:
    """One after the other; the first failure ends it."""
    done = Done()
    for step in steps:
        verb, pod = _verb(step), step.claim if isinstance(step, Own) else step.pod
        where = f"Pod {name_of(pod)} in StatefulSet {name_of(set)}"
        try:
            await _do(set, step, api, done)
        except NotFound:
            continue
        except ApiError as error:
            done.error = error
            if not is_of_ending_namespace(error):
                done.warn(f"Failed{verb.title()}", f"{verb} {where} failed error: {error}")
            return done
        if isinstance(step, (Create, Delete, Label)):
            done.say(f"Successful{verb.title()}", f"{verb} {where} successful")
    return done


def _verb(step: Step) -> str:
    return "create" if isinstance(step, (Create, Fill)) else "delete" if isinstance(step, Delete) else "update"


async def _do(set: Obj, step: Step, api: Api, done: Done) -> None:
    match step:
        case Create(pod, claims):
            await _fill(set, pod, claims, api, done)
            await api.create(pod, manager=MANAGER)
        case Fill(pod, claims):
            await _fill(set, pod, claims, api, done)
        case Delete(pod):
            await api.delete(Ref.of(pod), uid=pod["metadata"]["uid"])
        case Label(pod):
            labels = identity(name_of(pod), ordinal_of(set, pod) or 0)
            await _patch(pod, {"labels": labels}, api)
        case Own(claim, owners):
            await _patch(claim, {"ownerReferences": [*owners] or None}, api)


async def _fill(set: Obj, pod: Obj, claims: Sequence[Obj], api: Api, done: Done) -> None:
    for claim in claims:
        try:
            await api.create(claim, manager=MANAGER)
        except AlreadyExists:
            continue
        done.say(
            "SuccessfulCreate",
            f"create Claim {name_of(claim)} Pod {name_of(pod)} in StatefulSet {name_of(set)} success",
        )


async def _patch(obj: Obj, meta: Obj, api: Api) -> None:
    patch = {"metadata": {"uid": obj["metadata"]["uid"], **meta}}
    await api.patch(Ref.of(obj), patch, kind="merge", manager=MANAGER)


async def _clean_up(spec: Spec, revisions: Revisions, set: Obj, pods: Sequence[Obj], api: Api) -> None:
    used = {revision_of(pod) for pod in pods} | {(set.get("status") or {}).get("currentRevision", "")}
    await controller_revision.delete(controller_revision.surplus(revisions, spec.history, used), api)


def wanted_by(set: Obj, pod: Obj) -> bool:
    mine = controller_of(pod) is None and ordinal_of(set, pod) is not None
    return mine and LabelSelector.of(set["spec"]["selector"]).matches(labels_of(pod))


def uses(set: Obj, claim: Obj) -> bool:
    names = [template["metadata"]["name"] for template in set["spec"].get("volumeClaimTemplates") or ()]
    return any(name_of(claim).startswith(f"{name}-{name_of(set)}-") for name in names)


def controller() -> Controller:
    return Controller(
        STATEFUL_SET,
        reconcile,
        wakes={POD: by_controller(STATEFUL_SET), CONTROLLER_REVISION: by_controller(STATEFUL_SET)},
        selects={POD: wanted_by, CLAIM: uses},
        manager=MANAGER,
        component="statefulset-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
