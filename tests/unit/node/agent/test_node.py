"""The Node object and its Lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.node.agent.fake_runtime import FakeRuntime

from havre.api.meta import Obj
from havre.machinery.api import Ref
from havre.node.agent.cri import Image, RuntimeState
from havre.node.agent.node import (
    LEASE,
    NODE,
    Machine,
    Node,
    NodeConfig,
    Pressure,
    allocatable,
    node_status,
    status_patch,
)
from havre.testing import FakeApi, eventually, namespace

pytestmark = pytest.mark.looptime

CONFIG = NodeConfig(name="n", ip="192.0.2.7", labels={"zone": "a"}, pod_cidr="10.42.0.0/24")
MACHINE = Machine(4, 8 << 30, 100 << 30, "host", "amd64", "6.1", "Debian", "m", "b", "s")
REF = Ref(NODE, "", "n")


def conditions(node: Obj) -> dict[str, str]:
    return {c["type"]: f"{c['status']} {c['reason']}" for c in node["status"]["conditions"]}


def status(
    runtime: RuntimeState | None = None, pressure: Pressure | None = None, now: str = "2026-01-01T00:00:00Z"
) -> Obj:
    return node_status(CONFIG, MACHINE, runtime or RuntimeState("havre", "1"), pressure or Pressure(), [], now)


def test_allocatable_leaves_room_for_the_system() -> None:
    config = NodeConfig(name="n", ip="", reserved={"cpu": "500m", "memory": "1Gi"})
    got = allocatable(config, MACHINE)
    assert (got["cpu"], got["memory"], got["pods"]) == ("3500m", f"{(7 << 20) - 102400}Ki", "110")


def test_healthy_node_has_the_known_conditions() -> None:
    assert conditions({"status": status()}) == {
        "MemoryPressure": "False KubeletHasSufficientMemory",
        "DiskPressure": "False KubeletHasNoDiskPressure",
        "PIDPressure": "False KubeletHasSufficientPID",
        "Ready": "True KubeletReady",
    }


def test_pressure_and_an_unready_runtime_are_told() -> None:
    found = status(RuntimeState(network_not_ready="no address"), Pressure(memory=True, disk=True, pids=True))
    assert conditions({"status": found}) == {
        "MemoryPressure": "True KubeletHasInsufficientMemory",
        "DiskPressure": "True KubeletHasDiskPressure",
        "PIDPressure": "True KubeletHasInsufficientPID",
        "Ready": "False KubeletNotReady",
    }
    assert found["conditions"][1]["message"] == "kubelet has disk pressure"
    assert found["conditions"][3]["message"] == "container runtime not ready: no address"


def test_largest_images_are_listed() -> None:
    images = [Image(str(n), tags=(f"r.example/i:{n}",), size=n) for n in range(60)]
    found = node_status(CONFIG, MACHINE, RuntimeState(), Pressure(), images, "")["images"]
    assert (len(found), found[0]) == (50, {"names": ["r.example/i:59"], "sizeBytes": 59})


def test_nothing_is_written_while_nothing_changes() -> None:
    assert status_patch(status(), status(now="2026-01-01T00:01:00Z"), heartbeat=False) == {}
    [*_, ready] = status_patch(status(), status(now="2026-01-01T00:05:00Z"), heartbeat=True)["conditions"]
    assert (ready["lastHeartbeatTime"], ready["lastTransitionTime"]) == ("2026-01-01T00:05:00Z", "2026-01-01T00:00:00Z")


@asynccontextmanager
async def kept(tmp_path: Path) -> AsyncIterator[tuple[FakeApi, FakeRuntime]]:
    """A node that is kept true; begun inside the test, whose clock is the virtual one."""
    api, runtime = FakeApi(namespace("kube-node-lease")), FakeRuntime()
    node = Node(CONFIG, MACHINE, api, runtime, tmp_path)
    task = asyncio.get_running_loop().create_task(node.run())
    await node.ready.wait()
    try:
        yield api, runtime
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_node_is_registered_with_everything(tmp_path: Path) -> None:
    async with kept(tmp_path) as (api, _):
        node = api.now(REF)
        assert node is not None
        assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "n"
        assert node["metadata"]["labels"]["zone"] == "a"
        assert node["spec"]["podCIDR"] == "10.42.0.0/24"
        assert node["status"]["addresses"] == [
            {"type": "InternalIP", "address": "192.0.2.7"},
            {"type": "Hostname", "address": "n"},
        ]
        assert node["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
        assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == "havre://1"


async def test_lease_is_renewed_every_ten_seconds(tmp_path: Path) -> None:
    async with kept(tmp_path) as (api, _):
        ref = Ref(LEASE, "kube-node-lease", "n")
        await eventually(lambda: api.now(ref))
        lease, node = api.now(ref), api.now(REF)
        assert lease is not None
        assert node is not None
        assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]) == ("n", 40)
        before = int(lease["metadata"]["resourceVersion"])
        await asyncio.sleep(35)
        after = api.now(ref)
        assert after is not None
        assert int(after["metadata"]["resourceVersion"]) > before


async def test_runtime_that_fails_makes_the_node_unready_and_back(tmp_path: Path) -> None:
    async with kept(tmp_path) as (api, runtime):
        runtime.problem = RuntimeState("havre", "1", not_ready="starting")
        await eventually(lambda: conditions(api.now(REF) or {})["Ready"] == "False KubeletNotReady", within=600)
        runtime.problem = RuntimeState("havre", "1")
        await eventually(lambda: conditions(api.now(REF) or {})["Ready"] == "True KubeletReady", within=600)


async def test_what_others_put_on_the_node_stays(tmp_path: Path) -> None:
    async with kept(tmp_path) as (api, _):
        change = {"metadata": {"labels": {"team": "x", "zone": "wrong"}}, "spec": {"unschedulable": True}}
        await api.patch(REF, change, kind="merge")
        await eventually(lambda: (api.now(REF) or {})["metadata"]["labels"]["zone"] == "a", within=600)
        node = api.now(REF)
        assert node is not None
        assert node["metadata"]["labels"]["team"] == "x"
        assert node["spec"]["unschedulable"] is True


async def test_deleted_node_registers_again(tmp_path: Path) -> None:
    async with kept(tmp_path) as (api, _):
        await api.delete(REF)
        await eventually(lambda: api.now(REF), within=600)
