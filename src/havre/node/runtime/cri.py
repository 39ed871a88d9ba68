"""`runtime.v1.RuntimeService`: CRI over sandboxes and containers. Each method turns one message into calls and back.

Not answered, that is UNIMPLEMENTED: CheckpointContainer (needs CRIU).

Source: k8s.io/cri-api v0.34, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from havre import __version__
from havre.lang import json
from havre.node.runtime import cri_stats, exec, forwarding, spec, views
from havre.node.runtime.containers import Container, Containers
from havre.node.runtime.errors import Invalid, Precondition
from havre.node.runtime.events import Events
from havre.node.runtime.faults import answering, streaming
from havre.node.runtime.host import Host
from havre.node.runtime.protocol import Network
from havre.node.runtime.sandboxes import Sandboxes
from havre.node.runtime.streaming import Streaming
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Service
from havre.wire.streaming.portforward import PortForward
from havre.wire.streaming.remotecommand import RemoteCommand, Streams

__all__ = ["RuntimeService"]

cri = messages("runtime.v1")

NAME = "havre"
API_VERSION = "v1"
PORTS_LIMIT = 65535


class RuntimeService:
    """The handlers; `service()` is what a gRPC server takes."""

    def __init__(
        self,
        host: Host,
        network: Network | None,
        sandboxes: Sandboxes,
        containers: Containers,
        streams: Streaming,
        events: Events,
        stats: cri_stats.Stats,
    ) -> None:
        self._host = host
        self._network = network
        self._sandboxes = sandboxes
        self._containers = containers
        self._streaming = streams
        self._events = events
        self._stats = stats
        self._pod_cidr = host.config.pod_cidr

    def service(self) -> Service:
        unary = {
            "Version": self.version,
            "Status": self.status,
            "UpdateRuntimeConfig": self.update_runtime_config,
            "RuntimeConfig": self.runtime_config,
            "RunPodSandbox": self.run_pod_sandbox,
            "StopPodSandbox": self.stop_pod_sandbox,
            "RemovePodSandbox": self.remove_pod_sandbox,
            "PodSandboxStatus": self.pod_sandbox_status,
            "ListPodSandbox": self.list_pod_sandbox,
            "UpdatePodSandboxResources": self.update_pod_sandbox_resources,
            "CreateContainer": self.create_container,
            "StartContainer": self.start_container,
            "StopContainer": self.stop_container,
            "RemoveContainer": self.remove_container,
            "ListContainers": self.list_containers,
            "ContainerStatus": self.container_status,
            "UpdateContainerResources": self.update_container_resources,
            "ReopenContainerLog": self.reopen_container_log,
            "ExecSync": self.exec_sync,
            "Exec": self.exec,
            "Attach": self.attach,
            "PortForward": self.port_forward,
        }
        methods: dict[str, Any] = {name: answering(method) for name, method in (unary | self._stats.methods()).items()}
        methods["GetContainerEvents"] = streaming(self.get_container_events)
        return Service("runtime.v1.RuntimeService", methods)

    # the runtime itself

    async def version(self, request: Any) -> Any:
        return cri.VersionResponse(
            version="0.1.0",  # of the kubelet's runtime API; every runtime answers this
            runtime_name=NAME,
            runtime_version=__version__,
            runtime_api_version=API_VERSION,
        )

    async def status(self, request: Any) -> Any:
        ready = self._network is None or self._network.ready()
        conditions = [
            cri.RuntimeCondition(type="RuntimeReady", status=True),
            cri.RuntimeCondition(
                type="NetworkReady",
                status=ready,
                reason="" if ready else "NetworkNotReady",
                message="" if ready else "the pod network has not started yet",
            ),
        ]
        features = cri.RuntimeHandlerFeatures(recursive_read_only_mounts=self._host.machine.recursive_read_only)
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=conditions),
            info=self._info() if request.verbose else {},
            runtime_handlers=[cri.RuntimeHandler(name=name, features=features) for name in ("", NAME)],
            features=cri.RuntimeFeatures(supplemental_groups_policy=True),
        )

    def _info(self) -> dict[str, str]:
        config, oci = self._host.config, self._host.oci
        facts = {
            "ociRuntime": oci.name,
            "ociRuntimeVersion": oci.version,
            "cgroups": "unified" if self._host.cgroups.unified else "hybrid" if self._host.cgroups.hybrid else "legacy",
            "instance": config.instance,
            "data": str(config.data),
            "run": str(config.run),
            "podCIDR": self._pod_cidr,
        }
        return {"config": json.dumps(facts).decode(), "golang": "none"}

    async def update_runtime_config(self, request: Any) -> Any:
        """The pod network has its range from the instance's settings; the agent's is kept to be reported."""
        if cidr := request.runtime_config.network_config.pod_cidr:
            self._pod_cidr = cidr
        return cri.UpdateRuntimeConfigResponse()

    async def runtime_config(self, request: Any) -> Any:
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CGROUPFS))

    # sandboxes

    async def run_pod_sandbox(self, request: Any) -> Any:
        id_ = await self._sandboxes.run(request.config, request.runtime_handler)
        return cri.RunPodSandboxResponse(pod_sandbox_id=id_)

    async def stop_pod_sandbox(self, request: Any) -> Any:
        await self._sandboxes.stop(request.pod_sandbox_id)
        return cri.StopPodSandboxResponse()

    async def remove_pod_sandbox(self, request: Any) -> Any:
        await self._sandboxes.remove(request.pod_sandbox_id)
        return cri.RemovePodSandboxResponse()

    async def pod_sandbox_status(self, request: Any) -> Any:
        sandbox = self._sandboxes.get(request.pod_sandbox_id)
        info = {}
        if request.verbose:
            namespaces = self._sandboxes.pod(sandbox).namespaces
            facts = {"pid": sandbox.record.pause.pid, "cgroup": sandbox.record.cgroup, "namespaces": dict(namespaces)}
            info["info"] = json.dumps(facts).decode()
        return cri.PodSandboxStatusResponse(
            status=views.sandbox_status(sandbox),
            info=info,
            containers_statuses=[views.container_status(found) for found in self._containers.of(sandbox.id)],
            timestamp=time.time_ns(),
        )

    async def list_pod_sandbox(self, request: Any) -> Any:
        found = [views.sandbox(s) for s in self._sandboxes if views.matches_sandbox(s, request.filter)]
        return cri.ListPodSandboxResponse(items=found)

    async def update_pod_sandbox_resources(self, request: Any) -> Any:
        """The pod's cgroup is the agent's, who has changed it before asking; nothing here depends on it."""
        self._sandboxes.get(request.pod_sandbox_id)
        return cri.UpdatePodSandboxResourcesResponse()

    # containers

    async def create_container(self, request: Any) -> Any:
        sandbox = self._sandboxes.get(request.pod_sandbox_id)
        id_ = await self._containers.create(self._sandboxes, sandbox, request.config)
        return cri.CreateContainerResponse(container_id=id_)

    async def start_container(self, request: Any) -> Any:
        container = self._containers.get(request.container_id)
        if not self._sandboxes.get(container.record.sandbox).record.ready:
            raise Precondition(f"start container {container.id}: its sandbox {container.record.sandbox} is not ready")
        await self._containers.start(container.id)
        return cri.StartContainerResponse()

    async def stop_container(self, request: Any) -> Any:
        await self._containers.stop(request.container_id, request.timeout)
        return cri.StopContainerResponse()

    async def remove_container(self, request: Any) -> Any:
        await self._containers.remove(request.container_id)
        return cri.RemoveContainerResponse()

    async def list_containers(self, request: Any) -> Any:
        found = [views.container(c) for c in self._containers if views.matches_container(c, request.filter)]
        return cri.ListContainersResponse(containers=found)

    async def container_status(self, request: Any) -> Any:
        container = self._containers.get(request.container_id)
        info = await self._host.blocking(self._details, container) if request.verbose else {}
        return cri.ContainerStatusResponse(status=views.container_status(container), info=info)

    def _details(self, container: Container) -> dict[str, str]:
        record = container.record
        facts = {
            "sandboxID": record.sandbox,
            "pid": record.init.pid if container.running else 0,
            "cgroup": record.cgroup,
            "cgroupID": self._host.cgroups.id(record.cgroup),
            "ociRuntime": self._host.runtime_of(record.id).name,
            "runtimeSpec": json.loads((container.directory / "config.json").read_bytes()),
        }
        return {"info": json.dumps(facts).decode()}

    async def update_container_resources(self, request: Any) -> Any:
        await self._containers.update(request.container_id, request.linux)
        return cri.UpdateContainerResourcesResponse()

    async def reopen_container_log(self, request: Any) -> Any:
        await self._containers.reopen_log(request.container_id)
        return cri.ReopenContainerLogResponse()

    # commands and streams

    async def exec_sync(self, request: Any) -> Any:
        container = self._containers.running(request.container_id)
        output = await exec.run(self._host, container, list(request.cmd), request.timeout)
        return cri.ExecSyncResponse(stdout=output.stdout, stderr=output.stderr, exit_code=output.code)

    async def exec(self, request: Any) -> Any:
        container = self._containers.running(request.container_id)
        command = list(request.cmd)
        spec.process_for_exec({"env": []}, command, terminal=request.tty)  # raises for what cannot be run

        async def run(remote: RemoteCommand) -> None:
            await exec.stream(self._host, container, command, remote)

        return cri.ExecResponse(url=self._streaming.command("exec", _streams(request), run))

    async def attach(self, request: Any) -> Any:
        container = self._containers.running(request.container_id)

        async def run(remote: RemoteCommand) -> None:
            await exec.attach(container, remote)

        return cri.AttachResponse(url=self._streaming.command("attach", _streams(request), run))

    async def port_forward(self, request: Any) -> Any:
        sandbox = self._sandboxes.get(request.pod_sandbox_id)
        if not sandbox.record.ready:
            raise Precondition(f"port-forward to sandbox {sandbox.id}: it is not ready")
        if any(not 0 < port <= PORTS_LIMIT for port in request.port):
            raise Invalid(f"port-forward to sandbox {sandbox.id}: ports are 1 to {PORTS_LIMIT}")

        async def run(session: PortForward) -> None:
            await forwarding.forward(self._host, self._sandboxes.netns(sandbox), session)

        return cri.PortForwardResponse(url=self._streaming.ports(run))

    # events

    async def get_container_events(self, request: Any) -> AsyncIterator[Any]:
        async for event in self._events.subscribe():
            yield event


def _streams(request: Any) -> Streams:
    if not (request.stdin or request.stdout or request.stderr):
        raise Invalid("one of stdin, stdout or stderr must be asked for")
    if request.tty and request.stderr:
        raise Invalid("a terminal has no stderr of its own: ask for tty or stderr")
    return Streams(request.stdin, request.stdout, request.stderr, request.tty)
