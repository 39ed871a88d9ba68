"""Pods from their binding to their end: the whole agent's loop over the API's real pipeline and a runtime in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.agent.fake_runtime import FakeGiver, FakeRuntime, Script, wall
from tests.unit.node.agent.pods import container, sidecar

from havre.api.errors import NotFound
from havre.api.meta import Obj
from havre.machinery.api import Ref
from havre.machinery.events import EVENT
from havre.node.agent.agent import Agent, Config
from havre.node.agent.cri import Executed, RuntimeFault
from havre.node.agent.node import NODE
from havre.node.agent.worker import POD
from havre.testing import FakeApi, eventually, namespace, settle

pytestmark = pytest.mark.looptime

NAME = "p"
REF = Ref(POD, "default", NAME)
IMAGES = ("registry.example/app:1", "registry.example/i:1", "registry.example/s:1", "registry.example/b:1")


class Bench:
    """An agent at work, and everything it works with."""

    def __init__(self, tmp: Path, api: FakeApi, runtime: FakeRuntime) -> None:
        self.api, self.runtime, self.giver = api, runtime, FakeGiver()
        self.tmp = tmp
        self.agent = self._agent()
        self.task: asyncio.Task[None] | None = None

    def _agent(self) -> Agent:
        config = Config(
            node_name="n",
            node_ip="192.0.2.7",
            instance="t",
            data=self.tmp / "data",
            run=self.tmp / "run",
            pod_logs=self.tmp / "logs",
            cgroup_root=self.tmp / "cgroup",
        )
        return Agent(config, self.api, Path("unused"), giver=self.giver, runtime=self.runtime, clock=wall)

    def begin(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.agent.run())

    async def end(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def restart(self) -> None:
        """As after kill -9: another agent, with nothing in its memory."""
        await self.end()
        self.agent = self._agent()
        self.begin()

    async def create(self, *containers: Obj, meta: Obj | None = None, **spec: Any) -> Obj:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": NAME, "namespace": "default", **(meta or {})},
            "spec": {"nodeName": "n", "containers": [*containers] or [container("app")], **spec},
        }
        return await self.api.create(body)

    @property
    def pod(self) -> Obj:
        found = self.api.now(REF)
        assert found is not None
        return found

    @property
    def gone(self) -> bool:
        return self.api.now(REF) is None

    @property
    def status(self) -> Obj:
        status: Obj = self.pod["status"]
        return status

    def of(self, name: str, key: str = "containerStatuses") -> Obj:
        return next((s for s in self.status.get(key) or () if s["name"] == name), {})

    def condition(self, type: str) -> Obj:
        return next((c for c in self.status["conditions"] if c["type"] == type), {})

    def waiting(self, name: str = "app") -> str:
        reason = self.of(name).get("state", {}).get("waiting", {}).get("reason", "")
        return str(reason)

    def events(self) -> list[str]:
        found = [e for e in self.api.all(EVENT) if e["involvedObject"]["kind"] == "Pod"]
        return [
            f"{e['reason']}: {e['message']}" for e in sorted(found, key=lambda e: int(e["metadata"]["resourceVersion"]))
        ]

    async def until(self, check: Callable[[], object], within: float = 20.0) -> None:
        await eventually(check, within=within)
        await settle()

    def running(self) -> bool:
        return not self.gone and self.status.get("phase") == "Running"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    runtime = FakeRuntime()
    for image in IMAGES:
        runtime.know(image)
    found = Bench(tmp_path, FakeApi(namespace("kube-node-lease")), runtime)
    found.begin()
    yield found
    await found.end()


async def test_a_label_of_the_node_counts_as_soon_as_the_scheduler_knows_it(bench: Bench) -> None:
    await bench.until(lambda: bench.agent.node is not None and bench.agent.node.ready.is_set())
    await bench.api.patch(Ref(NODE, "", "n"), {"metadata": {"labels": {"disk": "ssd"}}}, kind="merge")
    await bench.create(nodeSelector={"disk": "ssd"})
    await bench.until(bench.running)


async def test_pod_runs_and_tells_everything_of_itself(bench: Bench) -> None:
    await bench.create()
    await bench.until(bench.running)
    status = bench.status
    assert bench.runtime.calls == ["run_sandbox", "create app", "start app"]
    assert (status["podIP"], status["podIPs"]) == ("10.42.0.2", [{"ip": "10.42.0.2"}])
    assert (status["hostIP"], status["hostIPs"], status["qosClass"]) == (
        "192.0.2.7",
        [{"ip": "192.0.2.7"}],
        "BestEffort",
    )
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    [app] = status["containerStatuses"]
    assert (app["containerID"], app["ready"], app["started"], app["restartCount"]) == ("containerd://c2", True, True, 0)
    assert list(app["state"]) == ["running"]
    assert status["observedGeneration"] == 1
    assert [e.partition(":")[0] for e in bench.events()] == ["Pulled", "Created", "Started"]


async def test_status_is_written_only_when_it_changes(bench: Bench) -> None:
    await bench.create()
    await bench.until(bench.running)
    await asyncio.sleep(1)
    revision = bench.pod["metadata"]["resourceVersion"]
    await asyncio.sleep(300)
    assert bench.pod["metadata"]["resourceVersion"] == revision
    assert bench.runtime.calls == ["run_sandbox", "create app", "start app"]


async def test_status_is_owned_by_the_kubelet(bench: Bench) -> None:
    await bench.create()
    await bench.until(bench.running)
    owners = {(f["manager"], f.get("subresource", "")) for f in bench.pod["metadata"]["managedFields"]}
    assert ("kubelet", "status") in owners


async def test_crashing_container_backs_off_and_says_so(bench: Bench) -> None:
    bench.runtime.script("app", Script(runs=1, code=3))
    await bench.create()
    await bench.until(lambda: bench.waiting() == "CrashLoopBackOff")
    app = bench.of("app")
    uid = bench.pod["metadata"]["uid"]
    assert app["state"]["waiting"]["message"] == f"back-off 10s restarting failed container=app pod=p_default({uid})"
    assert app["restartCount"] == 1
    assert app["lastState"]["terminated"]["exitCode"] == 3
    assert bench.status["phase"] == "Running"
    assert bench.condition("Ready")["reason"] == "ContainersNotReady"
    starts = []
    began = asyncio.get_running_loop().time()
    for count in (2, 3, 4):
        await bench.until(lambda c=count: bench.of("app")["restartCount"] == c, within=200)  # type: ignore[misc]
        starts.append(asyncio.get_running_loop().time() - began)
    gaps = [b - a for a, b in pairwise(starts)]
    assert gaps == pytest.approx([21, 41], abs=1.5)


async def test_back_off_is_told_once_in_an_event(bench: Bench) -> None:
    bench.runtime.script("app", Script(runs=1, code=3))
    await bench.create()
    await bench.until(lambda: bench.waiting() == "CrashLoopBackOff")
    await bench.until(
        lambda: any(e.startswith("BackOff: Back-off restarting failed container app in pod p_") for e in bench.events())
    )


async def test_job_like_pod_succeeds_and_keeps_its_address(bench: Bench) -> None:
    bench.runtime.script("app", Script(runs=5))
    await bench.create(restartPolicy="Never")
    await bench.until(lambda: bench.status.get("phase") == "Succeeded")
    await bench.until(lambda: bench.giver.released)
    assert bench.of("app")["state"]["terminated"]["reason"] == "Completed"
    assert bench.condition("Ready") | {"lastTransitionTime": ""} == {
        "type": "Ready",
        "status": "False",
        "reason": "PodCompleted",
        "lastProbeTime": None,
        "lastTransitionTime": "",
        "observedGeneration": 1,
    }
    assert bench.status["podIP"] == "10.42.0.2"
    assert bench.runtime.calls == ["run_sandbox", "create app", "start app", "stop_sandbox"]


async def test_failing_pod_that_never_restarts_fails(bench: Bench) -> None:
    bench.runtime.script("app", Script(runs=1, code=2, reason="OOMKilled"))
    await bench.create(restartPolicy="Never")
    await bench.until(lambda: bench.status.get("phase") == "Failed")
    assert bench.of("app")["state"]["terminated"]["reason"] == "OOMKilled"
    assert bench.condition("ContainersReady")["reason"] == "PodFailed"


async def test_deleted_pod_ends_gracefully_and_only_then_its_object(bench: Bench) -> None:
    bench.runtime.script("app", Script(stops=4))
    await bench.create()
    await bench.until(bench.running)
    await bench.api.delete(REF)
    await asyncio.sleep(3)
    assert bench.runtime.running() == ["app"]
    assert bench.pod["metadata"]["deletionGracePeriodSeconds"] == 30
    await bench.until(lambda: bench.gone)
    assert "stop app 30" in bench.runtime.calls
    assert not bench.runtime.boxes
    assert not bench.runtime.made
    assert len(bench.giver.released) >= 1


async def test_stubborn_container_is_killed_after_the_grace(bench: Bench) -> None:
    bench.runtime.script("app", Script(stops=None))
    await bench.create(terminationGracePeriodSeconds=7)
    await bench.until(bench.running)
    began = asyncio.get_running_loop().time()
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone)
    assert asyncio.get_running_loop().time() - began == pytest.approx(7, abs=0.5)


async def test_second_deletion_shortens_the_grace(bench: Bench) -> None:
    bench.runtime.script("app", Script(stops=None))
    await bench.create()
    await bench.until(bench.running)
    await bench.api.delete(REF)
    await asyncio.sleep(2)
    await bench.api.delete(REF, grace=1)
    began = asyncio.get_running_loop().time()
    await bench.until(lambda: bench.gone)
    assert asyncio.get_running_loop().time() - began == pytest.approx(2, abs=0.5)


async def test_force_deleted_pod_leaves_nothing_running(bench: Bench) -> None:
    bench.runtime.script("app", Script(stops=None))
    await bench.create()
    await bench.until(bench.running)
    await bench.api.delete(REF, grace=0)
    assert bench.gone
    await bench.until(lambda: not bench.runtime.made and not bench.runtime.boxes)


async def test_pod_deleted_before_it_ran_is_given_back(bench: Bench) -> None:
    bench.giver.missing = 'MountVolume.SetUp failed for volume "v" : configmap "c" not found'
    await bench.create()
    await bench.until(bench.events)
    assert bench.waiting() == "ContainerCreating"
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone, within=5)
    assert bench.runtime.calls == []


async def test_missing_volume_is_told_and_tried_again(bench: Bench) -> None:
    bench.giver.missing = 'MountVolume.SetUp failed for volume "v" : configmap "c" not found'
    await bench.create()
    await bench.until(bench.events)
    assert bench.events() == ['FailedMount: MountVolume.SetUp failed for volume "v" : configmap "c" not found']
    bench.giver.missing = ""
    await bench.until(bench.running)


async def test_killed_agent_restarts_no_container_and_readiness_does_not_flap(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: Executed(0)
    probe = {"exec": {"command": ["ok"]}, "periodSeconds": 5}
    await bench.create(container("app", readinessProbe=probe, startupProbe=probe, livenessProbe=probe))
    await bench.until(lambda: bench.running() and bench.condition("Ready")["status"] == "True")
    await asyncio.sleep(20)
    calls = [c for c in bench.runtime.calls if not c.startswith("exec")]
    since = bench.condition("Ready")["lastTransitionTime"]
    await bench.restart()
    await asyncio.sleep(90)
    assert [c for c in bench.runtime.calls if not c.startswith("exec")] == calls
    assert bench.condition("Ready") | {"lastTransitionTime": since} == bench.condition("Ready")
    assert bench.of("app")["restartCount"] == 0


async def test_back_off_survives_the_agent(bench: Bench) -> None:
    bench.runtime.script("app", Script(runs=1, code=1))
    await bench.create()
    await bench.until(lambda: bench.of("app").get("restartCount") == 3, within=100)
    await asyncio.sleep(5)
    starts = bench.runtime.calls.count("start app")
    await bench.restart()
    await asyncio.sleep(30)
    assert bench.runtime.calls.count("start app") == starts
    assert bench.waiting() == "CrashLoopBackOff"
    await asyncio.sleep(10)
    assert bench.runtime.calls.count("start app") == starts + 1
    assert bench.of("app")["restartCount"] == 4


async def test_restarted_agent_does_not_untell_why_a_container_waits(bench: Bench) -> None:
    await bench.create({**container("app"), "image": "registry.example/none:1", "imagePullPolicy": "Never"})
    await bench.until(lambda: bench.waiting() == "ErrImageNeverPull")
    revision = bench.pod["metadata"]["resourceVersion"]
    await bench.restart()
    await asyncio.sleep(30)
    assert bench.pod["metadata"]["resourceVersion"] == revision


async def test_agent_finds_what_ended_while_it_was_dead(bench: Bench) -> None:
    await bench.create(restartPolicy="Never")
    await bench.until(bench.running)
    await bench.end()
    bench.runtime.finish("app", 9)
    await bench.restart()
    await bench.until(lambda: bench.status["phase"] == "Failed")
    assert bench.of("app")["state"]["terminated"]["exitCode"] == 9


async def test_leftovers_of_pods_that_are_gone_are_removed(bench: Bench) -> None:
    await bench.create()
    await bench.until(bench.running)
    await bench.end()
    await bench.api.delete(REF, grace=0)
    bench.giver.left = {"another"}
    await bench.restart()
    await bench.until(lambda: not bench.runtime.made and "another" in bench.giver.released)


async def test_init_containers_run_in_order_and_are_waited_for(bench: Bench) -> None:
    bench.runtime.script("i", Script(runs=2))
    await bench.create(container("app"), initContainers=[container("i"), sidecar("s")])
    await bench.until(lambda: bench.of("i", "initContainerStatuses").get("state", {}).get("running"))
    assert bench.status["phase"] == "Pending"
    assert bench.waiting() == "PodInitializing"
    assert bench.condition("Initialized")["message"] == "containers with incomplete status: [i s]"
    await bench.until(bench.running)
    assert [c for c in bench.runtime.calls if c.startswith("start")] == ["start i", "start s", "start app"]
    assert bench.of("i", "initContainerStatuses")["ready"] is True
    assert bench.condition("Initialized")["status"] == "True"


async def test_failing_init_container_of_a_pod_that_never_restarts(bench: Bench) -> None:
    bench.runtime.script("i", Script(runs=1, code=1))
    await bench.create(container("app"), initContainers=[container("i")], restartPolicy="Never")
    await bench.until(lambda: bench.status.get("phase") == "Failed")
    assert "start app" not in bench.runtime.calls
    assert bench.waiting() == "PodInitializing"


async def test_sidecars_end_after_the_containers_in_reverse_order(bench: Bench) -> None:
    bench.runtime.script("app", Script(stops=3))
    await bench.create(container("app"), initContainers=[sidecar("s"), {**sidecar("b")}])
    await bench.until(bench.running)
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone)
    stops = [c for c in bench.runtime.calls if c.startswith("stop ")]
    assert [s.split()[1] for s in stops] == ["app", "b", "s"]
    assert int(stops[1].split()[2]) <= 27


async def test_sidecar_ends_when_the_work_is_done(bench: Bench) -> None:
    bench.runtime.script("app", Script(runs=2))
    await bench.create(container("app"), initContainers=[sidecar("s")], restartPolicy="Never")
    await bench.until(lambda: bench.status.get("phase") == "Succeeded")
    assert bench.runtime.running() == []
    assert [c for c in bench.runtime.calls if c.startswith("start")] == ["start s", "start app"]


async def test_failed_liveness_restarts_with_reason_and_event(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: Executed(1, b"no\n")
    probe = {"exec": {"command": ["alive"]}, "periodSeconds": 2, "failureThreshold": 2}
    await bench.create(container("app", livenessProbe=probe))
    await bench.until(lambda: bench.of("app").get("restartCount") == 1, within=60)
    texts = bench.events()
    assert "Unhealthy: Liveness probe failed: no\n" in texts
    assert "Killing: Container app failed liveness probe, will be restarted" in texts
    assert "stop app 30" in bench.runtime.calls


async def test_grace_of_a_probe_holds_for_its_kill(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: Executed(1)
    probe = {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 5}
    await bench.create(container("app", livenessProbe=probe))
    await bench.until(lambda: "stop app 5" in bench.runtime.calls)


async def test_readiness_follows_its_probe(bench: Bench) -> None:
    healthy = False
    bench.runtime.exec = lambda made, command: Executed(0 if healthy else 1)
    probe = {"exec": {"command": ["x"]}, "periodSeconds": 1}
    await bench.create(container("app", readinessProbe=probe))
    await bench.until(bench.running)
    await asyncio.sleep(5)
    assert bench.of("app")["ready"] is False
    assert bench.condition("Ready")["message"] == "containers with unready status: [app]"
    healthy = True
    await bench.until(lambda: bench.condition("Ready")["status"] == "True")
    healthy = False
    await bench.until(lambda: bench.condition("Ready")["status"] == "False")
    assert bench.of("app")["restartCount"] == 0


async def test_startup_probe_holds_the_others_back(bench: Bench) -> None:
    up = False

    def run(made: object, command: Any) -> Executed:
        return Executed(0 if up or command[0] != "start" else 1)

    bench.runtime.exec = run
    await bench.create(
        container(
            "app",
            startupProbe={"exec": {"command": ["start"]}, "periodSeconds": 1, "failureThreshold": 60},
            readinessProbe={"exec": {"command": ["ready"]}, "periodSeconds": 1},
        )
    )
    await bench.until(lambda: bench.runtime.calls.count("exec app start") > 5)
    assert bench.of("app")["started"] is False
    assert "exec app ready" not in bench.runtime.calls
    up = True
    await bench.until(lambda: bench.of("app")["started"] and bench.of("app")["ready"])


async def test_command_that_outlives_its_timeout_fails_the_probe(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: 60.0
    probe = {"exec": {"command": ["sleep", "60"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}
    await bench.create(container("app", livenessProbe=probe))
    await bench.until(lambda: bench.of("app").get("restartCount") == 1)
    assert any('command timed out: "sleep 60" timed out after 1s' in e for e in bench.events())


async def test_readiness_gate_is_respected(bench: Bench) -> None:
    await bench.create(readinessGates=[{"conditionType": "example.dev/lb"}])
    await bench.until(bench.running)
    assert bench.condition("Ready")["reason"] == "ReadinessGatesNotReady"
    gate = {"type": "example.dev/lb", "status": "True"}
    await bench.api.patch(REF, {"status": {"conditions": [gate]}}, kind="strategic", subresource="status")
    await bench.until(lambda: bench.condition("Ready")["status"] == "True")
    assert bench.condition("example.dev/lb")["status"] == "True"


async def test_deadline_ends_the_pod(bench: Bench) -> None:
    await bench.create(activeDeadlineSeconds=10)
    await bench.until(bench.running)
    await bench.until(lambda: bench.status["phase"] == "Failed", within=60)
    assert bench.status["reason"] == "DeadlineExceeded"
    assert bench.runtime.running() == []


async def test_image_that_cannot_be_pulled_backs_off(bench: Bench) -> None:
    await bench.create({**container("app"), "image": "registry.example/none:1"})
    await bench.until(lambda: bench.waiting() == "ErrImagePull")
    assert bench.of("app")["state"]["waiting"]["message"] == "pull registry.example/none:1: not found"
    await bench.until(lambda: bench.waiting() == "ImagePullBackOff", within=40)
    message = bench.of("app")["state"]["waiting"]["message"]
    assert message == (
        'Back-off pulling image "registry.example/none:1": ErrImagePull: pull registry.example/none:1: not found'
    )
    bench.runtime.pullable.add("registry.example/none:1")
    await bench.until(bench.running, within=120)


async def test_corrected_image_is_pulled_at_once(bench: Bench) -> None:
    await bench.create({**container("app"), "image": "registry.example/none:1"})
    await bench.until(lambda: bench.waiting() == "ErrImagePull")
    fixed = {"spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]}}
    await bench.api.patch(REF, fixed, kind="strategic")
    await bench.until(bench.running, within=2)


async def test_never_pulled_and_badly_named_images(bench: Bench) -> None:
    never = {**container("app"), "image": "registry.example/none:1", "imagePullPolicy": "Never"}
    await bench.create(never, {**container("b"), "image": "Not A Name"})
    await bench.until(lambda: bench.waiting("b") == "InvalidImageName")
    assert bench.waiting("app") == "ErrImageNeverPull"


async def test_deletion_does_not_wait_for_a_pull(bench: Bench) -> None:
    bench.runtime.pull_takes = 1000
    await bench.create({**container("app"), "image": "registry.example/none:1"})
    await bench.until(lambda: bench.runtime.pulls)
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone, within=5)


async def test_non_root_image_is_refused_with_the_reason(bench: Bench) -> None:
    bench.runtime.know("registry.example/root:1", uid=0)
    await bench.create(
        {**container("app"), "image": "registry.example/root:1", "securityContext": {"runAsNonRoot": True}}
    )
    await bench.until(lambda: bench.waiting() == "CreateContainerConfigError")
    message = bench.of("app")["state"]["waiting"]["message"]
    assert message.startswith("container has runAsNonRoot and image will run as root (pod: ")


async def test_runtime_that_refuses_a_container(bench: Bench) -> None:
    bench.runtime.faults["create"] = RuntimeFault("UNKNOWN", "no such device")
    await bench.create()
    await bench.until(lambda: bench.waiting() == "CreateContainerError")
    del bench.runtime.faults["create"]
    await bench.until(bench.running, within=15)


async def test_program_that_does_not_exist(bench: Bench) -> None:
    bench.runtime.script("app", Script(fails_to_start='exec: "nope": not found'))
    await bench.create()
    await bench.until(lambda: bench.of("app").get("state", {}).get("waiting", {}).get("reason") == "RunContainerError")
    await bench.until(lambda: bench.waiting() == "CrashLoopBackOff")
    assert bench.of("app")["lastState"]["terminated"]["reason"] == "StartError"


async def test_sandbox_that_cannot_be_made_is_told_and_tried_again(bench: Bench) -> None:
    bench.runtime.faults["run_sandbox"] = RuntimeFault("UNKNOWN", "no address left")
    await bench.create()
    await bench.until(lambda: "FailedCreatePodSandBox: Failed to create pod sandbox: no address left" in bench.events())
    del bench.runtime.faults["run_sandbox"]
    await bench.until(bench.running)


async def test_lost_sandbox_is_made_again(bench: Bench) -> None:
    await bench.create(container("app"), initContainers=[container("i")])
    bench.runtime.script("i", Script(runs=1))
    await bench.until(bench.running)
    bench.runtime.lose_sandbox()
    await bench.until(lambda: bench.of("app").get("restartCount") == 1 and bench.running())
    assert "SandboxChanged: Pod sandbox changed, it will be killed and re-created." in bench.events()
    assert bench.of("i", "initContainerStatuses")["restartCount"] == 1


async def test_post_start_comes_before_the_next_container(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: 5.0
    hook = {"postStart": {"exec": {"command": ["warm"]}}}
    await bench.create(container("app", lifecycle=hook), container("b"))
    await bench.until(lambda: bench.runtime.running() == ["app"])
    await asyncio.sleep(3)
    assert bench.runtime.running() == ["app"]
    await bench.until(bench.running)
    assert bench.runtime.running() == ["app", "b"]


async def test_failed_post_start_kills_the_container(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: Executed(1, b"", b"secret words")
    await bench.create(container("app", lifecycle={"postStart": {"exec": {"command": ["x"]}}}))
    await bench.until(lambda: "FailedPostStartHook: PostStartHook failed" in bench.events())
    await bench.until(lambda: bench.of("app").get("restartCount", 0) >= 1)
    assert not any("secret" in e for e in bench.events())


async def test_pre_stop_counts_inside_the_grace(bench: Bench) -> None:
    bench.runtime.exec = lambda made, command: 10.0
    bench.runtime.script("app", Script(stops=None))
    hook = {"preStop": {"exec": {"command": ["drain"]}}}
    await bench.create(container("app", lifecycle=hook))
    await bench.until(bench.running)
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone, within=60)
    assert "stop app 20" in bench.runtime.calls


async def test_pre_stop_that_uses_up_the_grace_leaves_two_seconds(bench: Bench) -> None:
    await bench.create(
        container("app", lifecycle={"preStop": {"sleep": {"seconds": 9}}}), terminationGracePeriodSeconds=9
    )
    await bench.until(bench.running)
    bench.runtime.exec = lambda made, command: 100.0
    await bench.api.delete(REF, grace=5)
    await bench.until(lambda: bench.gone)
    assert "stop app 2" in bench.runtime.calls


async def test_pod_that_does_not_fit_is_rejected(bench: Bench) -> None:
    await bench.create(container("app", resources={"requests": {"cpu": "100000"}}))
    await bench.until(lambda: bench.status.get("phase") == "Failed")
    assert bench.status["reason"] == "OutOfcpu"
    assert bench.status["message"].startswith("Pod was rejected: Node didn't have enough resource: cpu, requested: ")
    assert "containerStatuses" not in bench.status
    await asyncio.sleep(30)
    assert bench.runtime.calls == []
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone)


async def test_pod_for_another_kind_of_node_is_rejected(bench: Bench) -> None:
    await bench.create(nodeSelector={"disk": "ssd"})
    await bench.until(lambda: bench.status.get("phase") == "Failed")
    assert bench.status["reason"] == "NodeAffinity"


async def test_ephemeral_container_joins_a_running_pod(bench: Bench) -> None:
    await bench.create()
    await bench.until(bench.running)
    bench.runtime.know("registry.example/debug:1")
    debug = {"name": "debug", "image": "registry.example/debug:1", "targetContainerName": "app"}
    await bench.api.patch(
        REF, {"spec": {"ephemeralContainers": [debug]}}, kind="strategic", subresource="ephemeralcontainers"
    )
    await bench.until(lambda: bench.of("debug", "ephemeralContainerStatuses").get("state", {}).get("running"))
    made = bench.runtime.newest("debug")
    options = made.config["linux"]["security_context"]["namespace_options"]
    assert (options["pid"], options["target_id"]) == (3, bench.runtime.newest("app").status.id)
    assert bench.condition("Ready")["status"] == "True"


async def test_two_containers_of_one_pod_pull_an_image_once(bench: Bench) -> None:
    bench.runtime.pullable.add("registry.example/new:1")
    bench.runtime.pull_takes = 3
    image = {"image": "registry.example/new:1", "imagePullPolicy": "Always"}
    await bench.create({**container("app"), **image})
    other = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"nodeName": "n"}}
    other["spec"]["containers"] = [{**container("b"), **image}]  # type: ignore[assignment]
    await bench.api.create({"apiVersion": "v1", "kind": "Pod", **other})
    await bench.until(lambda: bench.runtime.running() == ["app", "b"])
    assert len(bench.runtime.pulls) == 1


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


async def test_end_of_the_log_is_the_message_when_asked(bench: Bench) -> None:
    await bench.create(container("app", terminationMessagePolicy="FallbackToLogsOnError"), restartPolicy="Never")
    await bench.until(bench.running)
    write(bench.runtime.newest("app").status.log_path, "2026-01-01T00:00:00.0Z stderr F it broke\n")
    bench.runtime.finish("app", 1)
    await bench.until(lambda: bench.status["phase"] == "Failed")
    assert bench.of("app")["state"]["terminated"]["message"] == "it broke\n"


async def resize(bench: Bench, **resources: Any) -> None:
    body = {"spec": {"containers": [{"name": "app", "resources": resources}]}}
    await bench.api.patch(REF, body, kind="strategic", subresource="resize")


async def test_running_container_is_resized_in_place(bench: Bench) -> None:
    await bench.create(container("app", resources={"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}))
    await bench.until(bench.running)
    await resize(bench, requests={"cpu": "500m"})
    await bench.until(lambda: "update app 512" in bench.runtime.calls)
    await asyncio.sleep(200)
    assert bench.runtime.calls.count("update app 512") == 1
    assert bench.of("app")["restartCount"] == 0
    assert bench.of("app")["allocatedResources"]["cpu"] == "500m"


async def test_container_that_cannot_be_resized_alive_is_restarted(bench: Bench) -> None:
    strict = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    await bench.create(container("app", resources={"requests": {"cpu": "100m"}}, resizePolicy=strict))
    await bench.until(bench.running)
    await resize(bench, requests={"cpu": "500m"})
    await bench.until(lambda: bench.of("app").get("restartCount") == 1)
    assert "Killing: Container app resize requires restart, will be restarted" in bench.events()


async def test_pod_on_the_hosts_network_has_the_nodes_address(bench: Bench) -> None:
    await bench.create(hostNetwork=True)
    await bench.until(bench.running)
    assert bench.status["podIP"] == "192.0.2.7"


async def test_probes_end_with_the_pod(bench: Bench) -> None:
    probe = {"exec": {"command": ["x"]}, "periodSeconds": 1}
    await bench.create(container("app", livenessProbe=probe))
    await bench.until(bench.running)
    await bench.api.delete(REF)
    await bench.until(lambda: bench.gone)
    count = len(bench.runtime.calls)
    await asyncio.sleep(10)
    assert len(bench.runtime.calls) == count


async def test_end_of_the_log_is_not_the_message_of_success(bench: Bench) -> None:
    await bench.create(container("app", terminationMessagePolicy="FallbackToLogsOnError"), restartPolicy="Never")
    await bench.until(bench.running)
    write(bench.runtime.newest("app").status.log_path, "2026-01-01T00:00:00.0Z stderr F fine\n")
    bench.runtime.finish("app")
    await bench.until(lambda: bench.status["phase"] == "Succeeded")
    assert "message" not in bench.of("app")["state"]["terminated"]


async def test_api_that_is_down_stops_no_pod(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.create()
    await bench.until(bench.running)

    async def refuse(*args: Any, **kw: Any) -> Obj:
        raise NotFound("down")

    monkeypatch.setattr(bench.api, "patch", refuse)
    bench.runtime.finish("app", 1)
    await bench.until(lambda: bench.runtime.running() == ["app"])
    monkeypatch.undo()
    await bench.until(lambda: bench.of("app")["restartCount"] == 1, within=90)
