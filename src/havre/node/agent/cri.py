"""The container runtime as the agent sees it: a small protocol of plain values, and its client over CRI.

`Runtime` is what the rest of the agent uses and what tests replace by one in memory; `CriClient` speaks CRI v1 on the
runtime's unix socket. Configurations of sandboxes and containers are the CRI messages as nested dicts with the names of
the protocol's fields, so that they are built and tested without it.

Source: k8s.io/cri-api pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from havre.api.meta import Obj
from havre.node.agent import names
from havre.wire.grpc.channel import Channel
from havre.wire.grpc.errors import GrpcError
from havre.wire.grpc.messages import messages

TIMEOUT: Final = 120.0  # seconds of one call: kubelet's --runtime-request-timeout of 2 minutes
QUICK: Final = 10.0  # seconds of a call that only reads
PULL: Final = 3600.0  # seconds of an image pull: 10 GB on a slow line
STOP_SLACK: Final = 120.0  # seconds beyond the grace that a stop may take
_RUNTIME: Final = "runtime.v1.RuntimeService"
_IMAGES: Final = "runtime.v1.ImageService"
_NANO = 1_000_000_000


class RuntimeFault(Exception):
    """The runtime refused or did not answer; `code` is the gRPC status (`NOT_FOUND`), the text its own words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class State(Enum):
    """What a container is doing, in CRI's words."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


_STATES = {0: State.CREATED, 1: State.RUNNING, 2: State.EXITED, 3: State.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod sandbox of a list. `created` in seconds since the epoch."""

    id: str
    uid: str
    namespace: str
    name: str
    attempt: int
    ready: bool
    created: float


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """A pod sandbox looked at: also its addresses, empty on the host's network."""

    id: str
    attempt: int
    ready: bool
    created: float
    ips: tuple[str, ...] = ()
    host_network: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a list."""

    id: str
    sandbox: str
    uid: str
    name: str
    state: State
    created: float


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """A container looked at; times in seconds since the epoch, 0 when it has not happened."""

    id: str
    name: str
    state: State
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    log_path: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[tuple[str, str], ...] = ()  # (path on the host, path in the container)
    user: tuple[int, int, tuple[int, ...]] | None = None  # uid, gid, supplementary groups

    @property
    def restart_count(self) -> int:
        return names.number(self.annotations, names.RESTART_COUNT)

    @property
    def hash(self) -> str:
        return self.annotations.get(names.HASH, "")

    @property
    def back_off(self) -> float:
        return names.seconds(self.annotations, names.BACK_OFF)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store; `uid` or `user` is whom it runs as."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    uid: int | None = None
    user: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials for one registry."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Executed:
    """A command that ran to its end."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """Whether pods can be run: "" or why not."""

    name: str = ""
    version: str = ""
    not_ready: str = ""
    network_not_ready: str = ""


class Runtime(Protocol):
    """What the agent needs of a runtime. Everything raises RuntimeFault; stops and removals of what is gone do not."""

    async def state(self) -> RuntimeState: ...

    async def sandboxes(self, uid: str = "") -> list[Sandbox]:
        """Of one pod, or all."""
        ...

    async def containers(self, uid: str = "") -> list[Container]: ...

    async def sandbox_status(self, id: str) -> SandboxStatus: ...

    async def container_status(self, id: str) -> ContainerStatus: ...

    async def run_sandbox(self, config: Obj, handler: str = "") -> str:
        """Its id, once its network is up."""
        ...

    async def stop_sandbox(self, id: str) -> None: ...

    async def remove_sandbox(self, id: str) -> None:
        """With everything in it."""
        ...

    async def create_container(self, sandbox: str, config: Obj, sandbox_config: Obj) -> str: ...

    async def start_container(self, id: str) -> None: ...

    async def stop_container(self, id: str, grace: int) -> None:
        """Returns when it has ended; asked again with a shorter grace, the shorter one holds."""
        ...

    async def remove_container(self, id: str) -> None: ...

    async def update_resources(self, id: str, resources: Obj) -> None:
        """Give a running container other limits, as LinuxContainerResources."""
        ...

    async def execute(self, id: str, command: Sequence[str], timeout: float) -> Executed:
        """Raises RuntimeFault DEADLINE_EXCEEDED when the command was killed after `timeout` seconds (0: never)."""
        ...

    async def reopen_log(self, id: str) -> None: ...

    async def image(self, name: str) -> Image | None: ...

    async def images(self) -> list[Image]: ...

    async def pull(self, name: str, auth: Auth | None, sandbox_config: Obj) -> str:
        """The reference by which a container is made of it."""
        ...

    async def remove_image(self, id: str) -> None: ...

    def events(self) -> AsyncIterator[str]:
        """The uid of a pod ("": unknown) each time one of its containers changes; ends or fails when the line does."""
        ...


class CriClient:
    """Implements `Runtime` on the socket of a CRI runtime; connects when it is first asked."""

    def __init__(self, socket: Path) -> None:
        self._channel = Channel(socket)
        self._m: Any = messages("runtime.v1")

    async def close(self) -> None:
        self._channel.close()

    async def state(self) -> RuntimeState:
        version = await self._runtime("Version", self._m.VersionRequest(version="v1"), QUICK)
        status = (await self._runtime("Status", self._m.StatusRequest(), QUICK)).status
        bad = {c.type: c.message or c.reason or "not ready" for c in status.conditions if not c.status}
        return RuntimeState(
            version.runtime_name, version.runtime_version, bad.get("RuntimeReady", ""), bad.get("NetworkReady", "")
        )

    async def sandboxes(self, uid: str = "") -> list[Sandbox]:
        wanted = self._m.PodSandboxFilter(label_selector={names.POD_UID: uid} if uid else {})
        reply = await self._runtime("ListPodSandbox", self._m.ListPodSandboxRequest(filter=wanted), QUICK)
        return [_sandbox(item) for item in reply.items]

    async def containers(self, uid: str = "") -> list[Container]:
        wanted = self._m.ContainerFilter(label_selector={names.POD_UID: uid} if uid else {})
        reply = await self._runtime("ListContainers", self._m.ListContainersRequest(filter=wanted), QUICK)
        return [_container(item) for item in reply.containers]

    async def sandbox_status(self, id: str) -> SandboxStatus:
        request = self._m.PodSandboxStatusRequest(pod_sandbox_id=id)
        return _sandbox_status((await self._runtime("PodSandboxStatus", request, QUICK)).status)

    async def container_status(self, id: str) -> ContainerStatus:
        request = self._m.ContainerStatusRequest(container_id=id)
        return _container_status((await self._runtime("ContainerStatus", request, QUICK)).status)

    async def run_sandbox(self, config: Obj, handler: str = "") -> str:
        request = self._m.RunPodSandboxRequest(config=self._m.PodSandboxConfig(**config), runtime_handler=handler)
        return str((await self._runtime("RunPodSandbox", request, TIMEOUT)).pod_sandbox_id)

    async def stop_sandbox(self, id: str) -> None:
        await self._gone_is_fine("StopPodSandbox", self._m.StopPodSandboxRequest(pod_sandbox_id=id))

    async def remove_sandbox(self, id: str) -> None:
        await self._gone_is_fine("RemovePodSandbox", self._m.RemovePodSandboxRequest(pod_sandbox_id=id))

    async def create_container(self, sandbox: str, config: Obj, sandbox_config: Obj) -> str:
        request = self._m.CreateContainerRequest(
            pod_sandbox_id=sandbox,
            config=self._m.ContainerConfig(**config),
            sandbox_config=self._m.PodSandboxConfig(**sandbox_config),
        )
        return str((await self._runtime("CreateContainer", request, TIMEOUT)).container_id)

    async def start_container(self, id: str) -> None:
        await self._runtime("StartContainer", self._m.StartContainerRequest(container_id=id), TIMEOUT)

    async def stop_container(self, id: str, grace: int) -> None:
        request = self._m.StopContainerRequest(container_id=id, timeout=grace)
        await self._gone_is_fine("StopContainer", request, grace + STOP_SLACK)

    async def remove_container(self, id: str) -> None:
        await self._gone_is_fine("RemoveContainer", self._m.RemoveContainerRequest(container_id=id))

    async def update_resources(self, id: str, resources: Obj) -> None:
        request = self._m.UpdateContainerResourcesRequest(
            container_id=id, linux=self._m.LinuxContainerResources(**resources)
        )
        await self._runtime("UpdateContainerResources", request, TIMEOUT)

    async def execute(self, id: str, command: Sequence[str], timeout: float) -> Executed:
        whole = max(1, round(timeout)) if timeout else 0
        request = self._m.ExecSyncRequest(container_id=id, cmd=[*command], timeout=whole)
        reply = await self._runtime("ExecSync", request, whole + QUICK if whole else None)
        return Executed(reply.exit_code, bytes(reply.stdout), bytes(reply.stderr))

    async def reopen_log(self, id: str) -> None:
        await self._runtime("ReopenContainerLog", self._m.ReopenContainerLogRequest(container_id=id), QUICK)

    async def image(self, name: str) -> Image | None:
        request = self._m.ImageStatusRequest(image=self._m.ImageSpec(image=name))
        reply = await self._call(_IMAGES, "ImageStatus", request, QUICK)
        return _image(reply.image) if reply.HasField("image") and reply.image.id else None

    async def images(self) -> list[Image]:
        reply = await self._call(_IMAGES, "ListImages", self._m.ListImagesRequest(), QUICK)
        return [_image(item) for item in reply.images]

    async def pull(self, name: str, auth: Auth | None, sandbox_config: Obj) -> str:
        request = self._m.PullImageRequest(
            image=self._m.ImageSpec(image=name), sandbox_config=self._m.PodSandboxConfig(**sandbox_config)
        )
        if auth is not None:
            request.auth.CopyFrom(
                self._m.AuthConfig(
                    username=auth.username,
                    password=auth.password,
                    identity_token=auth.identity_token,
                    registry_token=auth.registry_token,
                )
            )
        return str((await self._call(_IMAGES, "PullImage", request, PULL)).image_ref)

    async def remove_image(self, id: str) -> None:
        request = self._m.RemoveImageRequest(image=self._m.ImageSpec(image=id))
        await self._call(_IMAGES, "RemoveImage", request, TIMEOUT)

    async def events(self) -> AsyncIterator[str]:
        stream = self._channel.stream(_RUNTIME, "GetContainerEvents", self._m.GetEventsRequest())
        try:
            async with aclosing(stream):
                async for event in stream:
                    yield str(event.pod_sandbox_status.metadata.uid)
        except GrpcError as error:
            raise _fault(error) from error

    async def _gone_is_fine(self, method: str, request: Any, timeout: float = TIMEOUT) -> None:
        try:
            await self._runtime(method, request, timeout)
        except RuntimeFault as fault:
            if fault.code != "NOT_FOUND":
                raise

    async def _runtime(self, method: str, request: Any, timeout: float | None) -> Any:
        return await self._call(_RUNTIME, method, request, timeout)

    async def _call(self, service: str, method: str, request: Any, timeout: float | None) -> Any:
        try:
            return await self._channel.unary(service, method, request, timeout=timeout)
        except GrpcError as error:
            raise _fault(error) from error


def _fault(error: GrpcError) -> RuntimeFault:
    return RuntimeFault(error.status.name, error.message)


def _sandbox(item: Any) -> Sandbox:
    meta = item.metadata
    return Sandbox(item.id, meta.uid, meta.namespace, meta.name, meta.attempt, item.state == 0, item.created_at / _NANO)


def _sandbox_status(status: Any) -> SandboxStatus:
    network = status.network
    ips = tuple(ip for ip in (network.ip, *(extra.ip for extra in network.additional_ips)) if ip)
    host = status.linux.namespaces.options.network == 2  # NamespaceMode NODE
    return SandboxStatus(status.id, status.metadata.attempt, status.state == 0, status.created_at / _NANO, ips, host)


def _container(item: Any) -> Container:
    labels = item.labels
    return Container(
        item.id,
        item.pod_sandbox_id,
        labels.get(names.POD_UID, ""),
        labels.get(names.CONTAINER_NAME, item.metadata.name),
        _STATES.get(item.state, State.UNKNOWN),
        item.created_at / _NANO,
    )


def _container_status(status: Any) -> ContainerStatus:
    linux = status.user.linux if status.HasField("user") and status.user.HasField("linux") else None
    return ContainerStatus(
        id=status.id,
        name=status.labels.get(names.CONTAINER_NAME, status.metadata.name),
        state=_STATES.get(status.state, State.UNKNOWN),
        created=status.created_at / _NANO,
        started=status.started_at / _NANO,
        finished=status.finished_at / _NANO,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.image,
        image_ref=status.image_ref,
        log_path=status.log_path,
        annotations=dict(status.annotations),
        mounts=tuple((m.host_path, m.container_path) for m in status.mounts),
        user=(linux.uid, linux.gid, tuple(linux.supplemental_groups)) if linux is not None else None,
    )


def _image(image: Any) -> Image:
    uid = image.uid.value if image.HasField("uid") else None
    return Image(
        image.id, tuple(image.repo_tags), tuple(image.repo_digests), image.size, uid, image.username, image.pinned
    )
