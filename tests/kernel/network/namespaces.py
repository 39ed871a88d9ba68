"""Network namespaces for tests: made by a thread that leaves its own, found through a file, gone with the test."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from havre.wire.netlink import netns
from havre.wire.netlink.connection import Connection
from havre.wire.netlink.message import Request

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
MS_BIND, MNT_DETACH = 4096, 2


def in_thread(work: Callable[[], T]) -> T:
    """Do it in a thread of its own, which may go to other namespaces."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def create(path: Path) -> Path:
    """A new network namespace, mounted at `path`."""
    path.touch()

    def make() -> None:
        if _libc.unshare(netns.CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        if _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), None, MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    in_thread(make)
    return path


def remove(path: Path) -> None:
    """Unmount; the namespace goes when nothing uses it any more."""
    _libc.umount2(os.fsencode(path), MNT_DETACH)
    path.unlink(missing_ok=True)


def inside(path: Path, work: Callable[[], T]) -> T:
    """Do it there."""

    def there() -> T:
        with netns.opened(path) as fd:
            netns.enter(fd)
        return work()

    return in_thread(there)


def kernel(path: Path, *requests: Request) -> None:
    """Ask the kernel something in that namespace."""

    def ask() -> None:
        with Connection() as connection:
            connection.run(*requests)

    inside(path, ask)


def command(path: Path, *words: str) -> str:
    """The output of a program that runs there."""
    return subprocess.run(
        ["nsenter", f"--net={path}", *words], check=True, capture_output=True, text=True, timeout=10
    ).stdout


async def peer_seen(server: Path, client: Path, address: str, port: int = 8080) -> str:
    """Connect over TCP from one namespace to an address of the other; whom the server saw."""
    import socket

    listening = inside(server, lambda: socket.create_server(("0.0.0.0", port)))  # noqa: S104
    try:
        connected = await asyncio.to_thread(
            inside, client, lambda: socket.create_connection((address, port), timeout=3)
        )
        accepted, seen = listening.accept()
        with connected, accepted:
            accepted.sendall(b"hello")
            assert connected.recv(5) == b"hello"
        return str(seen[0])
    finally:
        listening.close()
