"""The pods of this node: who works for which, and what wakes the workers.

The API's watch says which pods shall be here, the runtime's events that something changed in one; a relist every ten
seconds finds what an event did not tell. Whatever is left of a pod that the API no longer has (in the runtime, among
volumes, cgroups) gets a worker too, which removes it.

Source: k8s.io/kubernetes pkg/kubelet (pod_workers.go, pleg/generic.go, HandlePodCleanups).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from havre.api.meta import Obj
from havre.machinery.api import Api, Ref
from havre.machinery.informer import Handlers, Informer
from havre.node.agent.admit import refusal
from havre.node.agent.cri import Runtime, RuntimeFault
from havre.node.agent.node import NODE
from havre.node.agent.resources import burstable_shares
from havre.node.agent.specs import is_finished, uid_of
from havre.node.agent.status import Verdict
from havre.node.agent.worker import POD, Parts, Worker

log = logging.getLogger(__name__)

RELIST: Final = 10.0  # seconds
RECONNECT: Final = (0.5, 1.0, 2.0, 5.0)  # seconds before the runtime's events are asked for again
BROKEN: Final = 10.0  # seconds before a worker that met a bug of ours tries again

Listed = frozenset[tuple[str, bool | str]]  # ids of sandboxes and containers with their state


class Pods:
    """All methods belong to the thread of the event loop."""

    def __init__(self, api: Api, runtime: Runtime, node_name: str, node: Callable[[], Obj]) -> None:
        self._api = api
        self._runtime = runtime
        self._node_name = node_name
        self._node = node
        self._workers: dict[str, Worker] = {}
        self._group: asyncio.TaskGroup | None = None
        self._parts: Parts | None = None
        self._listed: dict[str, Listed] = {}
        self.informer = Informer(api, POD, fields=f"spec.nodeName={node_name}", name=f"pods of node {node_name}")
        self.informer.subscribe(Handlers(self._offer, lambda new, _: self._offer(new), self._gone))

    # for others

    def find(self, namespace: str, name: str) -> Obj | None:
        """The pod of this node by its name, with the newest status that we know."""
        found = self.informer.get(Ref(POD, namespace, name))
        return None if found is None else self._newest(found)

    def pods(self) -> list[Obj]:
        return [self._newest(pod) for pod in self.informer.list()]

    def _newest(self, pod: Obj) -> Obj:
        worker = self._workers.get(uid_of(pod))
        return worker.pod if worker is not None and worker.pod is not None else pod

    @property
    def uids(self) -> set[str]:
        """Pods that something may be left of."""
        return {*self._workers, *map(uid_of, self.informer.list())}

    def wake(self, uid: str) -> None:
        """Something changed in a pod; "": nobody knows in which."""
        if uid:
            worker = self._workers.get(uid)
            if worker is not None:
                worker.wake()
            return
        for worker in self._workers.values():
            worker.wake()

    async def refuse(self, pod: Obj) -> Verdict | None:
        """Whether the pod fits beside those that the node has taken. Raises ApiError."""
        if refusal(pod, self._node(), self._taken()) is None:
            return None
        # somebody may have labelled the node after we last read it, and the scheduler knew
        node = await self._api.get(Ref(NODE, "", self._node_name))
        return refusal(pod, node or self._node(), self._taken())

    def _taken(self) -> list[Obj]:
        return [
            worker.pod
            for worker in self._workers.values()
            if worker.admitted and worker.pod is not None and not is_finished(worker.pod)
        ]

    # the loop

    async def run(self, parts: Parts) -> None:
        """For ever; stopping it leaves every pod as it is, and it may be run again."""
        self._parts = parts
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for pod in self.informer.list():
                    self._offer(pod)
                group.create_task(self.informer.run(), name="pods of this node")
                group.create_task(self._listen(), name="events of the runtime")
                await self.informer.synced.wait()
                await self._look_around(parts)
        finally:
            self._parts = self._group = None
            self._workers.clear()
            self._listed = {}

    async def _look_around(self, parts: Parts) -> None:
        while True:
            try:
                await self._relist()
                await asyncio.to_thread(parts.cgroups.share, burstable_shares(self._taken()))
            except (RuntimeFault, OSError) as error:  # what was looked at went away meanwhile
                log.warning("could not look at what runs; will try again", extra={"error": str(error)})
            await asyncio.sleep(RELIST)

    def _offer(self, pod: Obj) -> None:
        if self._group is None:
            return
        uid = uid_of(pod)
        worker = self._workers.get(uid)
        if worker is None:
            self._begin(uid, pod)
        else:
            worker.offer(pod)

    def _gone(self, pod: Obj) -> None:
        worker = self._workers.get(uid_of(pod))
        if worker is not None:
            worker.offer(None)

    def _begin(self, uid: str, pod: Obj | None) -> None:
        assert self._parts is not None, "only while `run` does"
        assert self._group is not None
        worker = self._workers[uid] = Worker(self._parts, uid, pod)
        self._group.create_task(self._work(worker), name=f"pod {uid}")

    async def _work(self, worker: Worker) -> None:
        while not worker.over:
            try:
                await worker.run()
            except Exception:  # one pod's misfortune must not stop the others
                log.exception("a pod's worker failed; will begin again", extra={"uid": worker.uid})
                await asyncio.sleep(BROKEN)
        if self._workers.get(worker.uid) is worker:
            del self._workers[worker.uid]

    # the runtime

    async def _listen(self) -> None:
        """Wake by the runtime's events; after the line was lost something may have been missed."""
        failures = 0
        while True:
            try:
                async for uid in self._runtime.events():
                    failures = 0
                    self.wake(uid)
            except RuntimeFault as fault:
                log.info("the runtime's events ended", extra={"error": str(fault)})
            await asyncio.sleep(RECONNECT[min(failures, len(RECONNECT) - 1)])
            failures += 1
            self.wake("")

    async def _relist(self) -> None:
        """Wake those whose sandboxes or containers differ from the last list; find what nobody works for."""
        listed = await self._list()
        for uid in [uid for uid in {*listed, *self._listed} if listed.get(uid) != self._listed.get(uid)]:
            self.wake(uid)
        self._listed = listed
        await self._find_leftovers(set(listed))

    async def _list(self) -> dict[str, Listed]:
        sandboxes, containers = await asyncio.gather(self._runtime.sandboxes(), self._runtime.containers())
        found: defaultdict[str, set[tuple[str, bool | str]]] = defaultdict(set)
        for sandbox in sandboxes:
            found[sandbox.uid].add((sandbox.id, sandbox.ready))
        for container in containers:
            found[container.uid].add((container.id, container.state.value))
        return {uid: frozenset(states) for uid, states in found.items() if uid}

    async def _find_leftovers(self, uids: set[str]) -> None:
        parts = self._parts
        assert parts is not None
        uids |= await parts.giver.leftovers()
        uids |= await asyncio.to_thread(parts.cgroups.uids)
        for uid in uids - self.uids:
            log.info("something is left of a pod that is gone; removing it", extra={"uid": uid})
            self._begin(uid, None)

    @property
    def workers(self) -> Mapping[str, Worker]:
        return self._workers
