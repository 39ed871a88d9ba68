"""Namespaces that live without a process, because a bind mount holds them.

A sandbox needs a network, an IPC and a UTS namespace that outlast us and every container; a file under run/ on which
`/proc/<thread>/ns/<kind>` is mounted keeps each alive at no cost. They are made, entered and looked into by threads
that end right after: the main thread never changes its namespaces, and no pooled thread is used.

Source: namespaces(7), setns(2), unshare(2), netdevice(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from havre.node import mounts
from havre.node.runtime.errors import Failed, Invalid

__all__ = [
    "Interface",
    "alone",
    "enter",
    "interfaces",
    "open_socket",
    "pin",
    "pinned",
    "sysctl_file",
    "unpin",
    "unshare",
]

FLAGS = {"network": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "pid": 0x20000000}  # CLONE_NEW*
_FILES = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
_NSFS = "nsfs"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_SYSCTL = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_*-]+)+")
# What belongs to one namespace; anything else would change the host. The agent has checked which are safe.
_NAMESPACED = {"net": "network", "fs/mqueue": "ipc", "kernel/shm": "ipc", "kernel/msg": "ipc", "kernel/sem": "ipc"}

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def alone(act: Callable[[], T]) -> T:
    """Run `act` in a thread of its own that ends with it: whatever it did to its namespaces ends too."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            failures.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _call(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(*kinds: str) -> None:
    """New namespaces for the calling thread, which must be one of `alone`."""
    flags = 0
    for kind in kinds:
        flags |= FLAGS[kind]
    _call(_libc.unshare(flags), f"unshare {', '.join(kinds)}")


def enter(path: Path, kind: str) -> None:
    """Join the namespace at `path`; only in a thread of `alone`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(_libc.setns(fd, FLAGS[kind]), f"enter {kind} namespace {path}")
    finally:
        os.close(fd)


# Making and removing


def pin(targets: Mapping[str, Path], hostname: str = "", sysctls: Mapping[str, str] | None = None) -> None:
    """New namespaces of these kinds, each held by a mount on its target, with the loopback interface up.

    A target that was pinned before is replaced. Blocks for 1–20 ms. Raises OSError; Invalid or Failed for a sysctl.
    """
    files = {name: sysctl_file(name, set(targets)) for name in sysctls or {}}
    for target in targets.values():
        unpin(target)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.touch(mode=0o600)

    def act() -> None:
        unshare(*targets)
        if "uts" in targets and hostname:
            socket.sethostname(hostname)
        if "network" in targets:
            _loopback_up()
        for name, file in files.items():
            _write_sysctl(name, file, (sysctls or {})[name])
        for kind, target in targets.items():
            mounts.bind(f"/proc/thread-self/ns/{_FILES[kind]}", target)

    try:
        alone(act)
    except BaseException:
        for target in targets.values():
            unpin(target)
        raise


def unpin(target: Path) -> None:
    """Let go of the namespace at `target`; nothing there is fine."""
    while mounts.unmount(target):
        pass
    target.unlink(missing_ok=True)


def pinned(directory: Path) -> set[str]:
    """Names of the files in `directory` that hold a namespace now: a reboot leaves files that hold nothing."""
    prefix = f"{directory}/"
    return {
        m.point.removeprefix(prefix) for m in mounts.table() if m.filesystem == _NSFS and m.point.startswith(prefix)
    }


def sysctl_file(name: str, kinds: set[str]) -> Path:
    """The file of a sysctl that belongs to one of these namespaces. Raises Invalid for any other.

    `net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` both name an interface with a dot: the
    separator is what comes first.
    """
    if not _SYSCTL.fullmatch(name):
        raise Invalid(f"sysctl {name!r}: not a name")
    path = name
    if re.search(r"[./]", name)[0] == ".":  # type: ignore[index]  # fullmatch found one
        path = name.translate(str.maketrans("./", "/."))
    if ".." in path.split("/"):
        raise Invalid(f"sysctl {name!r}: not a name")
    for prefix, kind in _NAMESPACED.items():
        if path.startswith(prefix) and (prefix != "net" or path.startswith("net/")):
            if kind not in kinds:
                raise Invalid(f"sysctl {name}: the pod uses the {kind} namespace of the host")
            return Path("/proc/sys") / path
    raise Invalid(f"sysctl {name}: not of a namespace; it would change the host")


def _write_sysctl(name: str, file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise Failed(f"set sysctl {name} to {value!r}: {error.strerror}") from error


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH22x", b"lo", 0)  # struct ifreq: char name[16]; short flags
        flags = struct.unpack("16sH22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


# Looking in


def open_socket(netns: Path | None, family: int) -> socket.socket:
    """A stream socket that belongs to the namespace for good, wherever it is used; None is the host's."""

    def act() -> socket.socket:
        if netns is not None:
            enter(netns, "network")
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    return alone(act)


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of a network interface, since it was made."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


def interfaces(netns: Path | None) -> list[Interface]:
    """The interfaces of the namespace but for the loopback; None is the host's."""

    def act() -> str:
        if netns is not None:
            enter(netns, "network")
        return Path("/proc/thread-self/net/dev").read_text()

    return parse_interfaces(alone(act))


def parse_interfaces(text: str) -> list[Interface]:
    """/proc/net/dev: two lines of heading, then `name: ` and 16 counters, received first."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        counters = rest.split()
        if len(counters) == 16 and name.strip() != "lo":
            rx_bytes, rx_errors, tx_bytes, tx_errors = (int(counters[i]) for i in (0, 2, 8, 10))
            found.append(Interface(name.strip(), rx_bytes, rx_errors, tx_bytes, tx_errors))
    return found
