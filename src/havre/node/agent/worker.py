"""One pod: look at everything, decide, take the steps, report; again when anything changes.

A worker is serial and level-triggered: the API's view of the pod, an event of the runtime, a probe's result or a timer
wake it, and each pass begins with a fresh look. A pass that fails is repeated. Long waits (an image, a hook) end when
the pod does.

Source: k8s.io/kubernetes pkg/kubelet (pod_workers.go, SyncPod, SyncTerminatingPod, SyncTerminatedPod).
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from havre.api.errors import ApiError, Conflict, NotFound
from havre.api.meta import GVK, Obj
from havre.machinery.api import Api, Ref
from havre.machinery.events import Note
from havre.node.agent.cgroups import CgroupError, Cgroups
from havre.node.agent.checks import Target
from havre.node.agent.configs import log_directory, sandbox_config
from havre.node.agent.container_status import Reason
from havre.node.agent.cri import ContainerStatus, Runtime, RuntimeFault
from havre.node.agent.facts import crash_loop, deadline_of, older, overdue, reported_failures, restored, started
from havre.node.agent.host_files import HostNameError, kernel_name
from havre.node.agent.messages import with_message
from havre.node.agent.names import container_hash
from havre.node.agent.probes import Probes
from havre.node.agent.protocol import Giver, VolumeError
from havre.node.agent.resources import container_resources, pod_limits
from havre.node.agent.seen import Seen, observe
from havre.node.agent.specs import (
    container_named,
    described,
    is_deleted,
    is_finished,
    is_sidecar,
    on_host_network,
    qos_class,
)
from havre.node.agent.start import Place, Starter, StartError
from havre.node.agent.status import Facts, Verdict, last, patch, rejected, status
from havre.node.agent.sync import CreateSandbox, Kill, Remove, Resize, Start, Step, StopPod, Wait, finished, plan
from havre.node.agent.termination import Ending, Grace, end, grace_of, turns

log = logging.getLogger(__name__)

POD: Final = GVK("", "v1", "Pod")
RUNTIME_CLASS: Final = GVK("node.k8s.io", "v1", "RuntimeClass")
MANAGER: Final = "kubelet"
RESYNC: Final = 60.0  # seconds after which a pod is looked at although nothing happened; volumes are refreshed then
RETRY: Final = (1.0, 2.0, 4.0, 8.0, 10.0)  # seconds after a failed pass
SLOW: Final = 10.0


class Interrupted(Exception):
    """The pod shall end: what was waited for does not matter any more."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all workers share."""

    api: Api
    runtime: Runtime
    starter: Starter
    probes: Probes
    cgroups: Cgroups
    giver: Giver
    logs: Path
    domain: str
    host_ips: tuple[str, ...]
    tell: Callable[[Obj, Note], None]
    refuse: Callable[[Obj], Awaitable[Verdict | None]]  # whether the node takes a pod that it has not run yet
    clock: Callable[[], float] = time.time


class Worker:
    """Works for one pod (by uid) until nothing of it is left."""

    def __init__(self, parts: Parts, uid: str, pod: Obj | None) -> None:
        self.uid = uid
        self.pod = pod
        self.admitted = pod is not None and started(pod)
        self.over = False
        self._parts = parts
        self._last = pod  # what we knew before it was gone
        self._woken = asyncio.Event()
        self._ends = asyncio.Event()
        self._grace: Grace | None = None
        self._ended: dict[str, ContainerStatus] = {}
        self._failed = reported_failures(pod)  # name: (hash, why it did not start)
        self._held: dict[str, tuple[str, float]] = {}  # name: (hash, loop time before which it is not tried again)
        self._resized: dict[str, str] = {}  # id of a container: the resources it was given while it ran
        self._waited: dict[str, float] = {}  # name: until when it backs off, once that has been told
        self._failures = 0
        self._prepared = float("-inf")
        self._notice()

    # from outside

    def offer(self, pod: Obj | None) -> None:
        """The pod as the API has it now; None: it is gone."""
        if pod is not None and self.pod is not None and older(pod, self.pod):
            return
        self.pod = pod
        self._last = pod or self._last
        self._notice()
        self.wake()

    def wake(self) -> None:
        self._woken.set()

    def _notice(self) -> None:
        """Whether the pod shall end, and how soon."""
        if self.pod is not None and not is_deleted(self.pod):
            return
        self._ends.set()
        if self._grace is not None:
            self._grace.shorten(grace_of(self.pod) if self.pod is not None else 0.0)

    async def run(self) -> None:
        while not self.over:
            self._woken.clear()
            pause = await self._attempt()
            if pause > 0 and not self.over:
                await self._sleep(pause)

    async def _sleep(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _attempt(self) -> float:
        """One pass; how long until the next, if nothing wakes us."""
        try:
            pause = await self._pass()
        except Interrupted:
            return 0.0
        except (ApiError, RuntimeFault, CgroupError, VolumeError, HostNameError, OSError) as error:
            pause = RETRY[min(self._failures, len(RETRY) - 1)]
            self._failures += 1
            words = {"pod": self._name(), "error": str(error), "again": pause}
            log.warning("a pass over a pod failed; will try again", extra=words)
            return pause
        self._failures = 0
        return pause

    def _name(self) -> str:
        return described(self._last) if self._last is not None else self.uid

    # one pass

    async def _pass(self) -> float:
        pod = self.pod
        seen = await self._look()
        if pod is None:
            await self._sweep(seen)
            return 0.0
        self.admitted = self.admitted or bool(seen.sandboxes or started(pod) or is_deleted(pod) or is_finished(pod))
        if not self.admitted and not await self._admit(pod, seen):
            return 0.0
        if not is_finished(pod):
            seen = replace(seen, probes=self._parts.probes.follow(pod, seen))
        verdict = overdue(pod, seen.now)
        facts = self._facts(pod, seen, verdict)
        new = status(pod, seen, facts)
        over = is_deleted(pod) or is_finished(pod) or verdict is not None
        if over or finished(pod, seen):
            return await self._end(pod, seen, facts)
        return await self._sync(pod, seen, new)

    async def _look(self) -> Seen:
        known = set(self._ended)
        parts = self._parts
        seen = await observe(
            parts.runtime, self.uid, now=parts.clock(), ended=self._ended, probes=parts.probes.results(self.uid)
        )
        seen = replace(seen, resized=self._resized)
        fresh = [c for c in seen.containers if c.id in self._ended and c.id not in known]
        if not fresh:
            return seen
        told = await asyncio.to_thread(lambda: {c.id: with_message(c) for c in fresh})
        self._ended.update(told)
        return replace(seen, containers=tuple(told.get(c.id, c) for c in seen.containers))

    async def _admit(self, pod: Obj, seen: Seen) -> bool:
        verdict = await self._parts.refuse(pod)
        if verdict is None:
            self.admitted = True
            return True
        self._parts.tell(pod, Note(verdict.reason, verdict.message, "Warning"))
        await self._report(rejected(pod, verdict, seen.now))
        return False

    def _facts(self, pod: Obj, seen: Seen, verdict: Verdict | None = None, *, stopped: bool = False) -> Facts:
        reasons = {
            name: why
            for name, (hash, why) in self._failed.items()
            if (container := container_named(pod, name)) is not None and container_hash(container) == hash
        }
        if not stopped and not is_deleted(pod):
            waits = (step for step in plan(pod, seen).steps if isinstance(step, Wait))
            reasons |= {step.name: crash_loop(pod, step) for step in waits}
        return Facts(self._parts.host_ips, reasons, stopped, verdict)

    # a pod that shall run

    async def _sync(self, pod: Obj, seen: Seen, new: Obj) -> float:
        todo = plan(pod, seen)
        self._tell_waits(pod, todo.steps)
        steps = self._due(pod, todo.steps)
        if not steps:
            reported = await self._try_report(new)
            await self._refresh(pod)
            return min(self._next(pod, todo.again), RESYNC if reported else RETRY[0])
        async with self._reporting(new):
            await self._prepare(pod)
            await self._take(pod, seen, steps)
        return 0.0

    def _tell_waits(self, pod: Obj, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Wait) and self._waited.get(step.name) != step.until:
                self._waited[step.name] = step.until
                text = f"Back-off restarting failed container {step.name} in pod {described(pod)}"
                self._parts.tell(pod, Note("BackOff", text, "Warning"))

    def _due(self, pod: Obj, steps: Sequence[Step]) -> list[Step]:
        """Those that are not for later: a back-off, or a start that failed a moment ago."""
        now = asyncio.get_running_loop().time()
        out: list[Step] = []
        for step in steps:
            if isinstance(step, Wait):
                continue
            if isinstance(step, Start):
                container = container_named(pod, step.name)
                hash, until = self._held.get(step.name, ("", 0.0))
                if container is not None and container_hash(container) == hash and until > now:
                    continue
            out.append(step)
        return out

    def _next(self, pod: Obj, again: float | None) -> float:
        """Seconds until something is due by itself."""
        now = asyncio.get_running_loop().time()
        held = [until - now for _, until in self._held.values() if until > now]
        times = [RESYNC * (0.9 + 0.2 * random.random()), *held]  # noqa: S311 - spreads load
        if again is not None:
            times.append(again)
        deadline = deadline_of(pod)
        if deadline is not None:
            times.append(deadline - self._parts.clock())
        return max(0.01, min(times))

    async def _prepare(self, pod: Obj) -> None:
        """The cgroup and the volumes, before anything runs."""
        parts = self._parts
        try:
            await asyncio.to_thread(parts.cgroups.ensure, self.uid, qos_class(pod), pod_limits(pod))
        except CgroupError as error:
            text = f"unable to ensure pod container exists: {error}"
            parts.tell(pod, Note("FailedCreatePodContainer", text, "Warning"))
            raise
        try:
            await self._within(parts.giver.prepare(pod))
        except VolumeError as error:
            parts.tell(pod, Note("FailedMount", str(error), "Warning"))
            raise
        self._prepared = asyncio.get_running_loop().time()

    async def _refresh(self, pod: Obj) -> None:
        """Bring the contents of volumes up to date, once a minute or so."""
        now = asyncio.get_running_loop().time()
        if now - self._prepared < RESYNC * 0.9:
            return
        self._prepared = now
        try:
            await self._within(self._parts.giver.prepare(pod))
        except VolumeError as error:
            self._parts.tell(pod, Note("FailedMount", str(error), "Warning"))

    async def _take(self, pod: Obj, seen: Seen, steps: Sequence[Step]) -> None:
        place: Place | None = None
        for step in steps:
            if self._ends.is_set():
                raise Interrupted
            match step:
                case StopPod():
                    if step.again:
                        text = "Pod sandbox changed, it will be killed and re-created."
                        self._parts.tell(pod, Note("SandboxChanged", text))
                    await self._stop(pod, seen)
                case Remove(id):
                    await self._parts.runtime.remove_container(id)
                case CreateSandbox(attempt):
                    place = await self._create_sandbox(pod, attempt)
                case Kill():
                    await self._kill(pod, seen, step)
                case Resize():
                    await self._resize(pod, step)
                case Start():
                    place = place or self._place(pod, seen)
                    if not await self._start(pod, step, place, seen) and step.kind == "init":
                        container = container_named(pod, step.name)
                        if container is None or not is_sidecar(container):
                            return

    async def _resize(self, pod: Obj, step: Resize) -> None:
        starter, container = self._parts.starter, container_named(pod, step.name)
        if container is not None:
            wanted = container_resources(pod, container, starter.memory, group_oom=starter.group_oom)
            await self._parts.runtime.update_resources(step.id, wanted)
            self._resized = {**self._resized, step.id: step.text}

    def _sandbox_config(self, pod: Obj, attempt: int) -> Obj:
        parts = self._parts
        cgroup = parts.cgroups.parent(self.uid, qos_class(pod))
        dns = parts.giver.dns(pod)
        name = kernel_name(pod, parts.domain)
        return sandbox_config(pod, attempt, logs=parts.logs, cgroup=cgroup, hostname=name, dns=dns)

    async def _create_sandbox(self, pod: Obj, attempt: int) -> Place:
        parts = self._parts
        try:
            config = self._sandbox_config(pod, attempt)
            await asyncio.to_thread(log_directory(parts.logs, pod).mkdir, mode=0o755, parents=True, exist_ok=True)
            handler = await self._handler(pod)
            async with parts.starter.slots:
                id = await parts.runtime.run_sandbox(config, handler)
            looked = await parts.runtime.sandbox_status(id)
        except (RuntimeFault, HostNameError, OSError) as error:
            text = f"Failed to create pod sandbox: {error}"
            parts.tell(pod, Note("FailedCreatePodSandBox", text, "Warning"))
            raise
        return Place(id, config, looked.ips or self._host_ips(pod))

    async def _handler(self, pod: Obj) -> str:
        """How the runtime calls the pod's RuntimeClass. Raises RuntimeFault."""
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return ""
        found = await self._parts.api.get(Ref(RUNTIME_CLASS, "", name))
        if found is None:
            raise RuntimeFault("NOT_FOUND", f'failed to get sandbox runtime: RuntimeClass "{name}" not found')
        return str(found.get("handler") or "")

    def _place(self, pod: Obj, seen: Seen) -> Place:
        sandbox = seen.sandbox
        assert sandbox is not None, "a plan starts containers in a sandbox that it has seen or just made"
        return Place(sandbox.id, self._sandbox_config(pod, sandbox.attempt), seen.ips or self._host_ips(pod))

    def _host_ips(self, pod: Obj) -> tuple[str, ...]:
        return self._parts.host_ips if on_host_network(pod) else ()

    async def _start(self, pod: Obj, step: Start, place: Place, seen: Seen) -> bool:
        container = container_named(pod, step.name)
        if container is None:
            return False

        def tell(note: Note) -> None:
            self._parts.tell(pod, note)

        try:
            await self._parts.starter.start(pod, container, step, place, seen, tell, self._within)
        except StartError as error:
            hash = container_hash(container)
            self._failed[step.name] = hash, Reason(error.reason, str(error))
            self._held[step.name] = hash, asyncio.get_running_loop().time() + error.again
            return False
        self._failed.pop(step.name, None)
        self._held.pop(step.name, None)
        return True

    async def _within(self, work: Awaitable[Any]) -> Any:
        """The result of something long. Raises Interrupted when the pod shall end."""
        task, ends = asyncio.ensure_future(work), asyncio.ensure_future(self._ends.wait())
        try:
            await asyncio.wait((task, ends), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            ends.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        raise Interrupted

    # stopping

    async def _kill(self, pod: Obj, seen: Seen, step: Kill) -> None:
        container = container_named(pod, step.name) or {"name": step.name}
        self._grace = Grace(grace_of(pod, container, step.why))
        self._notice()
        target = Target(step.id, container, self._ip(pod, seen))
        try:
            ending = Ending(pod, target, self._grace, step.message)
            await end(self._parts.runtime, ending, lambda _, note: self._parts.tell(pod, note))
        finally:
            self._grace = None

    async def _stop(self, pod: Obj, seen: Seen) -> None:
        """Every container, in its turn, then the sandboxes."""
        parts, running = self._parts, seen.running()
        ended, after = turns(pod, [c.name for c in running])
        grace = self._grace = Grace(grace_of(pod))

        async def one(instance: ContainerStatus) -> None:
            container = container_named(pod, instance.name) or restored(instance)
            target = Target(instance.id, container, self._ip(pod, seen))
            ending = Ending(pod, target, grace, after=after.get(instance.name, ()))
            try:
                await end(parts.runtime, ending, lambda _, note: parts.tell(pod, note))
            finally:
                ended[instance.name].set()

        try:
            results = await asyncio.gather(*(one(c) for c in running), return_exceptions=True)
        finally:
            self._grace = None
        for result in results:
            if isinstance(result, BaseException):
                parts.tell(pod, Note("FailedKillPod", f"error killing pod: {result}", "Warning"))
                raise result
        for sandbox in seen.sandboxes:
            await parts.runtime.stop_sandbox(sandbox.id)

    def _ip(self, pod: Obj, seen: Seen) -> str:
        known = seen.ips or self._host_ips(pod)
        return known[0] if known else str((pod.get("status") or {}).get("podIP") or "")

    # a pod that shall end

    async def _end(self, pod: Obj, seen: Seen, facts: Facts) -> float:
        """Stop it, report its end, free what it held, and give the object back when it is being deleted."""
        parts = self._parts
        if facts.verdict is not None and not is_finished(pod) and not is_deleted(pod):
            parts.tell(pod, Note(facts.verdict.reason, facts.verdict.message))
        if seen.running() or any(box.ready for box in seen.sandboxes):
            async with self._reporting(status(pod, seen, facts) if seen.running() else None):
                await self._stop(pod, seen)
            seen = await self._look()
            if still := [c.id for c in seen.running()]:
                raise RuntimeFault("FAILED_PRECONDITION", f"containers still run after they were stopped: {still}")
        parts.probes.forget(self.uid)
        self._failed.clear()
        current = self.pod
        if current is None:
            return 0.0
        if seen.containers or (current.get("status") or {}).get("containerStatuses") or not is_finished(current):
            new = status(current, seen, self._facts(current, seen, facts.verdict, stopped=True))
            await self._report(last(current, new))
        await self._free()
        if self.pod is not None and is_deleted(self.pod):
            await self._give_back(seen)
        return RESYNC * 10

    async def _free(self) -> None:
        cgroups = asyncio.to_thread(self._parts.cgroups.remove, self.uid)
        await asyncio.gather(self._parts.giver.release(self.uid), cgroups)

    async def _give_back(self, seen: Seen) -> None:
        """Remove what is still there of it, then the object itself: so nothing can be left that nobody knows of."""
        await self._remove_all(seen)
        pod = self.pod
        if pod is None:
            return
        ref = Ref(POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
        try:
            await self._parts.api.delete(ref, uid=self.uid, grace=0)
        except (NotFound, Conflict):  # somebody was faster, or it is another pod already
            return

    async def _remove_all(self, seen: Seen) -> None:
        """Logs first: as long as the runtime has the pod, a next agent comes back to this."""
        runtime = self._parts.runtime
        await asyncio.to_thread(_remove_logs, self._parts.logs, self.uid)
        for sandbox in seen.sandboxes:
            await runtime.stop_sandbox(sandbox.id)
            await runtime.remove_sandbox(sandbox.id)
        for container in await runtime.containers(self.uid):
            await runtime.remove_container(container.id)

    async def _sweep(self, seen: Seen) -> None:
        """The object is gone: so shall be everything else."""
        pod = self._last or {"metadata": {"name": "", "namespace": "", "uid": self.uid}, "spec": {"containers": []}}
        self._parts.probes.forget(self.uid)
        if seen.running():
            hurried = {**pod, "metadata": {**pod["metadata"], "deletionGracePeriodSeconds": 0}}
            await self._stop(hurried, seen)
        await self._remove_all(seen)
        await self._free()
        if self.pod is None:
            self.over = True

    # reporting

    @asynccontextmanager
    async def _reporting(self, new: Obj | None) -> AsyncIterator[None]:
        """Report while the work inside goes on: an answer takes 10 ms, most of them for the API server's disk."""
        task = asyncio.create_task(self._try_report(new)) if new is not None else None
        try:
            yield
        except asyncio.CancelledError:
            if task is not None:
                task.cancel()
            raise
        finally:
            if task is not None:
                await task

    async def _try_report(self, new: Obj) -> bool:
        """A pod is looked after also while the API does not answer. Whether it was told."""
        try:
            await self._report(new)
        except NotFound:
            return True  # the informer will say so too
        except ApiError as error:
            log.info("could not report a pod's status", extra={"pod": self._name(), "error": str(error)})
            return False
        return True

    async def _report(self, new: Obj) -> None:
        """Write what changed. Raises ApiError."""
        pod = self.pod
        if pod is None:
            return
        changes = patch(pod.get("status") or {}, new)
        if not changes:
            return
        meta = pod["metadata"]
        body = {"metadata": {"uid": self.uid}, "status": changes}
        ref = Ref(POD, meta["namespace"], meta["name"])
        live = await self._parts.api.patch(ref, body, kind="strategic", manager=MANAGER, subresource="status")
        if self.pod is not None and not older(live, self.pod):
            self.pod = self._last = live


def _remove_logs(logs: Path, uid: str) -> None:
    if logs.is_dir():
        for path in logs.iterdir():
            if path.name.endswith(f"_{uid}"):
                shutil.rmtree(path, ignore_errors=True)
