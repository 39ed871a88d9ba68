"""A machine of namespaces for tests of the datapath: a host, its pods, a world outside, and processes in a cgroup."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.kernel.network import namespaces

from havre.node.bpf.pins import Pins, cgroup_root
from havre.node.network.datapath import Datapath, own_cookie

GATEWAY = "169.254.7.1"
NODE, OUTSIDE = "192.0.2.1", "192.0.2.2"
WAIT = 10  # seconds for an answer of a process

# Runs what it is sent: `<code>` as a JSON string, a line; answers `{"value": …}` or `{"errno": …, "error": …}`.
SERVE = """
import ast, json, socket, sys
def connect(address, kind=socket.SOCK_STREAM, family=socket.AF_INET):
    s = socket.socket(family, kind); s.settimeout(5); s.connect(address); return s
def udp(family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(5); return s
def ask(address, family=socket.AF_INET):
    with connect(address, family=family) as s:
        return s.recv(99).decode()
names = dict(globals())
for line in sys.stdin:
    try:
        code = ast.parse(json.loads(line))
        last = ast.Expression(code.body.pop().value) if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, "", "exec"), names)
        answer = {"value": last and eval(compile(last, "", "eval"), names)}
    except OSError as e:
        answer = {"errno": e.errno, "error": repr(e)}
    except BaseException as e:
        answer = {"errno": -1, "error": repr(e)}
    print(json.dumps(answer), flush=True)
"""


class Refused(OSError):
    """What a process was told by the kernel."""


class Process:
    """A Python in a network namespace and a cgroup, which does what it is told."""

    def __init__(self, netns: Path, cgroup: Path) -> None:
        enter = 'echo $$ > "$0"/cgroup.procs && exec nsenter --net="$1" "$2" -ISuc "$3"'
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", enter, str(cgroup), str(netns), sys.executable, SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def do(self, code: str) -> Any:
        """The value of the last line, None if that is no expression. Raises Refused, with the errno of its OSError."""
        self.start(code)
        return self.answer()

    def start(self, code: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        self._process.stdin.flush()

    def ready(self, within: float = 0) -> bool:
        """Whether it has answered."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], within)[0])

    def answer(self) -> Any:
        assert self._process.stdout is not None
        assert self.ready(WAIT), "the process does not answer"
        answer = json.loads(self._process.stdout.readline())
        if "errno" in answer:
            raise Refused(answer["errno"], answer["error"])
        return answer["value"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Pod:
    """A namespace behind a veth pair."""

    ip: str
    netns: Path
    ifindex: int = 0
    mac: bytes = b""
    cookie: int = 0


class World:
    """What a test needs, and takes away again."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.instance = f"t{os.getpid()}"  # where /sys/fs/bpf is shared, tests of another process are there, too
        self.cgroup = cgroup_root() / f"havre-test-{name}-{os.getpid()}"
        self.cgroup.mkdir()
        self.host = namespaces.create(directory / "host")
        self._made = [self.host]
        self._processes: list[Process] = []
        self.run(self.host, "ip link set lo up", "sysctl -qw net.ipv4.ip_forward=1")
        self.datapath = self.another()

    def another(self) -> Datapath:
        """A datapath of the same instance: what a restarted process has."""
        return Datapath(self.instance, self.directory / "run", cgroup=self.cgroup, host=self.host)

    @property
    def pins(self) -> Pins:
        return Pins.find(self.instance, self.directory / "run")

    def run(self, netns: Path, *commands: str) -> None:
        for command in commands:
            namespaces.command(netns, *command.split())

    def namespace(self, name: str) -> Path:
        self._made.append(namespaces.create(self.directory / name))
        return self._made[-1]

    def pod(self, number: int) -> Pod:
        """A pod as the pod network makes them, not yet known to the datapath."""
        ip, link, netns = f"10.42.9.{number}", f"pod{number}", self.namespace(f"pod{number}")
        self.run(
            self.host,
            f"ip link add {link} type veth peer name eth0 netns {netns}",
            f"ip link set {link} up",
            f"ip route add {ip} dev {link}",
        )
        outer = self.mac(self.host, link)
        self.run(
            netns,
            "ip link set lo up",
            "ip link set eth0 up",
            f"ip addr add {ip}/32 dev eth0",
            f"ip neigh add {GATEWAY} lladdr {outer} dev eth0 nud permanent",
            f"ip route add {GATEWAY} dev eth0 scope link",
            f"ip route add default via {GATEWAY} dev eth0",
        )
        mac = bytes.fromhex(self.mac(netns, "eth0").replace(":", ""))
        return Pod(ip, netns, self.index(link), mac, namespaces.inside(netns, own_cookie))

    def add(self, pod: Pod) -> Pod:
        namespaces.inside(self.host, partial(self.datapath.add_pod, pod.ip, pod.ifindex, pod.mac, pod.cookie))
        return pod

    def remove(self, pod: Pod) -> None:
        namespaces.inside(self.host, partial(self.datapath.remove_pod, pod.ip))

    def outside(self) -> tuple[Path, int]:
        """The world behind an uplink of the host; the uplink's index."""
        netns = self.namespace("outside")
        self.run(
            self.host,
            f"ip link add uplink type veth peer name eth0 netns {netns}",
            "ip link set uplink up",
            f"ip addr add {NODE}/24 dev uplink",
        )
        self.run(netns, "ip link set lo up", "ip link set eth0 up", f"ip addr add {OUTSIDE}/24 dev eth0")
        return netns, self.index("uplink")

    def process(self, netns: Path) -> Process:
        self._processes.append(Process(netns, self.cgroup))
        return self._processes[-1]

    def server(self, pod: Pod, port: int, word: str) -> Process:
        """A process that greets whoever connects with `word` and the address that it sees, for as long as it lives."""
        process = self.process(pod.netns)
        process.do(
            "import threading\n"
            f"listening = socket.create_server(('0.0.0.0', {port}))\n"
            "def greet():\n"
            " while True:\n"
            "  s, who = listening.accept()\n"
            f"  s.sendall(f'{word} {{who[0]}}'.encode()); s.close()\n"
            "threading.Thread(target=greet, daemon=True).start()"
        )
        return process

    def echo(self, pod: Pod, port: int, word: str) -> Process:
        """A process that answers every datagram with `word` before it."""
        process = self.process(pod.netns)
        process.do(
            "import threading\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"s.bind(('0.0.0.0', {port}))\n"
            "def answer():\n"
            " while True:\n"
            "  data, who = s.recvfrom(9999)\n"
            f"  s.sendto(b'{word} ' + data, who)\n"
            "threading.Thread(target=answer, daemon=True).start()"
        )
        return process

    def index(self, link: str) -> int:
        return namespaces.inside(self.host, partial(socket.if_nametoindex, link))

    def mac(self, netns: Path, link: str) -> str:
        words = namespaces.command(netns, "ip", "-o", "link", "show", link).split()
        return words[words.index("link/ether") + 1]

    async def close(self) -> None:
        await self.datapath.destroy()
        for process in self._processes:
            process.close()
        for netns in self._made:
            namespaces.remove(netns)
        self.cgroup.rmdir()
