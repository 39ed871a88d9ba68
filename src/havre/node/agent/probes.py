"""Probing running containers: a task per probe, its thresholds, and the results that decide readiness and restarts.

A start-up probe comes first and alone; when it has succeeded, liveness and readiness begin. A result wakes the pod's
worker, which acts on it. After a restart of the agent a container is as ready as the API says of that same instance
until its probes say otherwise, so readiness does not flap; counts begin anew.

Source: k8s.io/kubernetes pkg/kubelet/prober/worker.go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from havre.api.meta import Obj
from havre.machinery.events import Note
from havre.node.agent.checks import Target, check
from havre.node.agent.container_status import runtime_id
from havre.node.agent.cri import Runtime, State
from havre.node.agent.seen import Probed, Seen
from havre.node.agent.specs import all_containers, is_deleted, uid_of

log = logging.getLogger(__name__)

TRIES: Final = 3  # of a check that could not be made
Probe = Literal["startup", "liveness", "readiness"]
_FIELDS: Final[dict[Probe, str]] = {
    "startup": "startupProbe",
    "liveness": "livenessProbe",
    "readiness": "readinessProbe",
}

Tell = Callable[[Obj, str, Note], None]  # pod, name of the container, what happened


@dataclass(slots=True)
class Streak:
    """How often in a row the same came out, and when that counts."""

    failure: int
    success: int
    last: bool | None = None
    run: int = 0

    def add(self, ok: bool) -> bool | None:
        """The result, when enough checks agree; None: not yet."""
        self.run = self.run + 1 if ok == self.last else 1
        self.last = ok
        return ok if self.run >= (self.success if ok else self.failure) else None


class Probes:
    """The probes of all pods of the agent. All methods belong to the thread of the event loop."""

    def __init__(self, runtime: Runtime, tell: Tell, wake: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._tell = tell
        self._wake = wake
        self._results: dict[str, dict[str, Probed]] = {}  # uid → id of the container → results
        self._tasks: dict[str, dict[tuple[str, Probe], asyncio.Task[None]]] = {}
        self._began = asyncio.get_running_loop().time()

    def results(self, uid: str) -> Mapping[str, Probed]:
        return self._results.get(uid, {})

    def follow(self, pod: Obj, seen: Seen) -> Mapping[str, Probed]:
        """Probe exactly what runs now; the results so far. Call it in every pass."""
        uid = uid_of(pod)
        wanted: dict[tuple[str, Probe], Callable[[], asyncio.Task[None]]] = {}
        results: dict[str, Probed] = {}
        for container in all_containers(pod):
            running = seen.newest(container["name"])
            if running is None or running.state is not State.RUNNING:
                continue
            if not any(container.get(field) for field in _FIELDS.values()):
                continue
            probed = self.results(uid).get(running.id) or _reported(pod, container, running.id)
            results[running.id] = probed
            target = Target(running.id, container, _address(pod, seen))
            for kind in _due(container, probed, deleted=is_deleted(pod)):
                age = seen.now - running.started
                wanted[running.id, kind] = partial(self._begin, pod, kind, target, age)
        self._results[uid] = results
        self._adjust(uid, wanted)
        return results

    def _adjust(self, uid: str, wanted: Mapping[tuple[str, Probe], Callable[[], asyncio.Task[None]]]) -> None:
        tasks = self._tasks.setdefault(uid, {})
        for key in [key for key in tasks if key not in wanted]:
            tasks.pop(key).cancel()
        for key, begin in wanted.items():
            if key not in tasks:
                tasks[key] = begin()

    def forget(self, uid: str) -> None:
        """The pod is over."""
        for task in self._tasks.pop(uid, {}).values():
            task.cancel()
        self._results.pop(uid, None)

    async def close(self) -> None:
        tasks = [task for of_pod in self._tasks.values() for task in of_pod.values()]
        for uid in [*self._tasks]:
            self.forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    # one probe

    def _begin(self, pod: Obj, kind: Probe, target: Target, age: float) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        name = f"{kind} probe of {pod['metadata']['name']}/{target.container['name']}"
        return loop.create_task(self._run(pod, kind, target, age), name=name)

    async def _run(self, pod: Obj, kind: Probe, target: Target, age: float) -> None:
        probe = target.container[_FIELDS[kind]]
        loop = asyncio.get_running_loop()
        period = float(probe.get("periodSeconds") or 10)
        streak = Streak(probe.get("failureThreshold") or 3, probe.get("successThreshold") or 1)
        await asyncio.sleep(self._first(probe, period, age, loop.time()))
        due = loop.time()
        while True:
            ok = await self._check(pod, kind, probe, target)
            decided = None if ok is None else streak.add(ok)
            if decided is not None:
                self._set(uid_of(pod), target.id, kind, decided)
                if kind == "startup" or (kind == "liveness" and not decided):
                    return  # until there is a new instance
            due = max(due + period, loop.time())
            await asyncio.sleep(due - loop.time())

    def _first(self, probe: Obj, period: float, age: float, now: float) -> float:
        """Seconds before the first check. An agent that has just begun spreads those of old containers."""
        delay = max(0.0, float(probe.get("initialDelaySeconds") or 0) - age)
        restarted = now - self._began < period and age > period
        return delay + (random.random() * period if restarted else 0.0)  # noqa: S311 - spreads load

    async def _check(self, pod: Obj, kind: Probe, probe: Obj, target: Target) -> bool | None:
        for _ in range(TRIES):
            checked = await check(self._runtime, probe, target)
            if checked.outcome != "error":
                break
        word, name = kind.capitalize(), target.container["name"]
        match checked.outcome:
            case "error":
                text = f"{word} probe errored and resulted in unknown state: {checked.text}"
                self._tell(pod, name, Note("Unhealthy", text, "Warning"))
                return None
            case "failure":
                self._tell(pod, name, Note("Unhealthy", f"{word} probe failed: {checked.text}", "Warning"))
                return False
            case "warning":
                self._tell(pod, name, Note("ProbeWarning", f"{word} probe warning: {checked.text}", "Warning"))
        return True

    def _set(self, uid: str, id: str, kind: Probe, ok: bool) -> None:
        results = self._results.get(uid, {})
        old = results.get(id)
        if old is None:
            return
        changes = {"startup": {"started": ok}, "liveness": {"live": ok}, "readiness": {"ready": ok}}
        new = replace(old, **changes[kind])
        if new != old:
            results[id] = new
            self._wake(uid)


def _due(container: Obj, probed: Probed, *, deleted: bool) -> list[Probe]:
    """The probes that run now."""
    if container.get("startupProbe") and probed.started is not True:
        return [] if deleted or probed.started is False else ["startup"]
    kinds: list[Probe] = ["readiness"] if container.get("readinessProbe") else []
    if container.get("livenessProbe") and not deleted and probed.live is not False:
        kinds.append("liveness")
    return kinds


def _reported(pod: Obj, container: Obj, id: str) -> Probed:
    """What the API says of this same instance."""
    status = pod.get("status") or {}
    for key in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for old in status.get(key) or ():
            if old["name"] == container["name"] and old.get("containerID") == runtime_id(id):
                started = True if old.get("started") else None
                return Probed(started=started, ready=True if old.get("ready") else None)
    return Probed()


def _address(pod: Obj, seen: Seen) -> str:
    """Where the pod answers: its own address, or on the host's network the node's."""
    if seen.ips:
        return seen.ips[0]
    status = pod.get("status") or {}
    return str(status.get("podIP") or status.get("hostIP") or "127.0.0.1")
