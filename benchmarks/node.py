"""A whole machine: how long `havre up` takes, how long a pod takes from its POST to Running, and what all of it holds
in memory and does when nothing happens.

    python -m benchmarks.node [--starts 5] [--pods 20] [--together 20] [--idle 20]

Everything runs in a network namespace of its own. "API" and "node" are the lines that `havre up --detach` prints when
each is ready, on a new data directory and on one that exists; "Ready" ends with `kubectl wait` (its own start, some
60 ms, is in the figure). Pods are of one busybox container whose image is there; the clock runs from the POST until a
watch shows the phase Running. Memory is PSS, so that pages which processes share count once. Needs root, conmon, crun,
iproute2, skopeo, busybox-static, kubectl; strace for the system calls at rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import images
from tests.support.machine import Machine, eventually, machine

from havre.api.meta import GVK, Obj
from havre.machinery import kubeconfig
from havre.machinery.api import Ref
from havre.machinery.client import HttpApi

IMAGE = "127.0.0.1:5000/bench:1"
POD = GVK("", "v1", "Pod")
SETTLE = 5.0  # seconds after which a start, or a load, is over


def pod(name: str) -> Obj:
    one = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]}
    spec = {"containers": [one], "terminationGracePeriodSeconds": 10}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


class Pods:
    """Makes pods and sees when they run; lives in the machine's network namespace."""

    def __init__(self, api: HttpApi) -> None:
        self._api = api
        self._running: dict[str, float] = {}
        self._gone: set[str] = set()
        self._changed = asyncio.Condition()

    async def follow(self) -> None:
        since = (await self._api.list(POD, "default")).revision
        async for event in self._api.watch(POD, "default", since=since):
            self._note(event)
            async with self._changed:
                self._changed.notify_all()

    def _note(self, event: Any) -> None:
        name = event.object["metadata"].get("name", "")
        if event.type == "DELETED":
            self._gone.add(name)
        elif (event.object.get("status") or {}).get("phase") == "Running":
            self._running.setdefault(name, time.perf_counter())

    async def run(self, names: Sequence[str]) -> list[float]:
        """Seconds from the POST of each to Running; all at once."""
        began = {}

        async def create(name: str) -> None:
            began[name] = time.perf_counter()
            await self._api.create(pod(name), manager="bench")

        await asyncio.gather(*map(create, names))
        async with self._changed:
            await self._changed.wait_for(lambda: all(name in self._running for name in names))
        return [self._running[name] - began[name] for name in names]

    async def delete(self, names: Sequence[str]) -> float:
        """Seconds until the last of them is gone."""
        began = time.perf_counter()
        await asyncio.gather(*(self._api.delete(Ref(POD, "default", name)) for name in names))
        async with self._changed:
            await self._changed.wait_for(lambda: self._gone.issuperset(names))
        return time.perf_counter() - began


async def inside(file: str, count: int, together: int) -> None:
    """What the process in the namespace does: prints one document."""
    async with HttpApi(kubeconfig.load(Path(file)), user_agent="bench") as api:
        pods = Pods(api)
        following = asyncio.create_task(pods.follow())
        singles, ends = [], []
        for number in range(count + 1):
            name = [f"one-{number}"]
            singles += await pods.run(name)
            ends.append(await pods.delete(name))
        names = [f"many-{number}" for number in range(together)]
        many = await pods.run(names)
        print(json.dumps({"singles": singles[1:], "ends": ends[1:], "first": singles[0], "many": many}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the pods stay while memory is measured
        print(json.dumps({"removed": await pods.delete(names)}), flush=True)
        following.cancel()


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def row(what: str, values: Sequence[float], aim: str = "") -> None:
    middle, high = statistics.median(values), percentile(values, 0.9)
    print(f"| {what} | {middle:.2f} | {high:.2f} | {len(values)} | {aim} |", flush=True)


# start


def up(host: Machine) -> tuple[float, float, float]:
    """Seconds until the API, the node process, and the node are ready."""
    began = time.perf_counter()
    at: dict[str, float] = {}
    with subprocess.Popen(host.havre("up", "--detach"), stdout=subprocess.PIPE, text=True, env=host.env) as starting:
        assert starting.stdout is not None
        for line in starting.stdout:
            at.setdefault(line.partition(":")[0], time.perf_counter() - began)
    host.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
    return at["control"], at["node"], time.perf_counter() - began


def starts(host: Machine, count: int) -> None:
    """`host` is up; afterwards too."""
    found: dict[str, list[float]] = {}
    for _ in range(count):
        for kind in ("new", "again"):
            host.down()
            if kind == "new":
                shutil.rmtree(host.data)
            for what, seconds in zip(("API", "node", "Ready"), up(host), strict=True):
                found.setdefault(f"`havre up`, {kind}: {what}", []).append(seconds)
    for what, values in found.items():
        row(what, values, "2" if what.endswith("API") else "")


# memory and rest


def pss(pid: int) -> float:
    """MiB, pages that are shared counted in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def memory(host: Machine) -> dict[str, float]:
    return {name: pss(pid) for name, pid in host.processes().items()}


def conmons(home: Path) -> list[int]:
    """The monitors of this machine's containers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"conmon" in command.partition(b"\0")[0] and os.fsencode(home) in command:
            found.append(int(entry.name))
    return found


def show_memory(host: Machine, what: str) -> None:
    found = memory(host)
    parts = ", ".join(f"{name} {value:.0f}" for name, value in found.items())
    print(f"{what}: {sum(found.values()):.0f} MiB PSS ({parts}); aim 200")


def processor(pids: Sequence[int]) -> float:
    """Seconds of processor time so far."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def switches(pid: int) -> int:
    """How often a thread of the process has gone to sleep by itself."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def idle(host: Machine, seconds: float, what: str) -> None:
    pids = host.processes()
    before = {name: (processor([pid]), switches(pid)) for name, pid in pids.items()}
    time.sleep(seconds)
    said = []
    for name, pid in pids.items():
        used, woken = processor([pid]) - before[name][0], switches(pid) - before[name][1]
        said.append(f"{name} {100 * used / seconds:.2f} %, {woken / seconds:.1f} wake-ups/s")
    print(f"{what}: {'; '.join(said)}")


def pods(host: Machine, count: int, together: int, seconds: float) -> None:
    command = [*host.inside, sys.executable, "-m", "benchmarks.node", "--inside", str(host.kubeconfig)]
    options = ["--pods", str(count), "--together", str(together)]
    with subprocess.Popen(
        [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=host.env
    ) as work:
        assert work.stdin is not None
        assert work.stdout is not None
        found = json.loads(work.stdout.readline())
        row("POST of a pod to Running, the first", [found["first"]])
        row("POST of a pod to Running", found["singles"], "1.5")
        row("DELETE of a pod that ends at SIGTERM to gone", found["ends"])
        row(f"{together} pods at once: each to Running", found["many"])
        row(f"{together} pods at once: all Running", [max(found["many"])])
        time.sleep(SETTLE)
        print()
        show_memory(host, f"with {together} pods")
        monitors = [pss(pid) for pid in conmons(host.home)]
        print(f"per pod besides: conmon {sum(monitors) / together:.2f} MiB PSS ({len(monitors)} of them)")
        idle(host, seconds, f"at rest with {together} pods")
        work.stdin.write("\n")
        work.stdin.flush()
        print(f"{together} pods deleted at once: {json.loads(work.stdout.readline())['removed']:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--pods", type=int, default=20)
    parser.add_argument("--together", type=int, default=20)
    parser.add_argument("--idle", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        asyncio.run(inside(chosen.inside, chosen.pods, chosen.together))
        return
    print(f"kernel {platform.release()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="bench") as directory, machine(Path(directory)) as host:
        print("| seconds | median | p90 | n | aim |\n|---|--:|--:|--:|--:|")
        starts(host, chosen.starts)
        source = images.archive(host.home / "bench.tar", "registry.example/bench:1")
        images.push(source, IMAGE, *host.inside)
        eventually("the node is ready", lambda: "True" in host.kubectl("get", "nodes", "-o", READY))
        time.sleep(SETTLE)
        rest = memory(host)
        pods(host, chosen.pods, chosen.together, chosen.idle)
        time.sleep(SETTLE)
        print(f"before the first pod: {sum(rest.values()):.0f} MiB PSS")
        show_memory(host, "after the last")
        idle(host, chosen.idle, "at rest")


READY = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'

if __name__ == "__main__":
    main()
