"""The node is killed at random moments of its work; afterwards the machine is exactly what the API says it is.

A seeded mixture of pods made and deleted, commands run, images pushed, pulled and unpacked, with SIGKILL (sometimes
SIGSTOP for a while) of the node's process, and sometimes of the control's, at any point of it. What must hold:

- a container that nobody touched is the same container, never restarted;
- what was asked for comes about, what was deleted goes, without help;
- afterwards nothing is on the machine that no pod explains: monitor, mount, namespace, link, lease, cgroup, directory.

`HAVRE_CHAOS_SEED` repeats a run, `HAVRE_CHAOS_ROUNDS` makes a longer one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support import images
from tests.support.machine import Machine, eventually, kill, machine, missing

from havre.wire.grpc.channel import Channel
from havre.wire.grpc.messages import messages

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing() or "-"), pytest.mark.timeout(600)]

IMAGE = "127.0.0.1:5000/chaos:1"
SEED = int(os.environ.get("HAVRE_CHAOS_SEED", "20260101"))
ROUNDS = int(os.environ.get("HAVRE_CHAOS_ROUNDS", "8"))
SETTLED = 60.0  # seconds until everything asked for is there again

cri = messages("runtime.v1")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("chaos")) as started:
        source = images.archive(started.home / "chaos.tar", "registry.example/chaos:1", cmd=("sleep", "100000"))
        images.push(source, IMAGE, *started.inside)
        yield started


def pod(name: str, image: str = IMAGE, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": image, "imagePullPolicy": "Always"}
    volumes = [{"name": "scratch", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "scratch", "mountPath": "/scratch", "subPath": "deep/er"}, {"name": "memory", "mountPath": "/m"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "chaos"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{**container, "volumeMounts": mounts}],
            "volumes": volumes,
            **spec,
        },
    }


class Monkey:
    """What is wanted, and everything that gets in its way."""

    def __init__(self, host: Machine, seed: int) -> None:
        self.host = host
        self.dice = random.Random(seed)  # noqa: S311 - to be repeated
        self.wanted: set[str] = set()
        self.made = 0
        self.threads = ThreadPoolExecutor(4)
        self.work: list[Future[None]] = []

    def round(self, number: int) -> None:
        doing = self.dice.sample([self.create, self.create, self.delete, self.run, self.push], 3)
        self.work += [self.threads.submit(act, number) for act in doing]
        time.sleep(self.dice.random() * 0.9)  # the moment is the experiment: anywhere in what was just begun
        self.strike()

    def strike(self) -> None:
        victim = self.dice.choice(["node", "node", "node", "node", "control", "stop"])
        pid = self.host.processes().get("node" if victim == "stop" else victim)
        if pid is None:  # it is being started again
            return
        with contextlib.suppress(ProcessLookupError):
            if victim != "stop":
                kill(pid)
                return
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.dice.random() * 2)
            os.kill(pid, signal.SIGCONT)

    def create(self, number: int) -> None:
        self.made += 1
        name = f"p{number}-{self.made}"
        extra: dict[str, Any] = self.dice.choice([{}, {"shareProcessNamespace": True}, {"hostNetwork": True}])
        self._api("create", pod(name, **extra))
        self.wanted.add(name)

    def delete(self, number: int) -> None:
        with contextlib.suppress(IndexError, KeyError):
            name = self.dice.choice(sorted(self.wanted))
            self.wanted.remove(name)
            self._retried("delete", "pod", name, "--wait=false", "--ignore-not-found")

    def run(self, number: int) -> None:
        """Commands may fail now: their connection goes with the node. They must leave nothing."""
        command = ["kubectl", "exec", "witness", "--", "sh", "-c", "head -c 3000000 /dev/zero | wc -c; sleep 1"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.host.run(*command, check=False, seconds=10)

    def push(self, number: int) -> None:
        """A new image: its layers are received, pulled and unpacked while the node dies."""
        name = f"127.0.0.1:5000/new{number}:1"
        source = self.host.home / f"new{number}.tar"
        images.archive(
            source, "registry.example/new:1", files={"etc/new": f"{number}\n" * 400_000}, cmd=("sleep", "1d")
        )
        until = time.monotonic() + 30
        while True:
            try:
                images.push(source, name, *self.host.inside)
                break
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        self._api("create", pod(f"new{number}", name))
        self.wanted.add(f"new{number}")

    def _api(self, verb: str, obj: dict[str, Any]) -> None:
        def done() -> bool:
            try:
                self.host.apply(obj)
            except AssertionError as error:
                return "AlreadyExists" in str(error)
            return True

        eventually(f"{verb} {obj['metadata']['name']}", done, 30)

    def _retried(self, *arguments: str) -> None:
        eventually(" ".join(arguments), lambda: self.host.run("kubectl", *arguments, check=False).returncode == 0, 30)

    def rest(self) -> None:
        """Everything that was begun is asked for."""
        for work in self.work:
            work.result()
        self.threads.shutdown()


# what is there


async def _listed(socket: Path) -> tuple[set[str], set[str], set[str]]:
    channel = Channel(socket)
    try:
        found = await channel.unary(
            "runtime.v1.RuntimeService", "ListContainers", cri.ListContainersRequest(), timeout=10
        )
        pods = await channel.unary(
            "runtime.v1.RuntimeService", "ListPodSandbox", cri.ListPodSandboxRequest(), timeout=10
        )
    finally:
        channel.close()
    running = {c.id for c in found.containers if c.state == cri.CONTAINER_RUNNING}
    return {c.id for c in found.containers}, running, {p.id for p in pods.items}


def processes(word: str, program: str) -> set[int]:
    """Those of a program that have `word` among their arguments."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if arguments[0].rpartition(b"/")[2] == program.encode() and word.encode() in b"\0".join(arguments):
                    found.add(int(entry.name))
    return found


def names(directory: Path) -> set[str]:
    try:
        return {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        return set()


async def oddities(host: Machine) -> list[str]:
    """All that the pods of the API do not explain."""
    return compared(host, *await _listed(host.home / "run/containerd.sock"))


def compared(host: Machine, containers: set[str], running: set[str], sandboxes: set[str]) -> list[str]:
    pods = host.get("pods", "-A")["items"]
    uids = {p["metadata"]["uid"] for p in pods}
    own_network = {p["metadata"]["uid"] for p in pods if not p["spec"].get("hostNetwork")}
    mounted = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounted = [point for point in mounted if point.startswith(f"{host.home}/")]
    links = subprocess.run(["ip", "-n", host.name, "-br", "link"], capture_output=True, text=True, check=True).stdout
    groups = cgroups(host)
    data, run = host.data / "runtime", host.home / "run"
    checks = {
        "one container in each pod": (len(running), len(pods)),
        "containers": (containers, running),
        "one sandbox for each pod": (len(sandboxes), len(pods)),
        "monitors": (len(processes(str(host.home), "conmon")), len(running)),
        "directories of containers": (names(data / "containers"), containers),
        "directories of sandboxes": (names(data / "sandboxes"), sandboxes),
        "OCI state": (names(run / "oci/crun") | names(run / "oci/runc"), running),
        "network namespaces": (len(names(run / "netns")), len(own_network)),
        "shared memory": (names(run / "shm"), sandboxes),
        "leases": (len(names(run / "network/leases")), len(own_network)),
        "links": (len([line for line in links.splitlines() if not line.startswith("lo ")]), len(own_network)),
        "rootfs mounts": ({Path(p).parent.name for p in mounted if p.endswith("/rootfs")}, running),
        "volumes": (names(host.data / "agent/pods"), uids),
        "logs": (len(names(host.data / "logs")), len(pods)),
        "mounts of strange pods": ([p for p in mounted if "/agent/pods/" in p and not any(u in p for u in uids)], []),
        "cgroups": (groups - sandboxes, {f"pod{uid}" for uid in uids} | running),  # a pause process has its sandbox's
        "doubled mounts": (sorted({p for p in mounted if mounted.count(p) > 1}), []),
        "commands left": (processes(str(host.home), "crun") | processes("3000000", "head"), set()),
    }
    return [f"{what}: {found} instead of {wanted}" for what, (found, wanted) in checks.items() if found != wanted]


def instance(host: Machine) -> str:
    """The name under which this machine keeps its cgroups: that of its network links and BPF pins."""
    return next(iter(names(host.home / "run/bpf") - {"maps.debug", "progs.debug"}), "-")


def cgroups(host: Machine) -> set[str]:
    """Names of all groups of pods and containers, in whatever hierarchy."""
    trees = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    tops = [tree / instance(host) / "kubepods" for tree in trees]
    below = {name for top in tops for _, directories, _ in os.walk(top) for name in directories}
    return below - {"burstable", "besteffort"}


def settle(host: Machine, wanted: set[str]) -> None:
    def there() -> bool:
        done = host.run("kubectl", "get", "pods", "-o", "json", check=False)
        if done.returncode:
            return False
        items = json.loads(done.stdout)["items"]
        ready = {
            p["metadata"]["name"]
            for p in items
            if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions") or ())
        }
        return ready == wanted and len(items) == len(wanted)

    eventually(f"the pods are {sorted(wanted)}", there, SETTLED)


async def test_nothing_is_lost_and_nothing_is_left_when_the_node_dies_at_any_moment(host: Machine) -> None:
    host.apply(pod("witness"))
    settle(host, {"witness"})
    before = host.get("pod", "witness")["status"]["containerStatuses"][0]
    monkey = Monkey(host, SEED)
    for number in range(ROUNDS):
        monkey.round(number)
    monkey.rest()
    settle(host, {"witness"} | monkey.wanted)
    after = host.get("pod", "witness")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before["containerID"], 0)
    await eventually_exact(host)
    host.kubectl("delete", "pods", "--all", "--wait=false")
    settle(host, set())
    await eventually_exact(host)


async def eventually_exact(host: Machine) -> None:
    until = time.monotonic() + 30
    while found := await oddities(host):
        assert time.monotonic() < until, f"HAVRE_CHAOS_SEED={SEED}:\n" + "\n".join(found) + host.last_words()
        await asyncio.sleep(0.2)


def test_a_full_disk_stops_nothing_says_what_is_wrong_and_lets_go(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    disk = tmp_path / "data"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", disk], check=True)
    try:
        with machine(tmp_path) as host:
            source = images.archive(tmp_path / "talk.tar", "registry.example/talk:1", cmd=("sh", "-c", TALK))
            images.push(source, "127.0.0.1:5000/talk:1", *host.inside)
            host.apply(pod("talker", "127.0.0.1:5000/talk:1"))
            settle(host, {"talker"})
            fill(disk / "rest")
            refused = host.run("kubectl", "create", "configmap", "no", "--from-literal=a=b", check=False)
            assert "disk is full; nothing was written" in refused.stderr
            assert host.kubectl("exec", "talker", "--", "echo", "still here") == "still here\n"
            assert host.get("pods")["items"][0]["metadata"]["name"] == "talker"
            (disk / "rest").unlink()
            host.apply(pod("later", "127.0.0.1:5000/talk:1"))
            settle(host, {"talker", "later"})
            assert host.get("pod", "talker")["status"]["containerStatuses"][0]["restartCount"] == 0
            host.kubectl("logs", "talker", "--tail=1")
            fill(disk / "rest")
            started = time.monotonic()
            host.down()  # a machine whose disk is full can be taken down
            assert time.monotonic() - started < 30
            (disk / "rest").unlink()
            host.up()
            settle(host, {"talker", "later"})
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


TALK = "while :; do echo 'some words that fill a log line by line'; sleep 0.05; done"


def fill(path: Path) -> None:
    """To the last byte."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file, bytes(size))
    finally:
        os.close(file)
