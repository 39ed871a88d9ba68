"""The agent, wired: give it the API and the runtime's socket, and run it until it is cancelled.

    agent = Agent(Config(node_name="a", node_ip="192.0.2.7", instance="havre", data=…, run=…, pod_logs=…), api, socket)
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())

Cancelling it, or killing the process, stops no container.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from havre.api.meta import GVK, Obj
from havre.machinery.api import Api
from havre.machinery.informer import Informer
from havre.node.agent import rotation
from havre.node.agent.cgroups import ROOT, Cgroups
from havre.node.agent.cri import CriClient, Runtime, RuntimeFault
from havre.node.agent.garbage import Garbage
from havre.node.agent.host_files import ClusterDns
from havre.node.agent.images import Images
from havre.node.agent.inputs import PodInputs
from havre.node.agent.node import Node, NodeConfig, look_at_machine
from havre.node.agent.notes import Notes
from havre.node.agent.pods import Pods
from havre.node.agent.probes import Probes
from havre.node.agent.protocol import Giver, VolumeError
from havre.node.agent.start import Starter
from havre.node.agent.volumes import Tokens, Volumes
from havre.node.agent.worker import Parts

log = logging.getLogger(__name__)

SERVICE: Final = GVK("", "v1", "Service")
STARTS: Final = 4  # sandboxes and containers made at once: two cores and one disk gain nothing from more


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that differs from one node to the next."""

    node_name: str
    node_ip: str
    instance: str
    data: Path
    run: Path
    pod_logs: Path
    cluster_dns: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    endpoint_port: int = 10250
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Obj] = ()
    pod_cidr: str = ""
    max_pods: int = 110
    reserved: Mapping[str, str] = field(default_factory=dict)
    cgroup_root: Path = ROOT
    resolv_conf: Path = Path("/etc/resolv.conf")


async def _no_tokens(namespace: str, account: str, spec: Obj) -> Obj:
    raise VolumeError(f"request a token of service account {namespace}/{account}: this agent was given no way to")


class Agent:
    """One node. `giver` and `runtime` are made from the configuration unless a test gives its own; `tokens` requests
    the tokens of service accounts, which the nine verbs of `Api` cannot."""

    def __init__(
        self,
        config: Config,
        api: Api,
        cri_socket: Path,
        *,
        giver: Giver | None = None,
        runtime: Runtime | None = None,
        tokens: Tokens | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.api = api
        self.runtime: Runtime = runtime or CriClient(cri_socket)
        self.cgroups = Cgroups(config.instance, config.cgroup_root)
        self.node: Node | None = None
        self.pods = Pods(api, self.runtime, config.node_name, self._node_object)
        self._giver = giver
        self._tokens = tokens or _no_tokens
        self._services = Informer(api, SERVICE)
        self._clock = clock

    def _node_object(self) -> Obj:
        return self.node.object if self.node is not None else {}

    async def run(self) -> None:
        """Until cancelled."""
        config = self.config
        await asyncio.to_thread(self._make_directories)
        machine = await asyncio.to_thread(look_at_machine, config.data)
        self.node = node = Node(self._node_config(), machine, self.api, self.runtime, config.data)
        giver = self._giver or self._default_giver()
        images, notes = Images(self.runtime, self.api), Notes(self.api)
        probes = Probes(self.runtime, lambda pod, _, note: notes.tell(pod, note), self.pods.wake)
        starter = Starter(
            self.runtime,
            images,
            giver,
            config.pod_logs,
            config.data / "seccomp",
            machine.memory,
            self.cgroups.unified,
            asyncio.Semaphore(STARTS),
        )
        parts = Parts(
            api=self.api,
            runtime=self.runtime,
            starter=starter,
            probes=probes,
            cgroups=self.cgroups,
            giver=giver,
            logs=config.pod_logs,
            domain=config.cluster_domain,
            host_ips=(config.node_ip,),
            tell=notes.tell,
            refuse=self.pods.refuse,
            clock=self._clock,
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(node.run(), name="node")
                group.create_task(notes.run(), name="events")
                group.create_task(Garbage(self.runtime, config.data).run(), name="garbage")
                group.create_task(self._rotate(), name="log rotation")
                group.create_task(self._services.run(), name="services for variables")
                await node.ready.wait()
                await self._services.synced.wait()
                group.create_task(self.pods.run(parts), name="pods")
        finally:
            await probes.close()
            await images.close()
            if isinstance(self.runtime, CriClient):
                await self.runtime.close()

    def _make_directories(self) -> None:
        for directory, mode in ((self.config.data, 0o700), (self.config.run, 0o700), (self.config.pod_logs, 0o755)):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)

    def _node_config(self) -> NodeConfig:
        config = self.config
        return NodeConfig(
            name=config.node_name,
            ip=config.node_ip,
            port=config.endpoint_port,
            labels=config.labels,
            taints=config.taints,
            pod_cidr=config.pod_cidr,
            max_pods=config.max_pods,
            reserved=config.reserved,
        )

    def _default_giver(self) -> Giver:
        config = self.config
        root = config.data / "pods"
        return PodInputs(
            root,
            self.api,
            Volumes(root, self.api, self._tokens),
            services=self._services.list,
            node=self._node_object,
            dns=ClusterDns((config.cluster_dns,) if config.cluster_dns else (), config.cluster_domain),
            resolv_conf=config.resolv_conf,
        )

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(rotation.EVERY)
            try:
                await rotation.rotate_all(self.runtime)
            except RuntimeFault as fault:
                log.warning("could not look at container logs", extra={"error": str(fault)})

    async def destroy(self) -> None:
        """Unmount the volumes and remove the cgroups of all pods; for `uninstall`, after every container has been
        stopped. Raises VolumeError, CgroupError."""
        giver = self._giver or self._default_giver()
        for uid in await giver.leftovers():
            await giver.release(uid)
        await asyncio.to_thread(self.cgroups.destroy)
