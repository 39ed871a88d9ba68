"""What a Service costs a new connection: Havre's eBPF beside the iptables rules of kube-proxy, 10 and 10,000 Services.

    python -m benchmarks.services [--seconds 1] [--rounds 3] [--iptables iptables-legacy,iptables-nft]

One network namespace plays the node, two the pods; nothing of the machine's own network is touched. A client in one
pod connects to the last Service and closes, again and again, from one thread; the server is the other pod. Each way is
measured in every round, one after the other; of the rounds the best 10th percentile and median count, since what else
runs on the machine only ever adds. Client and server are Python: what they need themselves is in every figure, and is
what "pod's address" shows. Needs root, iproute2, and iptables for the other side.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel.network.world import Pod, World

from havre.node.network.frontends import Backend, Backends, Frontend

PORT, TARGET = 80, 8080

CLIENT = """
import struct, time
def measure(address, seconds):
    at_once = struct.pack("ii", 1, 0)
    times, end = [], time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        began = time.perf_counter_ns()
        s.connect(address)
        s.close()
        times.append(time.perf_counter_ns() - began)
        if times[-1] + began > end:
            times.sort()
            return times[len(times) // 10] / 1e3, times[len(times) // 2] / 1e3, len(times) / seconds
"""
SERVER = f"""
import threading
listening = socket.create_server(("0.0.0.0", {TARGET}), backlog=4096)
def serve():
    while True:
        s, _ = listening.accept()
        s.close()
threading.Thread(target=serve, daemon=True).start()
"""


@dataclass
class Result:
    load: float = 0.0  # seconds until the rules are in
    tenth: float = 1e9  # µs
    median: float = 1e9  # µs
    rate: float = 0.0  # connections a second
    rounds: list[float] = field(default_factory=list)

    def add(self, tenth: float, median: float, rate: float) -> None:
        self.tenth, self.median = min(self.tenth, tenth), min(self.median, median)
        self.rate = max(self.rate, rate)
        self.rounds.append(tenth)


def cluster_ip(number: int) -> str:
    return f"10.96.{number >> 8}.{number & 255}"


def backends(count: int, pod: Pod) -> Iterator[tuple[str, str]]:
    """Cluster IPs and the address behind each; only the last has a pod."""
    for number in range(1, count):
        yield cluster_ip(number), f"10.43.{number >> 8}.{number & 255}"
    yield cluster_ip(count), pod.ip


def rules(count: int, pod: Pod) -> str:
    """The nat table as kube-proxy writes it in its mode iptables, comments left out."""
    lines = ["*nat", ":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]", ":KUBE-POSTROUTING - [0:0]"]
    body = ["-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES", "-A POSTROUTING -j KUBE-POSTROUTING"]
    body += ["-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000"]
    body += ["-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN", "-A KUBE-POSTROUTING -j MASQUERADE"]
    for number, (service, backend) in enumerate(backends(count, pod)):
        one, end = f"KUBE-SVC-{number:X}", f"KUBE-SEP-{number:X}"
        lines += [f":{one} - [0:0]", f":{end} - [0:0]"]
        body += [f"-A KUBE-SERVICES -d {service}/32 -p tcp -m tcp --dport {PORT} -j {one}", f"-A {one} -j {end}"]
        body += [f"-A {end} -s {backend}/32 -j KUBE-MARK-MASQ"]
        body += [f"-A {end} -p tcp -m tcp -j DNAT --to-destination {backend}:{TARGET}"]
    return "\n".join([*lines, *body, "COMMIT", ""])


class Bench:
    """The node, its two pods, and a client and a server in them."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self.world = World(directory, "bench")
        self.seconds = seconds
        self.one, self.two = self.world.pod(1), self.world.pod(2)
        self.client, self.server = self.world.process(self.one.netns), self.world.process(self.two.netns)
        self.client.do(CLIENT)
        self.server.do(SERVER)
        self.results: dict[str, Result] = {}

    def measure(self, way: str, address: str, port: int, load: float) -> None:
        result = self.results.setdefault(way, Result())
        result.load = load
        result.add(*self.client.do(f"measure(('{address}', {port}), {self.seconds})"))

    async def havre(self, count: int) -> None:
        """The datapath as the product has it, made anew."""
        datapath = self.world.datapath = self.world.another()
        await datapath.open()
        self.world.add(self.one)
        self.world.add(self.two)
        wanted = {Frontend(s, PORT): Backends((Backend(b, TARGET),)) for s, b in backends(count, self.two)}
        began = time.perf_counter()
        datapath.set_frontends(wanted)
        load = time.perf_counter() - began
        if count == 10:
            self.measure("Havre, pod's address", self.two.ip, TARGET, 0)
        self.measure(f"Havre, {count:,} Services", cluster_ip(count), PORT, load)
        await datapath.destroy()

    def iptables(self, tool: str, count: int) -> None:
        nsenter = ["nsenter", f"--net={self.world.host}"]
        began = time.perf_counter()
        subprocess.run([*nsenter, f"{tool}-restore"], input=rules(count, self.two).encode(), check=True, timeout=300)
        load = time.perf_counter() - began
        self.measure(f"{tool}, {count:,} Services", cluster_ip(count), PORT, load)
        for table in ("-F", "-X"):
            subprocess.run([*nsenter, tool, "-t", "nat", table], check=True, timeout=300)

    def routed(self) -> None:
        self.measure("routed, pod's address", self.two.ip, TARGET, 0)


def show(results: dict[str, Result]) -> None:
    print(
        "| way | µs p10 | µs median | connections/s | rules in, s | p10 beside 10 Services |\n|---|--:|--:|--:|--:|--:|"
    )
    for way, result in results.items():
        few = results.get(f"{way.split(',')[0]}, 10 Services")
        ratio = f"{result.tenth / few.tenth:.2f}" if few else ""
        load = f"{result.load:.2f}" if result.load else ""
        print(f"| {way} | {result.tenth:.1f} | {result.median:.1f} | {result.rate:,.0f} | {load} | {ratio} |")


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iptables", default="iptables-legacy,iptables-nft")
    arguments = parser.parse_args()
    tools = [tool for tool in arguments.iptables.split(",") if tool and shutil.which(tool)]
    print(f"kernel {platform.release()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), arguments.seconds)
        try:
            for _ in range(arguments.rounds):
                for count in (10, 10_000):
                    await bench.havre(count)
                for tool in tools:
                    for count in (10, 10_000):
                        bench.iptables(tool, count)
            bench.routed()
        finally:
            await bench.world.close()
    show(bench.results)


if __name__ == "__main__":
    asyncio.run(main())
