"""kill -9 of the runtime at inconvenient moments: containers run on, exits are known, halves are cleaned up."""

# ruff: noqa: ASYNC110 - a test may look at files, and at what others do, until a time limit

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.kernel.runtime.node import SECONDS, Node, cri, needs_runtime

import havre
from havre.node import mounts
from havre.node.runtime import netns
from havre.node.runtime.records import FILE
from havre.wire.grpc.channel import Channel

pytestmark = needs_runtime

SERVE = """
import asyncio, sys
from pathlib import Path
from havre.node.runtime.serve import Config, serve
async def main():
    await serve(Config(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]), None)
    print("serving", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@asynccontextmanager
async def another_process(node: Node) -> AsyncIterator[asyncio.subprocess.Process]:
    """The node's instance, served by a process of its own that can be killed; taken back at the end."""
    await node.runtime.close()
    node.channel.close()
    config = node.config
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(config.data), str(config.run), config.instance,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(havre.__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), SECONDS) == b"serving\n"
        node.channel = Channel(config.socket)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        node.channel.close()
        await node.again()


async def test_a_container_runs_on_and_its_later_exit_is_seen(node: Node) -> None:
    async with another_process(node):
        sandbox = await node.sandbox()
        script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"
        container = await node.run(sandbox, node.container("sh", "-c", script))
        init = (await node.call("ContainerStatus", cri.ContainerStatusRequest(container_id=container))).status

    status = await node.status(container)
    assert (status.state, status.started_at) == (cri.CONTAINER_RUNNING, init.started_at)
    await node.logged(container, "up")
    assert (await node.exec(container, "echo", "alive")).stdout == b"alive\n"
    await node.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=20))
    assert (await node.status(container)).exit_code == 5


async def test_an_exit_while_we_are_dead_is_reported_with_its_code_and_time(node: Node) -> None:
    flag = node.root / "flag"
    flag.mkdir()
    config = node.container("sh", "-c", "while ! test -e /flag/go; do sleep 0.02; done; echo bye; exit 7")
    config.mounts.add(container_path="/flag", host_path=str(flag))
    async with another_process(node) as process:
        container = await node.run(await node.sandbox(), config)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        (flag / "go").touch()
        exit_file = node.config.containers / container / "exit" / container
        async with asyncio.timeout(SECONDS):
            while not exit_file.exists():
                await asyncio.sleep(0.01)
        died = time.time_ns()

    status = await node.ended(container)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 7, "Error")
    assert status.started_at < status.finished_at <= died
    assert node.log(container) == ["bye"]


async def test_a_sandbox_stays_ready_and_takes_new_containers(node: Node) -> None:
    async with another_process(node):
        sandbox = await node.sandbox()
        await node.run(sandbox, node.container("sh", "-c", "echo x > /dev/shm/x; sleep 60", name="old"))
    status = await node.call("PodSandboxStatus", cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
    assert status.status.state == cri.SANDBOX_READY
    _, log = await node.finished(sandbox, node.container("cat", "/dev/shm/x", name="new"))  # noqa: S108 - of the pod
    assert log == ["x"]


async def test_killed_in_the_middle_of_creations_nothing_is_left_of_them(node: Node) -> None:
    async with another_process(node) as process:
        sandbox = await node.sandbox()
        requests = [
            cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=node.container("sleep", "9", name=f"c{n}"))
            for n in range(20)
        ]
        calls = [asyncio.ensure_future(node.call("CreateContainer", request)) for request in requests]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        process.send_signal(signal.SIGKILL)
        results = await asyncio.gather(*calls, return_exceptions=True)

    acknowledged = {reply.container_id for reply in results if not isinstance(reply, BaseException)}
    present = {item.id for item in (await node.call("ListContainers", cri.ListContainersRequest())).containers}
    assert acknowledged <= present
    assert {path.name for path in node.config.containers.iterdir()} == present
    assert set(node.runtime.snapshots.keys()) == present


async def test_a_half_made_container_and_sandbox_are_removed_at_the_start(node: Node) -> None:
    sandbox = await node.sandbox()
    container = await node.run(sandbox, node.container("sleep", "60"))
    init = node.runtime.containers.get(container).record.init
    await node.runtime.close()
    node.channel.close()
    (node.config.containers / container / FILE).unlink()
    (node.config.sandboxes / sandbox / FILE).unlink()

    await node.again()

    assert not init.alive()
    assert list(node.config.containers.iterdir()) == []
    assert list(node.config.sandboxes.iterdir()) == []
    assert netns.pinned(node.config.netns) == set()
    assert mounts.below(node.config.data) == []


async def test_a_start_that_was_cut_short_can_be_repeated(node: Node) -> None:
    container = await node.create(await node.sandbox(), node.container("sh", "-c", "echo once"))
    found = node.runtime.containers.get(container)
    from havre.node.runtime.containers import _launch  # the first half of a start

    monitor = node.runtime.containers._host.monitor
    started = await asyncio.to_thread(monitor.create, _launch(found))
    await node.runtime.close()
    node.channel.close()

    await node.again()

    assert not started.init.alive()
    assert (await node.status(container)).state == cri.CONTAINER_CREATED
    await node.start(container)
    assert (await node.ended(container)).exit_code == 0
    assert node.log(container) == ["once"]


async def test_a_start_that_was_finished_but_not_written_down_is_found_running(node: Node) -> None:
    container = await node.create(await node.sandbox(), node.container("sh", "-c", "read x; exit 4", stdin=True))
    found = node.runtime.containers.get(container)
    from havre.node.runtime.containers import _launch  # the first half of a start

    host = node.runtime.containers._host
    started = await asyncio.to_thread(host.monitor.create, _launch(found))
    await asyncio.to_thread(host.oci.start, container)
    await node.runtime.close()
    node.channel.close()

    await node.again()

    assert (await node.status(container)).state == cri.CONTAINER_RUNNING
    assert node.runtime.containers.get(container).record.init == started.init
    await node.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=0))
    assert (await node.status(container)).exit_code == 137


async def test_a_container_whose_monitor_is_killed_is_ended(node: Node) -> None:
    container = await node.run(await node.sandbox(), node.container("sleep", "60"))
    record = node.runtime.containers.get(container).record
    record.monitor.signal(signal.SIGKILL)
    status = await node.ended(container)
    assert (status.exit_code, status.reason) == (137, "Error")
    assert "monitor" in status.message
    async with asyncio.timeout(SECONDS):
        while record.init.alive():
            await asyncio.sleep(0.01)


async def test_after_a_reboot_containers_have_ended_and_sandboxes_are_not_ready(node: Node) -> None:
    sandbox = await node.sandbox()
    container = await node.run(sandbox, node.container("sleep", "60"))
    record = node.runtime.containers.get(container).record
    await node.runtime.close()
    node.channel.close()
    for process in (record.monitor, record.init):  # what a reboot does: processes, mounts, namespaces and run/ are gone
        process.signal(signal.SIGKILL)
    await asyncio.sleep(0.1)
    netns.unpin(node.config.netns / sandbox)
    for point in mounts.below(node.root):
        mounts.unmount(point)

    await node.again()

    status = await node.ended(container)
    assert (status.exit_code, status.reason) == (255, "Unknown")
    found = await node.call("PodSandboxStatus", cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
    assert found.status.state == cri.SANDBOX_NOTREADY


async def test_a_container_of_another_oci_runtime_is_still_understood(node: Node) -> None:
    if not (shutil.which("crun") and shutil.which("runc")):
        pytest.skip("needs crun and runc")
    container = await node.run(await node.sandbox(), node.container("sleep", "60"))
    before = node.runtime.containers._host.oci.name
    await node.runtime.close()
    node.channel.close()
    node.config = dataclasses.replace(node.config, oci_runtime="runc" if before == "crun" else "crun")

    await node.again()

    assert node.runtime.containers._host.oci.name != before
    assert (await node.exec(container, "echo", "alive")).stdout == b"alive\n"
    await node.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=0))
    assert (await node.status(container)).exit_code == 137


async def test_two_runtimes_never_share_a_data_directory(node: Node) -> None:
    from havre.node.runtime.errors import Precondition
    from havre.node.runtime.serve import serve

    with pytest.raises(Precondition, match="served by another process"):
        await serve(node.config, None)
