"""A whole runtime for one test: its own directories, cgroups and image, driven over gRPC as an agent would."""

# ruff: noqa: ASYNC110 - a test may look at files, and at what others do, until a time limit

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.runtime import archives
from tests.unit.node.runtime.archives import Member, directory, file, symlink

from havre.node import mounts
from havre.node.runtime.config import Config
from havre.node.runtime.protocol import Network
from havre.node.runtime.serve import Runtime, serve
from havre.wire.grpc.channel import Channel
from havre.wire.grpc.messages import messages

cri = messages("runtime.v1")

IMAGE = "registry.example/busybox:1"
BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "sh sleep echo cat true false id ls nc head tail yes env hostname ps mount grep kill wc dd touch stat tr seq sync"
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n"

SECONDS = 20.0  # for anything that a test waits for

needs_runtime = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(map(shutil.which, ("conmon", "busybox")))
    or not any(map(shutil.which, ("crun", "runc"))),
    reason="runs containers: needs root, conmon, crun or runc, and busybox-static",
)


def image(
    path: Path, name: str = IMAGE, members: Sequence[Member] = (), config: Mapping[str, Any] | None = None
) -> Path:
    """An OCI archive with busybox and what else is asked for."""
    layer = archives.tar(
        *(directory(d) for d in ("bin", "etc", "proc", "sys", "dev", "home")),
        directory("tmp", mode=0o1777),
        file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(symlink("busybox", f"bin/{applet}") for applet in APPLETS.split()),
        file("etc/passwd", PASSWD),
        file("etc/group", GROUP),
        *members,
    )
    settings = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"]} | dict(config or {})
    rootfs = {"type": "layers", "diff_ids": [_digest(layer)]}
    facts = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": settings}).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", facts),
            "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
        }
    ).encode()
    entry = _descriptor(f"{kind}.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs = [file(f"blobs/sha256/{_digest(data)[7:]}", data) for data in (layer, facts, manifest)]
    path.write_bytes(
        archives.tar(file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), file("index.json", index), *blobs)
    )
    assert tarfile.is_tarfile(path)
    return path


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


@dataclass(slots=True)
class Node:
    """One instance; `config` may start it again after it was stopped."""

    config: Config
    root: Path
    runtime: Runtime
    channel: Channel
    pods: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    async def call(self, method: str, request: Any, *, timeout: float = 60, service: str = "RuntimeService") -> Any:
        return await self.channel.unary(f"runtime.v1.{service}", method, request, timeout=timeout)

    async def again(self) -> None:
        """The same instance in a new runtime."""
        self.runtime = await serve(self.config, None)
        self.channel = Channel(self.config.socket)

    def pod(self, name: str = "", **security: Any) -> Any:
        """A PodSandboxConfig with a network namespace of its own."""
        self.pods += 1
        name = name or f"pod{self.pods}"
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
            hostname=name,
            log_directory=str(self.root / "logs" / name),
            labels={"app": name},
        )
        config.linux.cgroup_parent = f"/{self.config.instance}/kubepods/{name}"
        config.linux.security_context.CopyFrom(cri.LinuxSandboxSecurityContext(**security))
        if not security.get("namespace_options"):
            config.linux.security_context.namespace_options.pid = cri.CONTAINER
        return config

    async def sandbox(self, config: Any = None) -> str:
        reply = await self.call("RunPodSandbox", cri.RunPodSandboxRequest(config=config or self.pod()))
        return str(reply.pod_sandbox_id)

    def container(self, *command: str, name: str = "main", **fields: Any) -> Any:
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=fields.pop("image", IMAGE)),
            command=command,
            log_path=f"{name}.log",
            **fields,
        )
        if not config.linux.security_context.HasField("namespace_options"):
            config.linux.security_context.namespace_options.pid = cri.CONTAINER
        return config

    async def create(self, sandbox: str, config: Any) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config)
        return str((await self.call("CreateContainer", request)).container_id)

    async def start(self, container: str) -> None:
        await self.call("StartContainer", cri.StartContainerRequest(container_id=container))

    async def run(self, sandbox: str, config: Any) -> str:
        """Created and started."""
        container = await self.create(sandbox, config)
        await self.start(container)
        return container

    async def ended(self, container: str) -> Any:
        """Its ContainerStatus, once it has ended."""
        await asyncio.wait_for(self.runtime.containers.get(container).ended.wait(), SECONDS)
        return await self.status(container)

    async def status(self, container: str) -> Any:
        return (await self.call("ContainerStatus", cri.ContainerStatusRequest(container_id=container))).status

    async def finished(self, sandbox: str, config: Any) -> tuple[Any, list[str]]:
        """Status and log lines of a container that ran to its end."""
        container = await self.run(sandbox, config)
        status = await self.ended(container)
        return status, self.log(container)

    def log(self, container: str) -> list[str]:
        """What it said, without time, stream and tag."""
        path = Path(self.runtime.containers.get(container).record.log)
        return [line.split(" ", 3)[3] for line in path.read_text().splitlines()]

    async def logged(self, container: str, text: str) -> None:
        """Returns once a line of the log holds `text`."""
        async with asyncio.timeout(SECONDS):
            while not any(text in line for line in self.log(container)):
                await asyncio.sleep(0.01)

    async def exec(self, container: str, *command: str, timeout: int = 0) -> Any:
        request = cri.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        return await self.call("ExecSync", request)

    def left(self) -> list[str]:
        """What the instance still has on the machine: mounts, cgroups, processes."""
        found = [str(point) for point in mounts.below(self.root)]
        for tree in self.runtime.containers._host.cgroups.trees():
            found += [str(tree / self.config.instance)] if (tree / self.config.instance).exists() else []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and str(self.root).encode() in _arguments(process):
                found.append(f"process {process.name}: {_arguments(process)[:200]!r}")
        return found


def _arguments(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@asynccontextmanager
async def running_node(network: Network | None = None, **settings: Any) -> AsyncIterator[Node]:
    """A node with the image; it fails the test if it leaves anything behind."""
    root = Path(tempfile.mkdtemp(prefix="havre-"))  # short: a socket's path has 107 bytes
    settings.setdefault("oci_runtime", os.environ.get("HAVRE_TEST_OCI_RUNTIME", "auto"))
    config = Config(data=root / "data", run=root / "run", instance=f"t{secrets.token_hex(3)}", **settings)
    runtime = await serve(config, network)
    node = Node(config, root, runtime, Channel(config.socket))
    try:
        await runtime.images.import_archive(image(root / "image.tar"))
        yield node
    finally:
        node.channel.close()
        await node.runtime.destroy()
    left = node.left()
    shutil.rmtree(root)
    assert left == []
