"""Containers beside Debian's containerd: start to end, exec, and the pull of an image, on the same disk.

    python -m benchmarks.containers [--rounds 30] [--pulls 3] [--figures run,exec,pull]

Havre's runtime part and a containerd with its own root, state and address run in one network namespace; both pull from
Debian's docker-registry in it. The sides take turns, so that what else the machine does falls on both. On Havre's side
the client is this process, over CRI; on the other it is `ctr`, a program that starts for each call: "ctr version" shows
what that costs. `ctr run --rm` makes namespaces, but neither a link nor an address: "container" is Havre's answer to it
inside a sandbox that exists, "sandbox and container" makes a pod with its network each time, and ends both. Needs root,
containerd, conmon, docker-registry, skopeo, busybox-static, iproute2.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

from tests.support import images

from havre.node.agent.cri import CriClient, State
from havre.wire.grpc.channel import Channel
from havre.wire.grpc.messages import messages

REGISTRY = "127.0.0.1:5001"
SMALL, LARGE = f"{REGISTRY}/small:1", f"{REGISTRY}/large:1"
SIZE = 200 * 1024 * 1024  # bytes of the large image, uncompressed
LAYERS = 4  # of the large image
BIGGEST = 16 * 1024 * 1024  # bytes of a file in it
SOURCES = ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl", "/usr/lib/x86_64-linux-gnu", "/usr/share")
TOGETHER = 20  # containers at once

cri: Any = messages("runtime.v1")
OWN = {"security_context": {"namespace_options": {"pid": cri.CONTAINER}}}  # as kubelet asks, unless a pod shares them


# the two sides


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def until(what: str, true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"{what} does not answer")
        time.sleep(0.02)


class Namespace:
    """A network namespace with a loopback."""

    def __init__(self) -> None:
        self.name = f"bench{os.getpid()}"
        self.inside = ["nsenter", f"--net=/run/netns/{self.name}", "--"]

    def __enter__(self) -> Namespace:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)


class Containerd:
    """Debian's, with nothing of the system's."""

    def __init__(self, home: Path, inside: list[str]) -> None:
        self.home, self.inside = home, inside
        self.address = str(home / "containerd.sock")

    @contextmanager
    def up(self) -> Iterator[None]:
        config = self.home / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self.home}/root"\nstate = "{self.home}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.address}"\n'
            f'[ttrpc]\naddress = "{self.home}/ttrpc.sock"\n'
        )
        with serving([*self.inside, "containerd", "--config", str(config)], self.home / "log"):
            until("containerd", lambda: self.ctr("version", check=False) == 0)
            yield

    def ctr(self, *arguments: str, check: bool = True) -> int:
        command = [*self.inside, "ctr", "--address", self.address, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
        return done.returncode


class Havre:
    """The runtime part alone, and a client of it."""

    def __init__(self, home: Path, inside: list[str]) -> None:
        self.home, self.inside = home, inside
        self.socket = home / "run/containerd.sock"

    @contextmanager
    def up(self) -> Iterator[None]:
        places = ["--data-dir", str(self.home / "data"), "--run-dir", str(self.home / "run")]
        havre = [*self.inside, sys.executable, "-m", "havre"]
        try:
            with serving([*havre, "run", "runtime", *places], self.home / "log"):
                until("Havre", self.socket.exists)
                yield
        finally:
            subprocess.run([*havre, "down", *places], stdout=subprocess.DEVNULL, check=False)


class Client:
    """What a kubelet does with the runtime."""

    def __init__(self, socket: Path) -> None:
        self.cri = CriClient(socket)
        self._channel = Channel(socket)
        self._numbers = itertools.count()
        self._stopped: dict[str, asyncio.Event] = {}

    async def follow(self, subscribed: asyncio.Event) -> None:
        stream = self._channel.stream("runtime.v1.RuntimeService", "GetContainerEvents", cri.GetEventsRequest())
        async with aclosing(stream) as events:
            subscribed.set()
            async for event in events:
                if event.container_event_type == cri.CONTAINER_STOPPED_EVENT:
                    self._stopped.setdefault(event.container_id, asyncio.Event()).set()

    def pod(self) -> dict[str, Any]:
        name = f"pod-{next(self._numbers)}"
        return {"metadata": {"name": name, "namespace": "bench", "uid": name}, "linux": OWN}

    async def start(self, sandbox: str, pod: dict[str, Any], *command: str) -> str:
        name = {"name": f"c{next(self._numbers)}"}
        config = {"metadata": name, "image": {"image": SMALL}, "command": [*command], "linux": OWN}
        made = await self.cri.create_container(sandbox, config, pod)
        await self.cri.start_container(made)
        return made

    async def run(self, sandbox: str, pod: dict[str, Any]) -> None:
        """From nothing to nothing, as `ctr run --rm`."""
        made = await self.start(sandbox, pod, "/bin/true")
        await self._stopped.setdefault(made, asyncio.Event()).wait()
        status = await self.cri.container_status(made)
        assert (status.state, status.exit_code) == (State.EXITED, 0), status
        await self.cri.remove_container(made)

    async def run_pod(self) -> None:
        pod = self.pod()
        sandbox = await self.cri.run_sandbox(pod)
        await self.run(sandbox, pod)
        await self.cri.stop_sandbox(sandbox)
        await self.cri.remove_sandbox(sandbox)

    def close(self) -> None:
        self._channel.close()


# images


def archive(home: Path) -> Path:
    """What `docker save` would write: files of this machine, as an image of Debian has them."""
    files, taken = [], 0
    for path in itertools.chain.from_iterable(sorted(Path(source).rglob("*")) for source in SOURCES):
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= BIGGEST and taken < SIZE:
            files.append(path)
            taken += path.stat().st_size
    layers = [layer(home / f"layer{number}.tar", files[number::LAYERS]) for number in range(LAYERS)]
    rootfs = {"type": "layers", "diff_ids": [digest for _, digest in layers]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]}, "rootfs": rootfs}
    manifest = [{"Config": "config.json", "RepoTags": [LARGE], "Layers": [path.name for path, _ in layers]}]
    (home / "config.json").write_text(json.dumps(config))
    (home / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(home / "large.tar", "w") as tar:
        for file in (home / "config.json", *(path for path, _ in layers), home / "manifest.json"):
            tar.add(file, file.name)
    print(f"the large image: {taken >> 20} MiB in {len(files):,} files, {LAYERS} layers, gzip\n")
    return home / "large.tar"


def layer(path: Path, files: Sequence[Path]) -> tuple[Path, str]:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            tar.add(file, str(file).lstrip("/"), recursive=False)
    with path.open("rb") as raw:
        return path, f"sha256:{hashlib.file_digest(raw, 'sha256').hexdigest()}"


@contextmanager
def registry(home: Path, inside: list[str]) -> Iterator[None]:
    config = home / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {home}/registry}}}}\n"
        f"http: {{addr: '{REGISTRY}'}}\n"
    )
    with serving([*inside, "docker-registry", "serve", str(config)], home / "registry.log"):
        probe = [*inside, "curl", "-sf", f"http://{REGISTRY}/v2/"]
        until("docker-registry", lambda: subprocess.run(probe, stdout=subprocess.DEVNULL, check=False).returncode == 0)
        yield


# figures

Action = Callable[[], Awaitable[object]]


class Bench:
    """Takes turns between the sides and prints a table."""

    def __init__(self, havre: Havre, containerd: Containerd, client: Client) -> None:
        self.havre, self.containerd, self.client = havre, containerd, client

    async def ctr(self, *arguments: str) -> None:
        await asyncio.to_thread(self.containerd.ctr, *arguments)

    async def compare(
        self, what: str, ours: Action, theirs: Action, rounds: int, between: Action | None = None
    ) -> None:
        times: tuple[list[float], list[float]] = [], []
        for _ in range(rounds + 1):
            for action, found in zip((ours, theirs), times, strict=True):
                began = time.perf_counter()
                await action()
                found.append(time.perf_counter() - began)
            if between is not None:
                await between()
        one, two = (statistics.median(found[1:]) for found in times)  # the first of each is warm-up
        high = sorted(times[0][1:])[int(rounds * 0.9)]
        print(f"| {what} | {1000 * one:.1f} | {1000 * high:.1f} | {1000 * two:.1f} | {one / two:.2f} |", flush=True)

    async def run(self, rounds: int) -> None:
        await self.client.cri.pull(SMALL, None, {})
        await self.ctr("images", "pull", "--plain-http", SMALL)
        numbers = itertools.count()
        pod = self.client.pod()
        sandbox = await self.client.cri.run_sandbox(pod)

        async def theirs() -> None:
            await self.ctr("run", "--rm", SMALL, f"c{next(numbers)}", "/bin/true")

        async def at_once(one: Action) -> None:
            await asyncio.gather(*(one() for _ in range(TOGETHER)))

        async def ours() -> None:
            await self.client.run(sandbox, pod)

        await self.compare("`ctr version` beside CRI Version", self.client.cri.state, self.version, rounds)
        await self.compare("container", ours, theirs, rounds)
        await self.compare("sandbox and container", self.client.run_pod, theirs, rounds)
        few = max(3, rounds // 5)
        await self.compare(f"{TOGETHER} containers at once", lambda: at_once(ours), lambda: at_once(theirs), few)
        await self.client.cri.remove_sandbox(sandbox)

    async def version(self) -> None:
        await self.ctr("version")

    async def exec(self, rounds: int) -> None:
        await self.client.cri.pull(SMALL, None, {})
        await self.ctr("images", "pull", "--plain-http", SMALL)
        pod = self.client.pod()
        sandbox = await self.client.cri.run_sandbox(pod)
        made = await self.client.start(sandbox, pod, "/bin/sleep", "10000")
        await self.ctr("run", "-d", SMALL, "long", "/bin/sleep", "10000")
        numbers = itertools.count()

        async def theirs() -> None:
            await self.ctr("tasks", "exec", "--exec-id", f"e{next(numbers)}", "long", "/bin/true")

        async def ours() -> None:
            assert (await self.client.cri.execute(made, ["/bin/true"], 10.0)).exit_code == 0

        await self.compare("exec", ours, theirs, rounds)
        await self.client.cri.remove_sandbox(sandbox)
        await self.ctr("tasks", "delete", "--force", "long")
        await self.ctr("containers", "delete", "long")

    async def pull(self, rounds: int) -> None:
        async def theirs() -> None:
            await self.ctr("images", "pull", "--plain-http", LARGE)

        async def ours() -> None:
            await self.client.cri.pull(LARGE, None, {})

        async def forget() -> None:
            """`--sync`: containerd's collector has run when it returns."""
            image = await self.client.cri.image(LARGE)
            assert image is not None
            await self.client.cri.remove_image(image.id)
            await self.ctr("images", "remove", "--sync", LARGE)
            await asyncio.to_thread(os.sync)

        await self.compare(f"pull of {SIZE >> 20} MiB, unpacked", ours, theirs, rounds, forget)


async def measure(bench: Bench, chosen: argparse.Namespace) -> None:
    subscribed = asyncio.Event()
    following = asyncio.create_task(bench.client.follow(subscribed))
    await subscribed.wait()
    print("| ms | Havre | p90 | containerd + runc | ratio |\n|---|--:|--:|--:|--:|")
    figures = {"run": bench.run, "exec": bench.exec, "pull": bench.pull}
    for name in chosen.figures.split(","):
        await figures[name](chosen.pulls if name == "pull" else chosen.rounds)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    bench.client.close()
    await bench.client.cri.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--pulls", type=int, default=3)
    parser.add_argument("--figures", default="run,exec,pull")
    chosen = parser.parse_args()
    print(f"kernel {platform.release()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="bench") as directory, ExitStack() as stack:
        home = Path(directory)
        inside = stack.enter_context(Namespace()).inside
        stack.enter_context(registry(home, inside))
        images.push(images.archive(home / "small.tar", SMALL), SMALL, *inside)
        if "pull" in chosen.figures:
            images.push(archive(home), LARGE, *inside)
        for side in ("ours", "theirs"):
            (home / side).mkdir()
        havre, containerd = Havre(home / "ours", inside), Containerd(home / "theirs", inside)
        stack.enter_context(havre.up())
        stack.enter_context(containerd.up())
        asyncio.run(measure(Bench(havre, containerd, Client(havre.socket)), chosen))


if __name__ == "__main__":
    main()
