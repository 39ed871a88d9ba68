"""The real API server, as referee of tests and as peer of benchmarks: etcd and kube-apiserver, all state in one
directory.

The programs are looked for in $PEERS, else in `peers/bin` of the temporary directory, else on the PATH; they can be
built from the Go modules go.etcd.io/etcd/server/v3 and k8s.io/kubernetes. Loopback only; ends with the block.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from havre.machinery.kubeconfig import Connection
from havre.wire import tls
from havre.wire.http.client import Client
from havre.wire.http.errors import HttpError

START_SECONDS = 60.0  # of etcd and kube-apiserver on a slow machine


class NotInstalled(Exception):
    """A program of the peer is missing; the message says which and where it was looked for."""


@dataclass(frozen=True, slots=True)
class Referee:
    """A running kube-apiserver."""

    connection: Connection
    pids: dict[str, int]  # by program


def program(name: str) -> Path:
    """Raises NotInstalled."""
    directory = Path(os.environ.get("PEERS") or Path(tempfile.gettempdir()) / "peers" / "bin")
    if (directory / name).exists():
        return directory / name
    found = shutil.which(name)
    if found is None:
        raise NotInstalled(f"{name} is neither in {directory} (set PEERS) nor on the PATH")
    return Path(found)


@contextmanager
def referee(directory: Path, *, durable: bool = False) -> Iterator[Referee]:
    """Up and ready inside the block. `durable`: etcd waits for the disk, as in production. Raises NotInstalled."""
    etcd, apiserver = program("etcd"), program("kube-apiserver")
    directory.mkdir(parents=True, exist_ok=True)
    ports = free_ports(3)
    admin = _certificates(directory)
    connection = Connection(
        f"https://127.0.0.1:{ports[2]}",
        ca=(directory / "ca.crt").read_bytes(),
        certificate=admin.certificate,
        key=admin.key,
    )
    with (directory / "log").open("wb") as log:
        processes = {
            "etcd": subprocess.Popen(_etcd(etcd, directory, ports, durable=durable), stdout=log, stderr=log),
            "apiserver": subprocess.Popen(_apiserver(apiserver, directory, ports), stdout=log, stderr=log),
        }
        try:
            with ThreadPoolExecutor(1) as thread:  # the caller may be inside a running loop
                thread.submit(asyncio.run, _ready(connection, processes, directory / "log")).result()
            yield Referee(connection, {name: process.pid for name, process in processes.items()})
        finally:
            for process in reversed(processes.values()):  # the server first: without etcd it would not end
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _etcd(binary: Path, directory: Path, ports: list[int], *, durable: bool) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in ports[:2])
    return [
        str(binary),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--quota-backend-bytes={8 << 30}",
        "--log-level=warn",
        *([] if durable else ["--unsafe-no-fsync"]),
    ]


def _apiserver(binary: Path, directory: Path, ports: list[int]) -> list[str]:
    return [
        str(binary),
        f"--etcd-servers=http://127.0.0.1:{ports[0]}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports[2]}",
        "--advertise-address=192.0.2.2",
        f"--tls-cert-file={directory / 'server.crt'}",
        f"--tls-private-key-file={directory / 'server.key'}",
        f"--client-ca-file={directory / 'ca.crt'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={directory / 'sa.key'}",
        f"--service-account-signing-key-file={directory / 'sa.key'}",
        "--authorization-mode=Node,RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
    ]


def _certificates(directory: Path) -> tls.Pair:
    authority = tls.new_authority("referee")
    tls.save(directory, "ca", authority)
    server = tls.issue(authority, tls.Subject("kube-apiserver"), server=True, names=["127.0.0.1", "localhost"])
    tls.save(directory, "server", server)
    tls.write(directory / "sa.key", tls.new_signing_key("rsa"), mode=0o600)
    return tls.issue(authority, tls.Subject("admin", ("system:masters",)), client=True)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def _ready(connection: Connection, processes: dict[str, subprocess.Popen[bytes]], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    context = tls.client_context(connection.ca, connection.certificate, connection.key)
    async with Client(connection.server, ssl=context, timeout=2.0) as client:
        while True:
            try:
                if (await client.request("GET", "/readyz")).status == 200:
                    return
            except HttpError as error:
                last: object = error
            else:
                last = "not ready"
            ended = any(process.poll() is not None for process in processes.values())
            if ended or time.monotonic() > end:
                raise AssertionError(f"the referee did not start ({last}); its log is {log}")
            await asyncio.sleep(0.05)
