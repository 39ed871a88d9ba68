"""Pod sandboxes: what the containers of a pod share, without a process to hold it.

A sandbox is a network, an IPC and a UTS namespace pinned by bind mounts, a /dev/shm, three small files and an address.
Only a pod that shares its PID namespace has a process, since such a namespace ends with its process 1.

    run        names → namespaces → network → record; a crash before the record leaves things that `restore` removes
    stop       containers killed, network released, namespaces gone; what remains is the record, until `remove`
    restore    what is still pinned after our restart is ready, after a reboot nothing is

Source: CRI RuntimeService; containerd internal/cri/server/sandbox_*.go for what CRI leaves open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from havre.node import mounts
from havre.node.removal import remove_tree
from havre.node.runtime import netns, pause
from havre.node.runtime.cgroups import checked
from havre.node.runtime.errors import AlreadyExists, Failed, Invalid, NotFound, Unsupported
from havre.node.runtime.files import write
from havre.node.runtime.host import Host
from havre.node.runtime.processes import Process, Watch
from havre.node.runtime.protocol import Network, PodIdentity, PortMapping
from havre.node.runtime.records import FILE, SandboxRecord
from havre.node.runtime.spec import SHM_SIZE, Pod
from havre.wire.grpc.messages import messages

__all__ = ["Sandbox", "Sandboxes"]

cri = messages("runtime.v1")
log = logging.getLogger(__name__)

PAUSE_SECONDS = 20.0  # until the pause process has shut itself in; 20–60 ms
HOST_FILE_LIMIT = 1024 * 1024  # bytes of /etc/hosts and /etc/resolv.conf that are copied
_HOSTNAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # 64: the kernel's limit
# Ports below 1024 and ping need no capability inside a pod, since nobody else shares its network namespace.
_DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

Key = tuple[str, str, str, int]


class Sandbox:
    """One sandbox that exists."""

    def __init__(self, record: SandboxRecord, directory: Path) -> None:
        self.record = record
        self.directory = directory
        self.lock = asyncio.Lock()  # run, stop and remove, one at a time
        self.watch: Watch | None = None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def options(self) -> Any:
        """NamespaceOption of the pod."""
        return self.record.config.linux.security_context.namespace_options

    @property
    def host_network(self) -> bool:
        return bool(self.options.network == cri.NODE)


class Sandboxes:
    """All sandboxes of this instance. `kill` ends the containers of one, `drop` removes them."""

    def __init__(
        self,
        host: Host,
        network: Network | None,
        kill: Callable[[str], Awaitable[None]],
        drop: Callable[[str], Awaitable[None]],
    ) -> None:
        self._host = host
        self._network = network
        self._kill = kill
        self._drop = drop
        self._all: dict[str, Sandbox] = {}
        self._making: dict[Key, asyncio.Task[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._all.values()))

    def get(self, name: str) -> Sandbox:
        """By id, or a prefix that only one has. Raises NotFound."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"sandbox {name!r} does not exist")
        return found

    def find(self, name: str) -> Sandbox | None:
        if name in self._all:
            return self._all[name]
        matches = [sandbox for id_, sandbox in self._all.items() if name and id_.startswith(name)]
        return matches[0] if len(matches) == 1 else None

    def netns(self, sandbox: Sandbox) -> Path | None:
        """The file that pins its network namespace; None when it uses the host's."""
        return None if sandbox.host_network else self._host.config.netns / sandbox.id

    def pod(self, sandbox: Sandbox) -> Pod:
        """What its containers are built from."""
        record = sandbox.record
        namespaces = {kind: str(path) for kind, path in self._targets(record.id, record.config).items()}
        if record.pause.pid:
            namespaces["pid"] = f"/proc/{record.pause.pid}/ns/pid"
        names = ("hosts", "hostname", "resolv.conf")
        files = {f"/etc/{name}": str(sandbox.directory / name) for name in names}
        shared = sandbox.options.ipc != cri.NODE
        shm = str(self._host.config.shm / record.id) if shared else "/dev/shm"  # noqa: S108 - the host's, asked for
        return Pod(record.id, record.config, record.hostname, namespaces, files, shm)

    # run

    async def run(self, config: Any, handler: str) -> str:
        """The id of a new sandbox. The same request gives the same one again: the first answer may have been lost."""
        if handler not in {"", "havre", "runc", self._host.oci.name}:
            raise NotFound(f"runtime handler {handler!r} is not configured; there is {self._host.oci.name!r}")
        key = _key(config)
        while (making := self._making.get(key)) is not None:
            await asyncio.wait({making})
        for sandbox in self._all.values():
            if _key(sandbox.record.config) == key:
                return _same(sandbox, config)
        task = asyncio.create_task(self._run(config, handler))
        self._making[key] = task
        task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)  # a caller that gave up finds it finished when it asks again

    async def _run(self, config: Any, handler: str) -> str:
        id_ = secrets.token_hex(32)
        record = SandboxRecord(id_, config, handler, _hostname(config), time.time_ns())
        record.cgroup = checked(config.linux.cgroup_parent or f"{self._host.config.cgroup}/pods/{id_}")
        sandbox = Sandbox(record, self._host.config.sandboxes / id_)
        try:
            await self._host.blocking(self._prepare, sandbox)
            if self._network is not None and not sandbox.host_network:
                record.ip = await self._network.attach(_identity(record), self._host.config.netns / id_, _ports(config))
            await self._host.blocking(record.save, sandbox.directory)
        except BaseException:
            await asyncio.shield(self._discard(sandbox))
            raise
        self._all[id_] = sandbox
        self._watch(sandbox)
        return id_

    def _targets(self, id_: str, config: Any) -> dict[str, Path]:
        options = config.linux.security_context.namespace_options
        targets = {}
        if options.network != cri.NODE:
            targets["network"] = self._host.config.netns / id_
            targets["uts"] = self._host.config.namespaces / id_ / "uts"
        if options.ipc != cri.NODE:
            targets["ipc"] = self._host.config.namespaces / id_ / "ipc"
        return targets

    def _prepare(self, sandbox: Sandbox) -> None:
        record, config = sandbox.record, sandbox.record.config
        options = sandbox.options
        if options.HasField("userns_options") and options.userns_options.mode == cri.POD:
            raise Unsupported("user namespaces: not supported by this version; leave hostUsers unset")
        sandbox.directory.mkdir(parents=True, mode=0o700)
        targets = self._targets(record.id, config)
        sysctls = dict(_DEFAULT_SYSCTLS) if "network" in targets else {}
        sysctls |= {name.replace("/", "."): value for name, value in config.linux.sysctls.items()}
        netns.pin(targets, record.hostname, sysctls) if targets else _no_sysctls(sysctls)
        _write_files(sandbox.directory, record.hostname, config)
        if options.ipc != cri.NODE:
            self._make_shm(record.id)
        if options.pid == cri.POD:
            record.pause = self._pause(record, targets)

    def _make_shm(self, id_: str) -> None:
        target = self._host.config.shm / id_
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        safe = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
        mounts.mount("shm", target, "tmpfs", safe, f"mode=1777,size={SHM_SIZE}")

    def _pause(self, record: SandboxRecord, targets: dict[str, Path]) -> Process:
        """Process 1 of a new PID namespace, shut in an empty root."""

        def act() -> subprocess.Popen[bytes]:
            for kind, path in targets.items():
                netns.enter(path, kind)
            netns.unshare("pid")
            return subprocess.Popen(  # noqa: S603 - our own file, our own interpreter
                [sys.executable, "-I", "-S", pause.__file__],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                start_new_session=True,
            )

        child = netns.alone(act)
        process = Process.of(child.pid) or Process(child.pid, 0)
        assert child.stdout is not None
        assert child.stderr is not None
        with child.stdout, child.stderr:
            ready, _, _ = select.select([child.stdout], [], [], PAUSE_SECONDS)
            if not ready or os.read(child.stdout.fileno(), 1) != b"1":
                child.kill()
                child.wait()
                said = child.stderr.read(500).decode("utf-8", "replace")
                raise Failed(f"start the pause process of sandbox {record.id}: {said or 'no answer'}")
        self._host.cgroups.join(f"{record.cgroup}/{record.id}", child.pid)
        child.returncode = 0  # it outlives us; whoever waits for it does so by its pidfd
        return process

    # stop and remove

    async def stop(self, name: str) -> None:
        """End all of it but the record; one that is not there is fine."""
        sandbox = self.find(name)
        if sandbox is None:
            return
        await self._kill(sandbox.id)
        async with sandbox.lock:
            await self._release(sandbox)
            if sandbox.record.ready:
                sandbox.record.ready = False
                try:
                    await self._host.blocking(sandbox.record.save, sandbox.directory)
                except OSError as error:  # a full disk must not keep it: a restart finds that its namespaces are gone
                    log.warning("end of a sandbox not written down", extra={"sandbox": sandbox.id, "why": str(error)})

    async def remove(self, name: str) -> None:
        """Stop it, remove its containers, forget it; one that is not there is fine."""
        sandbox = self.find(name)
        if sandbox is None:
            return
        await self.stop(sandbox.id)
        await self._drop(sandbox.id)
        async with sandbox.lock:
            if sandbox.id in self._all:
                await self._host.blocking((sandbox.directory / FILE).unlink, missing_ok=True)
                await self._discard(sandbox)
                del self._all[sandbox.id]

    async def _release(self, sandbox: Sandbox) -> None:
        if sandbox.watch is not None:
            sandbox.watch.close()
            sandbox.watch = None
        if self._network is not None and not sandbox.host_network:
            await self._network.detach(sandbox.id)
        await self._host.blocking(self._dismantle, sandbox.id, sandbox.record)

    def _dismantle(self, id_: str, record: SandboxRecord | None) -> None:
        """Everything under run/ that belongs to the sandbox; idempotent."""
        config = self._host.config
        if record is not None and record.pause.pid:
            record.pause.signal(signal.SIGKILL)
            _reap(record.pause)
            self._host.cgroups.remove(f"{record.cgroup}/{id_}")
        netns.unpin(config.netns / id_)
        for kind in ("uts", "ipc"):
            netns.unpin(config.namespaces / id_ / kind)
        while mounts.unmount(config.shm / id_):
            pass
        for directory in (config.namespaces / id_, config.shm / id_):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    async def _discard(self, sandbox: Sandbox) -> None:
        """Remove every trace of a sandbox that has no record any more, or never had."""
        await self._release(sandbox)
        await self._host.blocking(remove_tree, sandbox.directory)
        if sandbox.record.cgroup.startswith(f"{self._host.config.cgroup}/"):
            await self._host.blocking(self._host.cgroups.prune, sandbox.record.cgroup)

    # restart

    async def restore(self) -> None:
        """Find everything again. Call once, before anything else and after the containers' records are known."""
        config = self._host.config
        records, broken = await self._host.blocking(self._load)
        pinned = await self._host.blocking(netns.pinned, config.netns)
        for record in records:
            self._all[record.id] = Sandbox(record, config.sandboxes / record.id)
        for id_ in broken | await self._host.blocking(self._orphans):
            log.warning("half-made sandbox removed", extra={"sandbox": id_})
            await self._discard(Sandbox(SandboxRecord(id_, cri.PodSandboxConfig()), config.sandboxes / id_))
        for sandbox in self:
            if sandbox.record.ready and not self._lives(sandbox, pinned):
                await self.stop(sandbox.id)
            elif sandbox.record.ready:
                self._watch(sandbox)
        if self._network is not None:
            live = [sandbox for sandbox in self if sandbox.record.ready and not sandbox.host_network]
            await self._network.restore({sandbox.id: config.netns / sandbox.id for sandbox in live})

    def _load(self) -> tuple[list[SandboxRecord], set[str]]:
        records, broken = [], set()
        for directory in self._host.config.sandboxes.iterdir():
            try:
                record = SandboxRecord.load(directory)
            except Failed as error:
                log.warning("unreadable sandbox", extra={"sandbox": directory.name, "why": str(error)})
                record = None
            if record is None:
                broken.add(directory.name)
            else:
                records.append(record)
        return records, broken

    def _orphans(self) -> set[str]:
        """Names under run/ that no record explains."""
        config = self._host.config
        places = (config.netns, config.namespaces, config.shm)
        return {entry.name for place in places for entry in place.iterdir()} - set(self._all)

    def _lives(self, sandbox: Sandbox, pinned: set[str]) -> bool:
        if sandbox.record.pause.pid and not sandbox.record.pause.alive():
            return False
        return sandbox.host_network or sandbox.id in pinned

    def _watch(self, sandbox: Sandbox) -> None:
        if sandbox.record.pause.pid:
            sandbox.watch = Watch(sandbox.record.pause, lambda: self._paused_no_more(sandbox))

    def _paused_no_more(self, sandbox: Sandbox) -> None:
        log.warning("pause process ended", extra={"sandbox": sandbox.id})
        sandbox.watch = None
        task = asyncio.create_task(self.stop(sandbox.id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let what is being made finish; everything stays."""
        pending = [*self._making.values(), *self._tasks]
        if pending:
            await asyncio.wait(pending)
        for sandbox in self:
            if sandbox.watch is not None:
                sandbox.watch.close()


def _reap(process: Process) -> None:
    """Take the corpse, if it is our child: it is not after a restart."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, 0)
    process.alive()


def _key(config: Any) -> Key:
    metadata = config.metadata
    if not metadata.name or not metadata.uid or not metadata.namespace:
        raise Invalid("sandbox: metadata needs a name, a namespace and a uid")
    return metadata.namespace, metadata.name, metadata.uid, metadata.attempt


def _same(sandbox: Sandbox, config: Any) -> str:
    if sandbox.record.ready and sandbox.record.config == config:
        return sandbox.id
    metadata = config.metadata
    what = f"{metadata.namespace}/{metadata.name} attempt {metadata.attempt}"
    raise AlreadyExists(
        f"sandbox {what} exists as {sandbox.id}, with another configuration or stopped; remove it first"
    )


def _hostname(config: Any) -> str:
    if config.linux.security_context.namespace_options.network == cri.NODE:
        return socket.gethostname()
    name = config.hostname or socket.gethostname()
    if not _HOSTNAME.fullmatch(name):
        raise Invalid(f"hostname {name!r}: 1 to 64 letters, digits, dots, hyphens and underscores")
    return str(name)


def _identity(record: SandboxRecord) -> PodIdentity:
    config, metadata = record.config, record.config.metadata
    labels, annotations = dict(config.labels), dict(config.annotations)
    return PodIdentity(metadata.uid, metadata.namespace, metadata.name, record.id, labels, annotations)


def _ports(config: Any) -> list[PortMapping]:
    found = []
    for port in config.port_mappings:
        if port.host_port > 0:
            protocol = cri.Protocol.Name(port.protocol)
            found.append(PortMapping(protocol, port.container_port, port.host_port, port.host_ip))
    return found


def _no_sysctls(sysctls: dict[str, str]) -> None:
    for name in sysctls:
        netns.sysctl_file(name, set())  # raises: there is no namespace to set it in


def _write_files(directory: Path, hostname: str, config: Any) -> None:
    """What is mounted over /etc/hostname, /etc/hosts and /etc/resolv.conf unless the pod mounts its own."""
    files = {"hostname": f"{hostname}\n".encode(), "hosts": _of_host("/etc/hosts"), "resolv.conf": _resolv_conf(config)}
    for name, data in files.items():
        write(directory / name, data, mode=0o644, durable=False)
        (directory / name).chmod(0o644)


def _of_host(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(HOST_FILE_LIMIT)
    except FileNotFoundError:
        return b""


def _resolv_conf(config: Any) -> bytes:
    dns = config.dns_config
    if not (dns.servers or dns.searches or dns.options):
        return _of_host("/etc/resolv.conf")
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    if any("\n" in line for line in lines):
        raise Invalid("dns_config: a line feed in a server, search domain or option")
    return ("\n".join(lines) + "\n").encode()
