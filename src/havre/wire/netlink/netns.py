"""Network namespaces: work inside another one, from a thread that may leave its own.

A namespace belongs to a thread, not to the process, and a socket keeps the namespace in which it was made. So a
netlink socket to a pod is made inside the pod's namespace, and used from anywhere. The main thread never moves:
`inside` refuses it, because asyncio and everybody's sockets live there.

Source: setns(2), network_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
OWN = Path("/proc/thread-self/ns/net")

_libc = ctypes.CDLL(None, use_errno=True)


def enter(netns: int) -> None:
    """Move the calling thread into the namespace behind the file descriptor, for good. Raises OSError."""
    if threading.current_thread() is threading.main_thread():
        raise RuntimeError("the main thread must stay in its network namespace; use a thread of its own")
    if _libc.setns(netns, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"enter network namespace: {os.strerror(code)}")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file descriptor of the namespace that is mounted at `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def inside(netns: int) -> Iterator[None]:
    """The calling thread is in the namespace for the time of the block, and then back where it was."""
    with opened(OWN) as home:
        enter(netns)
        try:
            yield
        finally:
            enter(home)
