"""Which Linux capabilities a container gets: the default set, what a pod adds and drops, `ALL`. Pure, but for `own`.

Names are those of the kernel with the prefix (`CAP_NET_RAW`); pods write them without it and in any case.

Source: capability.h of Linux; the default set is that of Docker and containerd (pkg/oci/spec.go).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from havre.node.runtime.errors import Invalid, Unsupported

__all__ = ["ALL", "DEFAULT", "granted", "named", "own"]

ALL = tuple(  # in the order of their bits
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)

DEFAULT = frozenset(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)

_EVERY = "CAP_ALL"


def named(name: str) -> str:
    """`net_raw` → `CAP_NET_RAW`; `ALL` → `CAP_ALL`. Raises Invalid for a name that no kernel knows."""
    full = name.upper()
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full != _EVERY and full not in ALL:
        raise Invalid(f"capability {name!r} does not exist")
    return full


def granted(
    add: Iterable[str], drop: Iterable[str], available: frozenset[str], base: frozenset[str] = DEFAULT
) -> list[str]:
    """The set of a container, sorted by bit.

    `ALL` in `add` means all that are `available` to us, `ALL` in `drop` empties the set before the names in `add` are
    added one by one, a name in both lists is dropped. Raises Unsupported for a name added that we do not have
    ourselves: the kernel would refuse the container later and without a reason.
    """
    adds, drops = {named(name) for name in add}, {named(name) for name in drop}
    held = set(available) if _EVERY in adds else set(base & available)
    if _EVERY in drops:
        held = set()
    wanted = adds - {_EVERY}
    if missing := sorted(wanted - available - drops):
        raise Unsupported(f"add capability {', '.join(missing)}: the runtime does not hold it itself")
    held = (held | wanted) - drops
    return [name for name in ALL if name in held]


def own(status: str | None = None) -> frozenset[str]:
    """What this process may give away: its bounding set, from the text of /proc/self/status."""
    text = Path("/proc/self/status").read_text() if status is None else status
    bits = next((int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapBnd:")), 0)
    return frozenset(name for bit, name in enumerate(ALL) if bits >> bit & 1)
