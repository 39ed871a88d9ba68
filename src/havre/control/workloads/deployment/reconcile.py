"""The thin half of the Deployment controller: read, plan, carry out. See the folder's docstring.

reads   Deployment, ReplicaSet, Pod
writes  ReplicaSet, Deployment.status
wakes   on Deployment; ReplicaSet; Pod
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from havre.api.errors import AlreadyExists, ApiError, NotFound
from havre.api.meta import GVK, Obj, controller_of, labels_of
from havre.control.workloads import dependents
from havre.control.workloads.dependents import MANAGER, is_of_ending_namespace
from havre.control.workloads.deployment import progress
from havre.control.workloads.deployment.plan import Change, Seen, Steps, plan
from havre.control.workloads.deployment.sets import Set, Spec
from havre.control.workloads.pods import POD, is_controlled_by, is_finished
from havre.control.workloads.replica_set import REPLICA_SET
from havre.control.workloads.replicas import RETRY
from havre.control.workloads.template_hash import same_template
from havre.lang.selector import LabelSelector
from havre.machinery.api import Api, Ref
from havre.machinery.controller import Controller, Plan
from havre.machinery.events import Note
from havre.machinery.informer import look
from havre.machinery.owners import adopted, by_controller

DEPLOYMENT = GVK("apps", "v1", "Deployment")


async def reconcile(deployment: Obj, api: Api, *, now: Callable[[], float] = time.time) -> Plan:
    spec, namespace = Spec.of(deployment), deployment["metadata"]["namespace"]
    held = await look(api, REPLICA_SET, namespace)
    mine = await dependents.claim(deployment, LabelSelector.of(spec.selector), held, api)
    old_pods_run = spec.recreate and _run_old(spec, mine, await look(api, POD, namespace))
    todo = plan(deployment, spec, Seen([Set.of(each) for each in mine], old_pods_run, now()))
    return await _carry_out(deployment, spec, todo, api, now())


def _run_old(spec: Spec, sets: Sequence[Obj], pods: Iterable[Obj]) -> bool:
    """Also while they are being deleted: that is what Recreate waits for."""
    old = {each["metadata"]["uid"] for each in sets if not same_template(each["spec"]["template"], spec.template)}
    return any((controller_of(pod) or {}).get("uid") in old and not is_finished(pod) for pod in pods)


async def _carry_out(deployment: Obj, spec: Spec, todo: Steps, api: Api, now: float) -> Plan:
    if todo.create is not None:
        problem = await _create(deployment, spec, todo.create, api, now)
        if problem is not None:
            return problem
    namespace = deployment["metadata"]["namespace"]
    for change in todo.change:
        await _change(change, namespace, api)
    for each in todo.delete:
        await _delete(each, namespace, api)
    return Plan(status=todo.status, annotations=todo.annotations, notes=todo.notes, again=todo.again)


async def _create(deployment: Obj, spec: Spec, obj: Obj, api: Api, now: float) -> Plan | None:
    """None: it is there."""
    try:
        await api.create(adopted(obj, deployment), manager=MANAGER)
    except AlreadyExists as error:
        live = await api.get(Ref.of(obj))
        if live and is_controlled_by(live, deployment) and same_template(live["spec"]["template"], spec.template):
            return None
        count = (deployment.get("status") or {}).get("collisionCount", 0) + 1
        return Plan(status={"collisionCount": count}, failed=error)
    except ApiError as error:
        return Plan(failed=error) if is_of_ending_namespace(error) else _not_created(deployment, spec, obj, error, now)
    return None


def _not_created(deployment: Obj, spec: Spec, obj: Obj, error: ApiError, now: float) -> Plan:
    message = f'Failed to create new replica set "{obj["metadata"]["name"]}": {error}'
    said = progress.said_of(deployment, now)
    if spec.deadline is not None:
        said.say(progress.PROGRESSING, "False", progress.NOT_CREATED, message)
    note = Note(progress.NOT_CREATED, message, "Warning")
    return Plan(status={"conditions": said.held}, notes=(note,), failed=error)


async def _change(change: Change, namespace: str, api: Api) -> None:
    patch = {**change.patch, "metadata": {**change.patch.get("metadata", {}), "uid": change.uid}}
    try:
        await api.patch(Ref(REPLICA_SET, namespace, change.name), patch, kind="merge", manager=MANAGER)
    except NotFound:
        return  # its end wakes us


async def _delete(each: Set, namespace: str, api: Api) -> None:
    try:
        await api.delete(Ref(REPLICA_SET, namespace, each.name), uid=each.uid, propagation="Background")
    except NotFound:
        return


def _selects(deployment: Obj, changed: Obj) -> bool:
    return LabelSelector.of(deployment["spec"]["selector"]).matches(labels_of(changed))


def _may_adopt(deployment: Obj, replica_set: Obj) -> bool:
    return controller_of(replica_set) is None and _selects(deployment, replica_set)


def _waits_for(deployment: Obj, pod: Obj) -> bool:
    recreate = (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"
    return recreate and _selects(deployment, pod)


def controller() -> Controller:
    return Controller(
        DEPLOYMENT,
        reconcile,
        wakes={REPLICA_SET: by_controller(DEPLOYMENT)},
        selects={REPLICA_SET: _may_adopt, POD: _waits_for},
        manager=MANAGER,
        component="deployment-controller",
        words=None,
        suspendable=False,
        cached=True,
        base=RETRY,
    )
