"""CRI over the socket: lists and filters, names, errors, images, statistics, events; and Debian's ctr as a referee."""

# ruff: noqa: ASYNC110 - a test may look at files, and at what others do, until a time limit

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.kernel.runtime.node import IMAGE, Node, cri, needs_runtime, running_node

from havre.node.runtime.protocol import PodIdentity, PortMapping
from havre.wire.grpc.errors import GrpcError, Status

pytestmark = needs_runtime


async def test_version_and_status(node: Node) -> None:
    version = await node.call("Version", cri.VersionRequest())
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "havre", "v1")
    status = await node.call("Status", cri.StatusRequest(verbose=True))
    assert {c.type: c.status for c in status.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert '"ociRuntime":"' in status.info["config"]
    config = await node.call("RuntimeConfig", cri.RuntimeConfigRequest())
    assert config.linux.cgroup_driver == cri.CGROUPFS


async def test_ctr_shows_the_version(node: Node) -> None:
    if shutil.which("ctr") is None:
        pytest.skip("ctr of containerd is not installed")
    process = await asyncio.create_subprocess_exec(
        "ctr", "--address", str(node.config.socket), "version", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"Revision: havre" in output


async def test_a_sandbox_has_status_and_is_listed(node: Node) -> None:
    pod = node.pod("web")
    sandbox = await node.sandbox(pod)
    status = (await node.call("PodSandboxStatus", cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))).status
    assert (status.state, status.metadata, dict(status.labels)) == (cri.SANDBOX_READY, pod.metadata, {"app": "web"})
    assert status.linux.namespaces.options.pid == cri.CONTAINER

    async def listed(**wanted: object) -> list[str]:
        request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(**wanted))
        return [item.id for item in (await node.call("ListPodSandbox", request)).items]

    assert await listed() == [sandbox]
    assert await listed(label_selector={"app": "web"}) == [sandbox]
    assert await listed(label_selector={"app": "other"}) == []
    assert await listed(id=sandbox[:13]) == [sandbox]
    assert await listed(state=cri.PodSandboxStateValue(state=cri.SANDBOX_NOTREADY)) == []


async def test_containers_are_listed_by_sandbox_state_and_label(node: Node) -> None:
    first, second = await node.sandbox(), await node.sandbox()
    running = await node.run(first, node.container("sleep", "60", labels={"tier": "a"}))
    created = await node.create(second, node.container("true", labels={"tier": "b"}))

    async def listed(**wanted: object) -> set[str]:
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(**wanted))
        return {item.id for item in (await node.call("ListContainers", request)).containers}

    assert await listed() == {running, created}
    assert await listed(pod_sandbox_id=first) == {running}
    assert await listed(state=cri.ContainerStateValue(state=cri.CONTAINER_CREATED)) == {created}
    assert await listed(label_selector={"tier": "a"}) == {running}


async def test_what_is_not_there_is_not_found_or_fine(node: Node) -> None:
    for method, request in (
        ("ContainerStatus", cri.ContainerStatusRequest(container_id="x")),
        ("StartContainer", cri.StartContainerRequest(container_id="x")),
        ("PodSandboxStatus", cri.PodSandboxStatusRequest(pod_sandbox_id="x")),
        ("ExecSync", cri.ExecSyncRequest(container_id="x", cmd=["true"])),
    ):
        with pytest.raises(GrpcError) as missing:
            await node.call(method, request)
        assert missing.value.status is Status.NOT_FOUND
    await node.call("StopContainer", cri.StopContainerRequest(container_id="x"))
    await node.call("RemoveContainer", cri.RemoveContainerRequest(container_id="x"))
    await node.call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id="x"))
    await node.call("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id="x"))


async def test_the_same_sandbox_asked_for_twice_is_one(node: Node) -> None:
    pod = node.pod()
    first, second = await asyncio.gather(node.sandbox(pod), node.sandbox(pod))
    assert first == second
    other = node.pod("pod1")
    other.hostname = "different"
    with pytest.raises(GrpcError) as taken:
        await node.sandbox(other)
    assert taken.value.status is Status.ALREADY_EXISTS


async def test_a_create_that_timed_out_is_finished_by_asking_again(node: Node) -> None:
    sandbox = await node.sandbox()
    config = node.container("sleep", "60")
    request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config)
    with pytest.raises(GrpcError) as late:
        await node.call("CreateContainer", request, timeout=0.001)
    assert late.value.status is Status.DEADLINE_EXCEEDED
    container = await node.create(sandbox, config)
    assert [c.id for c in (await node.call("ListContainers", cri.ListContainersRequest())).containers] == [container]


async def test_a_name_is_free_again_after_a_failed_create(node: Node) -> None:
    sandbox = await node.sandbox()
    with pytest.raises(GrpcError, match="pull it first"):
        await node.create(sandbox, node.container("true", image="registry.example/none:1"))
    bad = node.container("true")
    bad.linux.security_context.run_as_username = "nobody-here"
    with pytest.raises(GrpcError, match="nobody-here"):
        await node.create(sandbox, bad)
    assert (await node.finished(sandbox, node.container("true")))[0].exit_code == 0
    assert len(node.runtime.snapshots.keys()) == 1


async def test_a_stopped_sandbox_is_not_ready_and_starts_nothing(node: Node) -> None:
    sandbox = await node.sandbox()
    running = await node.run(sandbox, node.container("sleep", "60"))
    await node.call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    await node.call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    status = await node.call("PodSandboxStatus", cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
    assert status.status.state == cri.SANDBOX_NOTREADY
    assert (await node.status(running)).exit_code == 137
    with pytest.raises(GrpcError, match="is not ready"):
        await node.create(sandbox, node.container("true", name="late"))


async def test_removing_a_sandbox_removes_its_containers(node: Node) -> None:
    sandbox = await node.sandbox()
    await node.run(sandbox, node.container("sleep", "60"))
    await node.call("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
    assert (await node.call("ListContainers", cri.ListContainersRequest())).containers == []
    assert list(node.config.containers.iterdir()) == []
    assert list(node.config.netns.iterdir()) == []


async def test_a_container_starts_only_once(node: Node) -> None:
    sandbox = await node.sandbox()
    container = await node.run(sandbox, node.container("sleep", "60"))
    with pytest.raises(GrpcError, match="it is running, not created"):
        await node.start(container)


async def test_a_running_container_that_is_removed_is_killed(node: Node) -> None:
    container = await node.run(await node.sandbox(), node.container("sleep", "60"))
    init = node.runtime.containers.get(container).record.init
    await node.call("RemoveContainer", cri.RemoveContainerRequest(container_id=container))
    assert not init.alive()


async def test_images_are_listed_shown_and_removed(node: Node) -> None:
    async def call(method: str, request: object) -> object:
        return await node.call(method, request, service="ImageService")

    listed = await call("ListImages", cri.ListImagesRequest())
    (found,) = listed.images  # type: ignore[attr-defined]
    assert list(found.repo_tags) == [IMAGE]
    assert found.size > 1_000_000
    shown = await call("ImageStatus", cri.ImageStatusRequest(image=cri.ImageSpec(image=found.id), verbose=True))
    assert '"FROM_IMAGE=yes"' in shown.info["info"]  # type: ignore[attr-defined]
    missing = await call("ImageStatus", cri.ImageStatusRequest(image=cri.ImageSpec(image="registry.example/no:1")))
    assert not missing.HasField("image")  # type: ignore[attr-defined]
    usage = await call("ImageFsInfo", cri.ImageFsInfoRequest())
    assert usage.image_filesystems[0].used_bytes.value > 2_000_000  # type: ignore[attr-defined]
    await call("RemoveImage", cri.RemoveImageRequest(image=cri.ImageSpec(image=IMAGE)))
    await call("RemoveImage", cri.RemoveImageRequest(image=cri.ImageSpec(image=IMAGE)))
    assert node.runtime.images.find(IMAGE) is None


async def test_a_container_outlives_the_name_of_its_image(node: Node) -> None:
    container = await node.create(await node.sandbox(), node.container("true"))
    request = cri.RemoveImageRequest(image=cri.ImageSpec(image=IMAGE))
    await node.call("RemoveImage", request, service="ImageService")
    await node.start(container)
    assert (await node.ended(container)).exit_code == 0


async def test_statistics_count_cpu_memory_and_writes(node: Node) -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=3 2>/dev/null; echo up; while :; do :; done"
    sandbox = await node.sandbox()
    container = await node.run(sandbox, node.container("sh", "-c", script))
    await node.logged(container, "up")
    stats = (await node.call("ContainerStats", cri.ContainerStatsRequest(container_id=container))).stats
    assert stats.attributes.id == container
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0
    assert stats.writable_layer.used_bytes.value >= 3 << 20
    async with asyncio.timeout(10):
        while not stats.cpu.usage_nano_cores.value:
            stats = (await node.call("ContainerStats", cri.ContainerStatsRequest(container_id=container))).stats
    pods = (await node.call("ListPodSandboxStats", cri.ListPodSandboxStatsRequest())).stats
    assert [pod.attributes.id for pod in pods] == [sandbox]
    assert pods[0].linux.process.process_count.value == 1
    assert [c.attributes.id for c in pods[0].linux.containers] == [container]


async def test_events_tell_of_every_change(node: Node) -> None:
    sandbox = await node.sandbox()
    seen: list[int] = []
    async with aclosing(
        node.channel.stream("runtime.v1.RuntimeService", "GetContainerEvents", cri.GetEventsRequest())
    ) as events:
        first = asyncio.ensure_future(anext(events))
        while not node.runtime.events.wanted:
            await asyncio.sleep(0)
        container = await node.run(sandbox, node.container("true"))
        await node.ended(container)
        await node.call("RemoveContainer", cri.RemoveContainerRequest(container_id=container))
        event = await first
        assert (event.container_id, event.pod_sandbox_status.id) == (container, sandbox)
        seen.append(event.container_event_type)
        while len(seen) < 4:
            seen.append((await anext(events)).container_event_type)
    assert seen == [
        cri.CONTAINER_CREATED_EVENT,
        cri.CONTAINER_STARTED_EVENT,
        cri.CONTAINER_STOPPED_EVENT,
        cri.CONTAINER_DELETED_EVENT,
    ]


class FakeNetwork:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.attached: dict[str, tuple[PodIdentity, bool, Sequence[PortMapping]]] = {}
        self.up = False

    async def attach(self, pod: PodIdentity, netns: Path, ports: Sequence[PortMapping]) -> str:
        self.attached[pod.sandbox] = pod, await asyncio.to_thread(netns.exists), ports
        return "10.42.0.9"

    async def detach(self, sandbox: str) -> None:
        self.attached.pop(sandbox, None)

    def ready(self) -> bool:
        return self.up

    async def restore(self, sandboxes: Mapping[str, Path]) -> None:
        assert not sandboxes


async def test_the_network_is_asked_for_an_address_and_released() -> None:
    network = FakeNetwork()
    async with running_node(network=network) as node:
        status = await node.call("Status", cri.StatusRequest())
        assert {c.type: c.status for c in status.status.conditions}["NetworkReady"] is False
        pod = node.pod("web")
        pod.port_mappings.add(container_port=80, host_port=8080)
        pod.port_mappings.add(container_port=81)
        sandbox = await node.sandbox(pod)
        found = await node.call("PodSandboxStatus", cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
        assert found.status.network.ip == "10.42.0.9"
        identity, there, ports = network.attached[sandbox]
        assert (identity.name, identity.namespace, there) == ("web", "default", True)
        assert list(ports) == [PortMapping("TCP", 80, 8080)]
        await node.call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        assert network.attached == {}


async def test_a_status_costs_little(node: Node) -> None:
    """A guard against work that grows: 50 calls with 1 container take well under a second."""
    container = await node.create(await node.sandbox(), node.container("true"))
    begun = time.monotonic()
    for _ in range(50):
        await node.status(container)
    assert time.monotonic() - begun < 2
