"""The scheduler's loop: it hears of pods and nodes, decides one pod at a time, and writes what it decided.

reads   Pod, Node, Namespace, PersistentVolumeClaim, PersistentVolume, StorageClass, PodDisruptionBudget
writes  Binding; Pod.status (PodScheduled, nominatedNodeName, DisruptionTarget of victims); Pods (delete, for room);
        the annotation of the selected node on claims; events
wakes   on a Pod without a node; what may help a waiting one: nodes, ended pods, claims, labels of pods
source  k8s.io/kubernetes, pkg/scheduler (schedule_one.go, eventhandlers.go)

A decision is made without a pause, so that it sees one state, and the pod counts on its node from then on (`assume`);
the writing goes on beside the next decision.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from havre.api.errors import ApiError, NotFound
from havre.api.meta import GVK, Obj, labels_of, rfc3339
from havre.control.scheduler import affinity, preempt, volumes
from havre.control.scheduler.cluster import Cluster, Node, Pod
from havre.control.scheduler.filter import FILTERS, Verdict, judge
from havre.control.scheduler.preempt import Choice
from havre.control.scheduler.queue import Entry, PodQueue
from havre.control.scheduler.score import best
from havre.control.scheduler.volumes import Claims
from havre.machinery.api import Api, Ref
from havre.machinery.conditions import shortened
from havre.machinery.events import Note, Recorder
from havre.machinery.informer import Handlers, Informer, SharedInformers

log = logging.getLogger(__name__)

NAME = "default-scheduler"
POD, NODE, NAMESPACE = (GVK("", "v1", kind) for kind in ("Pod", "Node", "Namespace"))
BUDGET = GVK("policy", "v1", "PodDisruptionBudget")
BINDING = GVK("", "v1", "Binding")
_NOTE_BYTES = 1024
_ALL_FILTERS = len(FILTERS) - 2  # where the filter of volumes stands: before those that look at other pods


async def run(api: Api) -> None:
    """Schedule for ever."""
    async with asyncio.TaskGroup() as group:
        informers = SharedInformers(api, group)
        scheduler = Scheduler(api, informers, group)
        await informers.synced()
        await scheduler.run()


class Scheduler:
    """What it knows, and what it does with the next pod."""

    def __init__(
        self, api: Api, informers: SharedInformers, group: asyncio.TaskGroup, clock: Callable[[], float] = time.time
    ) -> None:
        self.cluster = Cluster()
        self.queue = PodQueue()
        self._api, self._group, self._clock = api, group, clock
        self._recorder = Recorder(api, NAME, clock)
        self._found: dict[GVK, Informer] = {gvk: informers.of(gvk) for gvk in (volumes.CLAIM, volumes.VOLUME)}
        self._found[volumes.CLASS] = informers.of(volumes.CLASS)
        self._budgets = informers.of(BUDGET)
        informers.of(NODE).subscribe(Handlers(self._node, lambda new, _: self._node(new), self._node_gone))
        informers.of(NAMESPACE).subscribe(Handlers(self._namespace, lambda new, _: self._namespace(new)))
        informers.of(POD).subscribe(Handlers(self._pod, self._pod_changed, self._pod_gone))
        for each in self._found.values():
            each.subscribe(Handlers(self._stir, lambda new, _: self._stir(new), self._stir))

    async def run(self) -> None:
        while True:
            entry = await self.queue.next()
            try:
                self._decide(entry)
            except Exception:  # a pod that cannot be read must not stop the others
                log.exception("cannot schedule", extra={"pod": str(entry.pod.ref)})
                self.queue.refuse(entry)
            await asyncio.sleep(0)

    # what it hears

    def _node(self, obj: Obj) -> None:
        if self.cluster.node(obj["metadata"]["name"]).describe(obj):
            self.queue.stir_all()

    def _node_gone(self, obj: Obj) -> None:
        self.cluster.forget_node(obj["metadata"]["name"])

    def _namespace(self, obj: Obj) -> None:
        self.cluster.namespaces[obj["metadata"]["name"]] = labels_of(obj)

    def _stir(self, _obj: Obj) -> None:
        self.queue.stir_all()

    def _pod(self, obj: Obj) -> None:
        uid, spec = obj["metadata"]["uid"], obj.get("spec") or {}
        if is_finished(obj):
            self._pod_gone(obj)
        elif spec.get("nodeName"):
            self.queue.drop(uid)
            self.cluster.put(Pod.of(obj))
            self._stir_neighbours()
        elif wants_us(obj):
            self.queue.put(Pod.of(obj))
        else:
            self.queue.drop(uid)

    def _pod_changed(self, new: Obj, old: Obj) -> None:
        """Most changes are of the status of running pods, and say nothing new."""
        uid, bound = new["metadata"]["uid"], bool((old.get("spec") or {}).get("nodeName"))
        same = new.get("spec") == old.get("spec") and labels_of(new) == labels_of(old)
        leaving = bool(new["metadata"].get("deletionTimestamp"))
        if bound and same and not leaving and not is_finished(new) and self.cluster.has(uid):
            return
        self._pod(new)
        entry = self.queue.get(uid)
        if entry is not None and not same:
            self.queue.stir(entry)
        elif bound and not same:  # smaller, or with other labels
            self.queue.stir_all()

    def _pod_gone(self, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]
        self.queue.drop(uid)
        if self.cluster.drop(uid):
            self.queue.stir_all()

    def _stir_neighbours(self) -> None:
        """One more pod somewhere helps only those that look for company."""
        for entry in self.queue.waiting():
            if affinity.terms_of(entry.pod, "podAffinity") or affinity.constraints_of(entry.pod):
                self.queue.stir(entry)

    # what it decides

    def _decide(self, entry: Entry) -> None:
        pod = entry.pod
        claims = volumes.claims_of(pod, self._find)
        filters = (*FILTERS[:_ALL_FILTERS], volumes.filter_of(claims), *FILTERS[_ALL_FILTERS:])
        world = self._with_nominated(pod)
        stuck = Verdict((), {}, len(world.nodes), claims.problem)
        verdict = stuck if claims.problem else judge(pod, world, filters)
        if verdict.fit:
            self._take(entry, best(pod, verdict.fit, world.nodes), claims)
            return
        choice = preempt.choose(pod, verdict, self.cluster, filters, self._budgets.list())
        words = [verdict.message(), *([choice] if isinstance(choice, str) and choice else [])]
        room = choice if isinstance(choice, Choice) else None
        self._group.create_task(self._refuse(entry, " ".join(words), room))

    def _find(self, ref: Ref) -> Obj | None:
        return self._found[ref.gvk].get(ref)

    def _with_nominated(self, pod: Pod) -> Cluster:
        """As if pods for which room was made were there already, unless this one is more important."""
        world = self.cluster
        for other in self.queue.nominated():
            node = world.by_name.get(other.nominated)
            if node is not None and other.uid != pod.uid and other.priority >= pod.priority:
                tried = node.copy()
                tried.add(other)
                world = world.with_node(tried)
        return world

    def _take(self, entry: Entry, node: Node, claims: Claims) -> None:
        if claims.delayed:
            self._group.create_task(self._select(entry, node.name, claims))
            return
        self.cluster.assume(entry.pod, node.name)
        self._group.create_task(self._bind(entry, node.name))

    # what it writes

    async def _bind(self, entry: Entry, node: str) -> None:
        pod = entry.pod
        try:
            await self._api.create(binding(pod, node), manager=NAME)
        except ApiError as error:
            self.cluster.give_up(pod.uid)
            self.queue.refuse(entry, retry=True)
            if not isinstance(error, NotFound):
                await self._tell(entry, "SchedulerError", f"binding rejected: {error}")
            return
        self.queue.drop(pod.uid)
        note = Note("Scheduled", f"Successfully assigned {pod.namespace}/{pod.ref.name} to {node}")
        await self._recorder.record(pod.obj, note)

    async def _select(self, entry: Entry, node: str, claims: Claims) -> None:
        """Tell the provisioner where; the claim's change brings us back."""
        patch = {"metadata": {"annotations": {volumes.SELECTED: node}}}
        try:
            for claim in claims.delayed:
                await self._api.patch(Ref.of(claim), patch, kind="merge", manager=NAME)
        except ApiError as error:
            log.info("cannot select a node for a claim", extra={"pod": str(entry.pod.ref), "error": str(error)})
            self.queue.refuse(entry, retry=True)
            return
        self.queue.refuse(entry)

    async def _refuse(self, entry: Entry, message: str, room: Choice | None) -> None:
        if room is not None:
            await self._make_room(entry, room)
        await self._tell(entry, "Unschedulable", message, nominated=room.node.name if room else "")
        self.queue.refuse(entry)

    async def _make_room(self, entry: Entry, room: Choice) -> None:
        for victim in room.victims:
            note = Note("Preempted", f"Preempted by pod {entry.pod.uid} on node {room.node.name}")
            try:
                await self._patch_status(victim, _disruption(victim, rfc3339(self._clock())))
                await self._api.delete(victim.ref, uid=victim.uid)
            except ApiError as error:
                log.info("cannot make room", extra={"victim": str(victim.ref), "error": str(error)})
            else:
                await self._recorder.record(victim.obj, note)

    async def _tell(self, entry: Entry, reason: str, message: str, nominated: str = "") -> None:
        pod = entry.pod
        note = Note("FailedScheduling", shortened(message, _NOTE_BYTES), "Warning")
        await self._recorder.record(pod.obj, note)
        status = unscheduled(pod, reason, message, rfc3339(self._clock()), nominated)
        try:
            await self._patch_status(pod, status)
        except ApiError as error:
            log.info("cannot tell why a pod waits", extra={"pod": str(pod.ref), "error": str(error)})

    async def _patch_status(self, pod: Pod, status: Obj) -> None:
        if status:
            patch = {"metadata": {"uid": pod.uid}, "status": status}
            await self._api.patch(pod.ref, patch, kind="strategic", manager=NAME, subresource="status")


def is_finished(obj: Obj) -> bool:
    return (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def wants_us(obj: Obj) -> bool:
    """It has no node, stays, names this scheduler and nobody holds it back."""
    spec = obj.get("spec") or {}
    ours = spec.get("schedulerName", NAME) == NAME
    return ours and not spec.get("schedulingGates") and not obj["metadata"].get("deletionTimestamp")


def binding(pod: Pod, node: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.ref.name, "namespace": pod.namespace, "uid": pod.uid},
        "target": {"kind": "Node", "name": node},
    }


def unscheduled(pod: Pod, reason: str, message: str, now: str, nominated: str) -> Obj:
    """What of the status has to change; {} when it says so already."""
    status = pod.obj.get("status") or {}
    new = _condition(pod, "PodScheduled", "False", reason, message, now)
    held: Obj = next((c for c in status.get("conditions") or () if c["type"] == new["type"]), {})
    changed: Obj = {}
    if any(held.get(key) != new.get(key) for key in ("status", "reason", "message", "observedGeneration")):
        since = held["lastTransitionTime"] if held.get("status") == new["status"] else now
        changed["conditions"] = [{**new, "lastTransitionTime": since}]
    if nominated and status.get("nominatedNodeName") != nominated:
        changed["nominatedNodeName"] = nominated
    return changed


def _disruption(victim: Pod, now: str) -> Obj:
    message = f"{NAME}: preempting to accommodate a higher priority pod"
    return {"conditions": [_condition(victim, preempt.TARGET, "True", preempt.BY_SCHEDULER, message, now)]}


def _condition(pod: Pod, type: str, status: str, reason: str, message: str, now: str) -> Obj:
    return {
        "type": type,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": None,
        "lastTransitionTime": now,
        "observedGeneration": pod.obj["metadata"].get("generation"),
    }
