"""A container runtime in memory, on the clock of the loop: containers end when their script says, stop when told."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from havre.api.meta import Obj
from havre.node.agent import names
from havre.node.agent.configs import Dns
from havre.node.agent.cri import (
    Auth,
    Container,
    ContainerStatus,
    Executed,
    Image,
    RuntimeFault,
    RuntimeState,
    Sandbox,
    SandboxStatus,
    State,
)
from havre.node.agent.protocol import GivenError, Inputs, VolumeError

EPOCH = 1_700_000_000.0  # what the loop's time 0 is


def wall() -> float:
    return EPOCH + asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class Script:
    """How a container behaves: ends by itself after `runs` seconds (None: never) with `code`; told to end it takes
    `stops` seconds (None: it must be killed)."""

    runs: float | None = None
    code: int = 0
    stops: float | None = 0.0
    reason: str = ""
    fails_to_start: str = ""


@dataclass(slots=True)
class Box:
    sandbox: Sandbox
    config: Obj
    ip: str
    host: bool


@dataclass(slots=True)
class Made:
    """A container of the fake, and the configuration it was made with."""

    status: ContainerStatus
    sandbox: str
    uid: str
    config: Obj
    script: Script
    end: asyncio.TimerHandle | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class FakeRuntime:
    """Implements `cri.Runtime`; look at `calls`, change `scripts`, `images_known`, `exec`, `faults`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.scripts: dict[str, list[Script]] = defaultdict(list)  # by container name; the last one stays
        self.boxes: dict[str, Box] = {}
        self.made: dict[str, Made] = {}
        self.images_known: dict[str, Image] = {}
        self.pullable: set[str] = set()
        self.pulls: list[tuple[str, Auth | None]] = []
        self.pull_takes = 0.0
        self.exec: Callable[[Made, Sequence[str]], Executed | float] = lambda made, command: Executed(0)
        self.faults: dict[str, RuntimeFault] = {}  # by name of the call
        self.problem = RuntimeState("havre", "1")
        self._ids = itertools.count(1)
        self._listeners: set[asyncio.Queue[str]] = set()

    # for tests

    def script(self, name: str, *scripts: Script) -> None:
        self.scripts[name] = [*scripts]

    def know(self, name: str, **fields: Any) -> None:
        self.images_known[name] = Image(id=f"sha256:{name}", tags=(name,), digests=(f"{name}@sha256:1",), **fields)

    def running(self) -> list[str]:
        return sorted(m.status.name for m in self.made.values() if m.status.state is State.RUNNING)

    def newest(self, name: str) -> Made:
        return max(
            (m for m in self.made.values() if m.status.name == name), key=lambda m: (m.status.created, m.status.id)
        )

    def finish(self, name: str, code: int = 0, reason: str = "") -> None:
        """The container ends now."""
        self._finish(self.newest(name), code, reason)

    def lose_sandbox(self) -> None:
        """The pod's sandbox dies with everything in it."""
        for box in self.boxes.values():
            box.sandbox = replace(box.sandbox, ready=False)
        for made in self.made.values():
            if made.status.state is State.RUNNING:
                self._finish(made, 137)
        self._tell("")

    def _finish(self, made: Made, code: int, reason: str = "") -> None:
        if made.status.state is not State.RUNNING:
            return
        if made.end is not None:
            made.end.cancel()
        why = reason or ("Completed" if code == 0 else "Error")
        made.status = replace(made.status, state=State.EXITED, finished=wall(), exit_code=code, reason=why)
        made.ended.set()
        self._tell(made.uid)

    def _tell(self, uid: str) -> None:
        for queue in self._listeners:
            queue.put_nowait(uid)

    def _called(self, name: str, what: str = "") -> None:
        self.calls.append(f"{name} {what}".strip())
        fault = self.faults.get(name)
        if fault is not None:
            raise fault

    # the protocol

    async def state(self) -> RuntimeState:
        return self.problem

    async def sandboxes(self, uid: str = "") -> list[Sandbox]:
        return [b.sandbox for b in self.boxes.values() if uid in ("", b.sandbox.uid)]

    async def containers(self, uid: str = "") -> list[Container]:
        return [
            Container(m.status.id, m.sandbox, m.uid, m.status.name, m.status.state, m.status.created)
            for m in self.made.values()
            if uid in ("", m.uid)
        ]

    async def sandbox_status(self, id: str) -> SandboxStatus:
        if id not in self.boxes:
            raise RuntimeFault("NOT_FOUND", f"no sandbox {id}")
        box = self.boxes[id]
        s = box.sandbox
        ips = (box.ip,) if s.ready and not box.host else ()
        return SandboxStatus(s.id, s.attempt, s.ready, s.created, ips, box.host)

    async def container_status(self, id: str) -> ContainerStatus:
        if id not in self.made:
            raise RuntimeFault("NOT_FOUND", f"no container {id}")
        return self.made[id].status

    async def run_sandbox(self, config: Obj, handler: str = "") -> str:
        self._called("run_sandbox")
        meta, number = config["metadata"], next(self._ids)
        id = f"box{number}"
        host = config["linux"]["security_context"]["namespace_options"]["network"] == 2
        sandbox = Sandbox(id, meta["uid"], meta["namespace"], meta["name"], meta["attempt"], True, wall())
        self.boxes[id] = Box(sandbox, config, f"10.42.0.{number + 1}", host)
        self._tell(meta["uid"])
        return id

    async def stop_sandbox(self, id: str) -> None:
        if id in self.boxes and self.boxes[id].sandbox.ready:
            self._called("stop_sandbox")
            for made in self.made.values():
                if made.sandbox == id:
                    self._finish(made, 137)
            self.boxes[id].sandbox = replace(self.boxes[id].sandbox, ready=False)
            self._tell(self.boxes[id].sandbox.uid)

    async def remove_sandbox(self, id: str) -> None:
        if self.boxes.pop(id, None) is not None:
            self._called("remove_sandbox")
            self.made = {key: made for key, made in self.made.items() if made.sandbox != id}

    async def create_container(self, sandbox: str, config: Obj, sandbox_config: Obj) -> str:
        name = config["metadata"]["name"]
        self._called("create", name)
        id = f"c{next(self._ids)}"
        scripts = self.scripts[name]
        script = (scripts.pop(0) if len(scripts) > 1 else scripts[0]) if scripts else Script()
        status = ContainerStatus(
            id,
            name,
            State.CREATED,
            wall(),
            image=config["image"]["user_specified_image"],
            image_ref=f"{config['image']['image']}",
            annotations=config["annotations"],
            mounts=tuple((m["host_path"], m["container_path"]) for m in config["mounts"]),
            log_path=f"{sandbox_config['log_directory']}/{config['log_path']}",
        )
        self.made[id] = Made(status, sandbox, config["labels"][names.POD_UID], config, script)
        return id

    async def start_container(self, id: str) -> None:
        made = self.made[id]
        self._called("start", made.status.name)
        if made.script.fails_to_start:
            made.status = replace(
                made.status, state=State.EXITED, exit_code=128, reason="StartError", finished=wall(), started=0.0
            )
            raise RuntimeFault("UNKNOWN", made.script.fails_to_start)
        made.status = replace(made.status, state=State.RUNNING, started=wall())
        if made.script.runs is not None:
            loop = asyncio.get_running_loop()
            made.end = loop.call_later(made.script.runs, self._finish, made, made.script.code, made.script.reason)
        self._tell(made.uid)

    async def stop_container(self, id: str, grace: int) -> None:
        made = self.made.get(id)
        if made is None:
            return
        self._called("stop", f"{made.status.name} {grace}")
        if made.status.state is not State.RUNNING:
            return
        takes = made.script.stops
        killed = takes is None or takes > grace
        wait = float(grace) if takes is None or killed else takes
        try:
            async with asyncio.timeout(wait):
                await made.ended.wait()
        except TimeoutError:
            self._finish(made, 137 if killed else 143)

    async def remove_container(self, id: str) -> None:
        made = self.made.pop(id, None)
        if made is not None:
            self._called("remove", made.status.name)

    async def update_resources(self, id: str, resources: Obj) -> None:
        self._called("update", f"{self.made[id].status.name} {resources.get('cpu_shares')}")

    async def execute(self, id: str, command: Sequence[str], timeout: float) -> Executed:
        made = self.made[id]
        self._called("exec", f"{made.status.name} {' '.join(command)}")
        done = self.exec(made, command)
        if isinstance(done, Executed):
            return done
        if timeout and done > timeout:
            await asyncio.sleep(timeout)
            raise RuntimeFault("DEADLINE_EXCEEDED", "timed out")
        await asyncio.sleep(done)
        return Executed(0)

    async def reopen_log(self, id: str) -> None:
        self._called("reopen", self.made[id].status.name)

    async def image(self, name: str) -> Image | None:
        found = (i for i in self.images_known.values() if name in (i.id, *i.tags, *i.digests))
        return next(found, None)

    async def images(self) -> list[Image]:
        return [*self.images_known.values()]

    async def pull(self, name: str, auth: Auth | None, sandbox_config: Obj) -> str:
        self.pulls.append((name, auth))
        await asyncio.sleep(self.pull_takes)
        self._called("pull", name)
        if name not in self.pullable:
            raise RuntimeFault("NOT_FOUND", f"pull {name}: not found")
        self.know(name)
        return self.images_known[name].id

    async def remove_image(self, id: str) -> None:
        self._called("remove_image", id)
        self.images_known = {key: image for key, image in self.images_known.items() if image.id != id}

    async def events(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)


class FakeGiver:
    """Implements `protocol.Giver` with nothing in it."""

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.released: list[str] = []
        self.missing = ""  # why a volume cannot be mounted
        self.refused = ""  # why a container cannot be given what it asks
        self.left: set[str] = set()

    async def prepare(self, pod: Obj) -> None:
        if self.missing:
            raise VolumeError(self.missing)
        self.prepared.append(pod["metadata"]["name"])

    async def inputs(self, pod: Obj, container: Obj, image: Image | None, ips: tuple[str, ...]) -> Inputs:
        if self.refused:
            raise GivenError(self.refused)
        return Inputs(environment=[(e["name"], e.get("value", "")) for e in container.get("env") or ()])

    def dns(self, pod: Obj) -> Dns:
        return Dns(("10.96.0.10",), ("default.svc.cluster.local",), ("ndots:5",))

    async def release(self, uid: str) -> None:
        self.released.append(uid)
        self.left.discard(uid)

    async def leftovers(self) -> set[str]:
        return set(self.left)
