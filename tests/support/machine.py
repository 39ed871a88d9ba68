"""A machine of the test's own: a network namespace with a whole Havre in it, real containers included."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UP = 60.0  # seconds until everything is ready
NEEDED = {"ip": "iproute2", "nsenter": "util-linux", "conmon": "conmon", "skopeo": "skopeo", "curl": "curl"}


def missing() -> str:
    """Why no node can run here, or ""."""
    if os.geteuid() != 0:
        return "a node needs root"
    absent = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if absent:
        return f"missing: apt-get install {' '.join(absent)}"
    if not (shutil.which("crun") or shutil.which("runc")):
        return "missing: apt-get install crun"
    return ""


@dataclass(slots=True)
class Machine:
    """`havre up` inside a network namespace; every name and place is its own."""

    home: Path
    name: str
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.data / "havre.log"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def kubeconfig(self) -> Path:
        return self.data / "control/admin.kubeconfig"

    @property
    def inside(self) -> list[str]:
        """What to put before a command so that it runs on this machine's network."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"]

    def havre(self, *arguments: str) -> list[str]:
        places = ["--data-dir", str(self.data), "--run-dir", str(self.home / "run")]
        return [*self.inside, sys.executable, "-m", "havre", *arguments, *places]

    def run(self, *command: str, seconds: float = UP, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on this machine."""
        done = subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, timeout=seconds, env=self.env, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.last_words()}"
        return done

    @property
    def env(self) -> dict[str, str]:
        clients = ROOT / ".venv/clients.d"
        path = f"{clients}:{ROOT / '.venv/bin'}:{os.environ['PATH']}"
        return {
            "PATH": path,
            "HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": str(ROOT / "src"),
            "TZ": "UTC",
        }

    def kubectl(self, *arguments: str, seconds: float = UP) -> str:
        return self.run("kubectl", *arguments, seconds=seconds).stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        done = subprocess.run(
            [*self.inside, "kubectl", "apply", "-f", "-"],
            input=json.dumps(listed),
            capture_output=True,
            text=True,
            timeout=UP,
            env=self.env,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def curl(self, url: str, *options: str) -> str:
        return self.run("curl", "-sS", "--max-time", "5", *options, url).stdout

    def up(self) -> None:
        done = subprocess.run(
            self.havre("up", "--detach"), capture_output=True, text=True, timeout=2 * UP, env=self.env, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.last_words()

    def down(self, *options: str) -> None:
        done = subprocess.run(
            self.havre("down", *options), capture_output=True, text=True, timeout=2 * UP, env=self.env, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self) -> dict[str, int]:
        """supervisor, control, node … → process id, of those that live now."""
        supervisor = int(json.loads((self.data / "havre.json").read_text())["pid"])
        found = {}
        with contextlib.suppress(FileNotFoundError):  # it ended while we looked
            children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
            found["supervisor"] = supervisor
            for child in map(int, children):
                found[Path(f"/proc/{child}/comm").read_text().strip().removeprefix("havre-")] = child
        return found

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            return "\n" + "\n".join(self.log.read_text().splitlines()[-40:])
        return ""


@contextmanager
def machine(home: Path) -> Iterator[Machine]:
    """A machine that is up; it is gone afterwards, whatever happened."""
    if reason := missing():
        pytest.skip(reason)
    made = Machine(home, f"hvtest{os.getpid()}{home.name[-4:]}".replace("_", "").replace("-", ""))
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        subprocess.run(["ip", "-n", made.name, "link", "set", "lo", "up"], check=True)
        made.up()
        yield made
    finally:
        try:
            made.down()
        finally:
            subprocess.run(["ip", "netns", "del", made.name], check=False)


def eventually(what: str, true: Callable[[], object], seconds: float = 30.0) -> None:
    """Look until it holds; for states of other processes that no event announces to us."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def kill(pid: int) -> None:
    """SIGKILL, and wait for its end."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
