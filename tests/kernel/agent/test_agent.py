"""The agent on a real runtime and a real API server: containers, cgroups, volumes, from start to nothing left."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.runtime.node import IMAGE, image, needs_runtime

from havre.api.meta import Obj
from havre.machinery.api import Ref
from havre.machinery.client import HttpApi
from havre.node import mounts
from havre.node.agent.agent import Agent
from havre.node.agent.agent import Config as AgentConfig
from havre.node.agent.cgroups import Cgroups
from havre.node.agent.worker import POD
from havre.node.runtime.config import Config as RuntimeConfig
from havre.node.runtime.protocol import PodIdentity, PortMapping
from havre.node.runtime.serve import serve
from havre.testing import eventually, temporary_cluster

pytestmark = needs_runtime

REF = Ref(POD, "default", "p")
FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.1; done"
SECONDS = 30.0


@dataclass(slots=True)
class Addresses:
    """A network that gives addresses and nothing else."""

    given: dict[str, str] = field(default_factory=dict)

    async def attach(self, pod: PodIdentity, netns: Path, ports: Sequence[PortMapping]) -> str:
        return self.given.setdefault(pod.sandbox, f"10.99.0.{len(self.given) + 2}")

    async def detach(self, sandbox: str) -> None:
        self.given.pop(sandbox, None)

    def ready(self) -> bool:
        return True

    async def restore(self, sandboxes: Mapping[str, Path]) -> None:
        """The addresses are kept in memory."""


@dataclass(slots=True)
class Bench:
    api: HttpApi
    root: Path
    instance: str
    task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        config = AgentConfig(
            node_name="n",
            node_ip="127.0.0.1",
            instance=self.instance,
            data=self.root / "agent",
            run=self.root / "run",
            pod_logs=self.root / "logs",
        )
        agent = Agent(config, self.api, self.root / "run/containerd.sock")
        self.task = asyncio.get_running_loop().create_task(agent.run())

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def create(self, script: str, *, container: Obj | None = None, **spec: Any) -> None:
        made = {"name": "app", "image": IMAGE, "command": ["sh", "-c", script], **(container or {})}
        await self.api.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default"},
                "spec": {
                    "nodeName": "n",
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 3,
                    "containers": [made],
                    **spec,
                },
            },
            manager="test",
        )

    async def until(self, check: Callable[[Obj], object]) -> Obj:
        """The pod, once it is so."""
        found: Obj = {}

        async def is_so() -> object:
            nonlocal found
            found = await self.api.get(REF) or {}
            return bool(found) and check(found["status"])

        await eventually(is_so, within=SECONDS)
        return found

    async def delete(self) -> None:
        await self.api.delete(REF)

        async def is_gone() -> bool:
            return await self.api.get(REF) is None

        await eventually(is_gone, within=SECONDS)

    def cgroups(self) -> set[str]:
        return Cgroups(self.instance).uids()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with _machine() as made:
        yield made


@asynccontextmanager
async def _machine() -> AsyncIterator[Bench]:
    root = Path(tempfile.mkdtemp(prefix="havre-"))  # short: a socket's path has 107 bytes
    instance = f"t{secrets.token_hex(3)}"
    async with temporary_cluster() as cluster:
        runtime = await serve(RuntimeConfig(root / "runtime", root / "run", instance), Addresses())
        made = Bench(cluster.api, root, instance)
        try:
            await runtime.images.import_archive(image(root / "image.tar"))
            meta = {"name": "default", "namespace": "default"}
            await made.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, manager="test")
            made.begin()
            yield made
        finally:
            await made.end()
            await runtime.destroy()
            await asyncio.to_thread(Cgroups(instance).destroy)
            left = [str(point) for point in mounts.below(root)]
            shutil.rmtree(root)
    assert left == []
    assert Cgroups(instance).uids() == set()


def app(status: Obj) -> Obj:
    [found] = status.get("containerStatuses") or [{"state": {}, "restartCount": 0}]
    return dict(found)


def running(status: Obj) -> bool:
    return status["phase"] == "Running" and "running" in app(status)["state"]


def terminated(status: Obj) -> Obj:
    ended: Obj = app(status)["state"].get("terminated") or {}
    return ended


async def test_pod_runs_within_its_limits_and_leaves_nothing(bench: Bench) -> None:
    resources = {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}
    await bench.create(FOREVER, container={"resources": resources})
    pod = await bench.until(running)
    uid = pod["metadata"]["uid"]
    assert pod["status"]["podIP"] == "10.99.0.2"
    assert bench.cgroups() == {uid}
    assert (bench.root / f"logs/default_p_{uid}/app/0.log").exists()
    await bench.delete()
    await eventually(lambda: bench.cgroups() == set())
    assert list((bench.root / "logs").iterdir()) == []
    assert list((bench.root / "agent/pods").iterdir()) == []


async def test_another_agent_goes_on_with_the_same_container(bench: Bench) -> None:
    await bench.create(FOREVER, container={"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}})
    before = await bench.until(lambda s: running(s) and app(s)["ready"])
    await bench.end()
    bench.begin()
    await asyncio.sleep(2)
    after = await bench.until(running)
    assert after["status"] == before["status"]


async def test_end_while_no_agent_lives_is_found(bench: Bench) -> None:
    await bench.create("sleep 1; exit 9", restartPolicy="Never")
    await bench.until(running)
    await bench.end()
    await asyncio.sleep(1.5)
    bench.begin()
    pod = await bench.until(lambda s: s["phase"] == "Failed")
    assert terminated(pod["status"])["exitCode"] == 9


async def test_crash_is_told_with_its_last_words_and_backs_off(bench: Bench) -> None:
    await bench.create("echo gone > /dev/termination-log; exit 3")
    pod = await bench.until(lambda s: app(s)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")
    last = app(pod["status"])["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"], last["message"]) == (3, "Error", "gone\n")
    assert app(pod["status"])["restartCount"] == 1


async def test_failed_liveness_restarts_the_container(bench: Bench) -> None:
    probe = {"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 1, "failureThreshold": 1}
    await bench.create(f"touch /alive; sleep 2; rm /alive; {FOREVER}", container={"livenessProbe": probe})
    await bench.until(lambda s: app(s)["restartCount"] == 1)


async def test_container_that_takes_too_much_memory_is_killed_for_it(bench: Bench) -> None:
    limits = {"resources": {"limits": {"memory": "24Mi"}}}
    await bench.create("dd if=/dev/zero of=/dev/null bs=200M", container=limits, restartPolicy="Never")
    pod = await bench.until(lambda s: s["phase"] == "Failed")
    assert (terminated(pod["status"])["reason"], terminated(pod["status"])["exitCode"]) == ("OOMKilled", 137)


async def test_volumes_and_variables_are_what_the_api_says(bench: Bench) -> None:
    meta = {"name": "c", "namespace": "default"}
    await bench.api.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"k": "v1"}}, manager="t"
    )
    given = {
        "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
        "volumeMounts": [{"name": "m", "mountPath": "/m"}, {"name": "e", "mountPath": "/e"}],
    }
    volumes = [{"name": "m", "configMap": {"name": "c"}}, {"name": "e", "emptyDir": {}}]
    words = 'echo "$K $(cat /m/k) $(hostname) $(grep -c 10.99 /etc/hosts)" > /dev/termination-log; touch /e/x'
    await bench.create(words, container=given, volumes=volumes, restartPolicy="Never")
    pod = await bench.until(lambda s: s["phase"] == "Succeeded")
    assert terminated(pod["status"])["message"] == "v1 v1 p 1\n"
    await eventually(lambda: list((bench.root / "agent/pods").iterdir()) == [])


async def test_init_containers_and_sidecars_run_in_their_order(bench: Bench) -> None:
    def step(name: str, script: str, **fields: Any) -> Obj:
        mount = [{"name": "e", "mountPath": "/e"}]
        return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], "volumeMounts": mount, **fields}

    inits = [
        step("one", "echo one >> /e/order"),
        step("side", f"echo side >> /e/order; {FOREVER}", restartPolicy="Always"),
        step("two", "echo two >> /e/order"),
    ]
    main = step("app", "echo app >> /e/order; cat /e/order > /dev/termination-log")
    await bench.create(
        "", container=main, initContainers=inits, volumes=[{"name": "e", "emptyDir": {}}], restartPolicy="Never"
    )
    pod = await bench.until(lambda s: s["phase"] == "Succeeded")
    assert terminated(pod["status"])["message"] == "one\nside\ntwo\napp\n"


async def test_force_deleted_pod_is_killed(bench: Bench) -> None:
    await bench.create("trap '' TERM; while true; do sleep 0.1; done")
    pod = await bench.until(running)
    await bench.api.delete(REF, grace=0)
    await eventually(lambda: bench.cgroups() == set(), within=SECONDS)
    assert not (bench.root / f"logs/default_p_{pod['metadata']['uid']}").exists()


async def test_status_reads_as_a_kubelets(bench: Bench) -> None:
    await bench.create(FOREVER)
    pod = await bench.until(running)
    owners = {(f["manager"], f.get("subresource")) for f in pod["metadata"]["managedFields"]}
    assert ("kubelet", "status") in owners
    assert app(pod["status"])["containerID"].startswith("containerd://")
    assert json.dumps(pod["status"]).count('"status": "True"') == 5
