"""Containers: created, started, watched, stopped and removed; found again after any crash.

    create   bundle and record; no process yet, so a container that is never started costs nothing
    start    conmon makes the process, then lets it run; a failure is the container's end, reason StartError
    end      conmon's end wakes us: exit code, out-of-memory check, then the cgroup, mounts and runtime state go
    remove   the rest goes

One lock per container orders its changes. Whatever takes long (a stop with grace) waits outside of it.

Source: CRI RuntimeService; containerd internal/cri/server/container_*.go for reasons, exit codes and idempotence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from havre.lang import json
from havre.node import mounts
from havre.node.removal import remove_tree
from havre.node.runtime import creation, monitor, spec
from havre.node.runtime.creation import Images, Snapshots
from havre.node.runtime.errors import AlreadyExists, Failed, Invalid, NotFound, Precondition, RuntimeFault
from havre.node.runtime.files import write
from havre.node.runtime.host import Host
from havre.node.runtime.monitor import Exit, Launch
from havre.node.runtime.processes import Watch
from havre.node.runtime.records import FILE, ContainerRecord, ContainerState
from havre.node.runtime.sandboxes import Sandbox, Sandboxes
from havre.wire.grpc.messages import messages

__all__ = ["Container", "Containers"]

cri = messages("runtime.v1")
log = logging.getLogger(__name__)

KILL_SECONDS = 60.0  # from SIGKILL to the end of conmon; it flushes the log, a full disk queue has taken seconds
NOT_STARTED = 128  # exit codes that containerd gives where there is none
UNKNOWN = 255
KILLED = 128 + 9

Key = tuple[str, str, int]


class Container:
    """One container that exists."""

    def __init__(self, record: ContainerRecord, directory: Path) -> None:
        self.record = record
        self.directory = directory
        self.lock = asyncio.Lock()
        self.ended = asyncio.Event()
        self.watch: Watch | None = None
        if record.state is ContainerState.EXITED:
            self.ended.set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def running(self) -> bool:
        return self.record.state is ContainerState.RUNNING


class Containers:
    """All containers of this instance; `changed(container, event)` is told of every event of CRI."""

    def __init__(
        self, host: Host, images: Images, snapshots: Snapshots, changed: Callable[[Container, int], None]
    ) -> None:
        self._host = host
        self._images = images
        self._snapshots = snapshots
        self._changed = changed
        self._all: dict[str, Container] = {}
        self._making: dict[Key, asyncio.Task[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._all.values()))

    def get(self, name: str) -> Container:
        """By id, or a prefix that only one has. Raises NotFound."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"container {name!r} does not exist")
        return found

    def find(self, name: str) -> Container | None:
        if name in self._all:
            return self._all[name]
        matches = [container for id_, container in self._all.items() if name and id_.startswith(name)]
        return matches[0] if len(matches) == 1 else None

    def of(self, sandbox: str) -> list[Container]:
        """The containers of a sandbox, oldest first."""
        found = [container for container in self._all.values() if container.record.sandbox == sandbox]
        return sorted(found, key=lambda container: container.record.created_at)

    def running(self, name: str) -> Container:
        """Raises NotFound or Precondition."""
        container = self.get(name)
        if not container.running:
            raise Precondition(f"container {container.id} is not running: {container.record.state.value}")
        return container

    # create

    async def create(self, sandboxes: Sandboxes, sandbox: Sandbox, config: Any) -> str:
        """The id of a new container. The same request again gives the same one: the first answer may have been lost."""
        key = _key(sandbox.id, config)
        while (making := self._making.get(key)) is not None:
            await asyncio.wait({making})
        for container in self.of(sandbox.id):
            if _key(sandbox.id, container.record.config) == key:
                return _same(container, config)
        if not sandbox.record.ready:
            raise Precondition(f"sandbox {sandbox.id} is not ready")
        task = asyncio.create_task(self._create(sandboxes, sandbox, config))
        self._making[key] = task
        task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)  # a caller that gave up finds it finished when it asks again

    async def _create(self, sandboxes: Sandboxes, sandbox: Sandbox, config: Any) -> str:
        image = creation.find_image(self._images, config.image.image)
        target = self._target(sandbox, config)
        id_ = secrets.token_hex(32)
        directory = self._host.config.containers / id_
        try:
            (directory / "rootfs").mkdir(parents=True)
            await self._snapshots.mount(id_, image.chain or "", directory / "rootfs")
            mounted = await creation.prepare_images(self._snapshots, self._images, id_, config, directory)
            pod, parent = sandboxes.pod(sandbox), sandbox.record.cgroup
            record = await self._host.blocking(
                creation.make, self._host, pod, parent, image, config, id_, mounted, target
            )
            await self._host.blocking(record.save, directory)
        except BaseException:
            await asyncio.shield(self._discard(id_))
            raise
        container = self._all[id_] = Container(record, directory)
        self._changed(container, cri.CONTAINER_CREATED_EVENT)
        return id_

    def _target(self, sandbox: Sandbox, config: Any) -> int:
        """The process whose PID namespace the container joins; 0 for none."""
        options = config.linux.security_context.namespace_options
        if options.pid != cri.TARGET:
            return 0
        target = self.running(options.target_id)
        if target.record.sandbox != sandbox.id:
            raise Invalid(f"target container {options.target_id} is of another sandbox")
        return target.record.init.pid

    # start

    async def start(self, name: str) -> None:
        """Raises Precondition when it is not freshly created, Failed with the runtime's words."""
        # Carried through even if the caller gives up: half a start could not be told from a whole one.
        await asyncio.shield(self._spawn(self._start_locked(self.get(name))))

    async def _start_locked(self, container: Container) -> None:
        async with container.lock:
            state = container.record.state
            if state is not ContainerState.CREATED or container.id not in self._all:
                raise Precondition(f"start container {container.id}: it is {state.value}, not created")
            await self._start(container)

    async def _start(self, container: Container) -> None:
        record = container.record
        try:
            await self._remount(container)
            started = await self._host.blocking(self._host.monitor.create, _launch(container))
            record.init, record.monitor = started.init, started.monitor
            await self._host.blocking(self._host.oci.start, record.id)
        except Failed as error:
            await self._start_failed(container, str(error))
            raise
        record.state, record.started_at = ContainerState.RUNNING, time.time_ns()
        await self._host.blocking(record.save, container.directory, durable=False)
        self._changed(container, cri.CONTAINER_STARTED_EVENT)
        self._watch(container)
        # Out of our own cgroup, which systemd empties when it stops us. Not on the way: it takes 1–10 ms of the kernel.
        self._spawn(self._host.blocking(self._host.monitor.adopt, started.monitor))

    async def _remount(self, container: Container) -> None:
        """A container created before a reboot has lost its mounts."""
        rootfs = container.directory / "rootfs"
        if await self._host.blocking(mounts.mounted_at, rootfs) is None:
            await self._snapshots.mount(container.id, container.record.chain, rootfs)

    async def _start_failed(self, container: Container, message: str) -> None:
        record = container.record
        record.state, record.exit_code, record.reason = ContainerState.EXITED, NOT_STARTED, "StartError"
        record.message = message
        record.started_at = record.finished_at = time.time_ns()
        await self._settle(container)
        container.ended.set()
        self._changed(container, cri.CONTAINER_STOPPED_EVENT)

    # the end

    def _watch(self, container: Container) -> None:
        container.watch = Watch(container.record.monitor, lambda: self._monitor_ended(container))

    def _monitor_ended(self, container: Container) -> None:
        container.watch = None
        self._spawn(self._end(container))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, RuntimeFault):
            log.error("container work failed", exc_info=error)

    async def _end(self, container: Container) -> None:
        async with container.lock:
            record = container.record
            if record.state is ContainerState.EXITED or container.id not in self._all:
                return
            seen = await self._host.blocking(monitor.exited, container.directory, record.id)
            await self._finish(container, seen)

    async def _finish(self, container: Container, seen: Exit | None) -> None:
        """Write down how it ended. `seen` is None when conmon could not say."""
        record = container.record
        if seen is None:
            seen = await self._host.blocking(self._lost, record)
        kills = await self._host.blocking(self._host.cgroups.out_of_memory_kills, record.cgroup)
        record.exit_code = seen.code
        record.finished_at = max(seen.at, record.started_at)
        record.reason = record.reason or _reason(seen.code, kills)
        record.state = ContainerState.EXITED
        await self._write_down(container)
        container.ended.set()
        self._changed(container, cri.CONTAINER_STOPPED_EVENT)
        await self._settle(container)

    def _lost(self, record: ContainerRecord) -> Exit:
        """conmon ended without an exit code. If the container still runs, nobody reads its output: it is killed."""
        if record.init.alive():
            record.message = "its monitor (conmon) was killed; the container was ended since its output was lost"
            record.reason = "Error"
            self._host.cgroups.kill(record.cgroup)
            return Exit(KILLED, time.time_ns())
        record.message = "it ended while nobody watched, perhaps with the machine; the exit code is not known"
        record.reason = "Unknown"
        return Exit(UNKNOWN, time.time_ns())

    async def _settle(self, container: Container) -> None:
        """Free what only a running container needs; idempotent."""
        record = container.record
        try:
            await self._host.blocking(self._clear, container)
            await self._snapshots.unmount(record.id, container.directory / "rootfs")
        except (Failed, OSError) as error:  # tried again when it is removed, or at the next start
            log.warning("container not cleared", extra={"container": record.id, "why": str(error)})
            return
        record.settled = True
        await self._write_down(container, durable=False)

    async def _write_down(self, container: Container, *, durable: bool = True) -> None:
        """How it ended. A full disk must not keep it alive: a restart finds out the same again."""
        try:
            await self._host.blocking(container.record.save, container.directory, durable=durable)
        except OSError as error:
            log.warning("end of a container not written down", extra={"container": container.id, "why": str(error)})

    def _clear(self, container: Container) -> None:
        record = container.record
        if not record.own_pids:
            self._host.cgroups.kill(record.cgroup)  # others of the namespace must not outlive its first process
        self._host.runtime_of(record.id).delete(record.id)
        self._host.cgroups.remove(record.cgroup)

    # stop and remove

    async def stop(self, name: str, timeout: float) -> None:
        """Ask it to end, kill it after `timeout` seconds; one that is not there or not running is fine."""
        container = self.find(name)
        if container is None or not container.running:
            return
        record = container.record
        if timeout > 0:
            record.init.signal(record.stop_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(container.ended.wait(), timeout)
        if not container.ended.is_set():
            await self._host.blocking(self._kill, record)
        try:
            await asyncio.wait_for(container.ended.wait(), KILL_SECONDS)
        except TimeoutError:
            raise Failed(f"stop container {record.id}: alive {KILL_SECONDS:.0f} s after SIGKILL") from None

    def _kill(self, record: ContainerRecord) -> None:
        record.init.signal(signal.SIGKILL)
        self._host.cgroups.kill(record.cgroup)

    async def remove(self, name: str) -> None:
        """Remove it, killed first if it runs; one that is not there is fine."""
        container = self.find(name)
        if container is None:
            return
        await self.stop(container.id, 0)
        async with container.lock:
            if container.id not in self._all:
                return
            if container.watch is not None:
                container.watch.close()
            await self._host.blocking((container.directory / FILE).unlink, missing_ok=True)
            await self._discard(container.id, container.record)
            del self._all[container.id]
        self._changed(container, cri.CONTAINER_DELETED_EVENT)

    async def stop_all(self, sandbox: str) -> None:
        """Kill the containers of a sandbox."""
        await asyncio.gather(*(self.stop(container.id, 0) for container in self.of(sandbox)))

    async def remove_all(self, sandbox: str) -> None:
        """Remove the containers of a sandbox."""
        await asyncio.gather(*(self.remove(container.id) for container in self.of(sandbox)))

    async def _discard(self, id_: str, record: ContainerRecord | None = None) -> None:
        """Remove every trace of a container that has no record any more, or never had; idempotent."""
        directory = self._host.config.containers / id_
        if record is None or not record.settled:
            await self._host.blocking(self._halt, id_, directory, record)
        await self._snapshots.unmount(id_, directory / "rootfs")
        await self._snapshots.remove(id_)
        for key in self._snapshots.keys():  # noqa: SIM118 - not a mapping
            if not key.startswith(f"{id_}-"):
                continue
            await self._snapshots.unmount(key, directory / "images" / key.rpartition("-")[2])
            await self._snapshots.remove(key)
        await self._host.blocking(_erase, directory)

    def _halt(self, id_: str, directory: Path, record: ContainerRecord | None) -> None:
        for process in monitor.left_behind(directory):
            process.signal(signal.SIGKILL)
        self._host.runtime_of(id_).delete(id_)
        if record is not None:
            self._host.cgroups.kill(record.cgroup)
            self._host.cgroups.remove(record.cgroup)

    # changes

    async def update(self, name: str, asked: Any) -> None:
        """New limits for a container that is created or runs; what is zero stays as it was."""
        container = self.get(name)
        async with container.lock:
            record = container.record
            if record.state is ContainerState.EXITED:
                raise Precondition(f"update container {record.id}: it has ended")
            if container.running:
                wanted = spec.resources(self._host.machine, asked)
                await self._host.blocking(self._host.runtime_of(record.id).update, record.id, wanted)
            else:
                await self._host.blocking(_rewrite, container.directory, spec.resources(self._host.machine, asked))
            merged = record.config.linux.resources
            merged.MergeFrom(asked)
            await self._host.blocking(record.save, container.directory)

    async def reopen_log(self, name: str) -> None:
        """Go on in a new file under the log's name. Raises Precondition when it does not run."""
        container = self.running(name)
        await self._host.blocking(monitor.reopen_log, container.directory)

    # restart

    async def restore(self) -> None:
        """Find every container again, and how those ended that ended meanwhile. Call once, before anything else."""
        records, broken = await self._host.blocking(self._load)
        for id_ in broken:
            log.warning("half-made container removed", extra={"container": id_})
            await self._discard(id_)
        for record in records:
            container = self._all[record.id] = Container(record, self._host.config.containers / record.id)
            if record.state is ContainerState.RUNNING:
                self._watch(container)
            elif record.state is ContainerState.CREATED:
                await self._resume(container)
            elif not record.settled:
                await self._settle(container)
        for key in self._snapshots.keys():  # noqa: SIM118 - not a mapping
            if key.partition("-")[0] not in self._all:
                await self._snapshots.remove(key)

    def _load(self) -> tuple[list[ContainerRecord], list[str]]:
        records, broken = [], []
        for directory in self._host.config.containers.iterdir():
            try:
                record = ContainerRecord.load(directory)
            except Failed as error:
                log.warning("unreadable container", extra={"container": directory.name, "why": str(error)})
                record = None
            if record is None:
                broken.append(directory.name)
            else:
                records.append(record)
        return records, broken

    async def _resume(self, container: Container) -> None:
        """We may have died in the middle of its start: finish it if its command runs, undo it if not."""
        record = container.record
        seen = await self._host.blocking(monitor.exited, container.directory, record.id)
        status = await self._host.blocking(self._host.runtime_of(record.id).status, record.id)
        left = await self._host.blocking(monitor.left_behind, container.directory)
        if seen is not None:
            record.started_at = seen.at
            await self._finish(container, seen)
        elif status == "running" and len(left) == 2:
            record.monitor, record.init = left
            record.state, record.started_at = ContainerState.RUNNING, time.time_ns()
            await self._host.blocking(record.save, container.directory)
            self._watch(container)
        elif status or left:
            await self._host.blocking(self._halt, record.id, container.directory, record)

    async def close(self) -> None:
        """Let what is going on finish; containers run on."""
        for container in self:
            if container.watch is not None:
                container.watch.close()
        pending = [*self._making.values(), *self._tasks]
        if pending:
            await asyncio.wait(pending)


def _key(sandbox: str, config: Any) -> Key:
    if not config.metadata.name:
        raise Invalid("container: metadata needs a name")
    return sandbox, config.metadata.name, config.metadata.attempt


def _same(container: Container, config: Any) -> str:
    record = container.record
    if record.state is ContainerState.CREATED and record.config == config:
        return container.id
    what = f"{config.metadata.name} attempt {config.metadata.attempt}"
    raise AlreadyExists(f"container {what} exists as {container.id}, {record.state.value}; remove it first")


def _reason(code: int, kills: int) -> str:
    if code == 0:
        return "Completed"
    return "OOMKilled" if kills else "Error"


def _launch(container: Container) -> Launch:
    record = container.record
    return Launch(
        id=record.id,
        name=record.config.metadata.name,
        directory=container.directory,
        cgroup=record.cgroup,
        log=Path(record.log) if record.log else None,
        terminal=record.config.tty,
        stdin=record.config.stdin,
        stdin_once=record.config.stdin_once,
    )


def _rewrite(directory: Path, resources: dict[str, Any]) -> None:
    """Change the limits of a container that has not been started."""
    path = directory / "config.json"
    wanted = json.loads(path.read_bytes())
    for kind, values in resources.items():
        wanted["linux"]["resources"].setdefault(kind, {}).update(values)
    write(path, json.dumps(wanted))


def _erase(directory: Path) -> None:
    for point in mounts.below(directory):
        mounts.unmount(point)
    remove_tree(directory)
