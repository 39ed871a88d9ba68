"""What this kernel can do: every feature is tried, none is guessed from a version.

    probe() → {"libbpf": "ok", "tcx": "ok", "fentry": "EPERM Operation not permitted", …}

Trying means loading a program of a few instructions, or making a map or a link, and closing it at once; nothing stays
and nothing is attached to anybody's traffic but for one moment a program that passes all on, at `lo`.

NEEDED is what the network cannot do without, the others make some of it better or are for later parts.
Source: linux/bpf.h; kernel Documentation/bpf/standardization/instruction-set.rst for the instructions.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from havre.node.bpf.call import BpfError, Command, address, bpf, buffer_of
from havre.node.bpf.libbpf import LibbpfMissing, library, listening
from havre.node.bpf.links import At, create
from havre.node.bpf.pins import SYSTEM, cgroup_root, is_bpffs

OK: Final = "ok"
NEEDED: Final = frozenset(
    {"libbpf", "root", "cgroup2", "cgroup connect4", "set_retval", "tc", "redirect_peer", "batch"}
)

# instructions: `<u8 code><u8 registers><i16 offset><i32 immediate>`
_RETURN: Final = struct.pack("<BBhi", 0x95, 0, 0, 0)


def _set(register: int, value: int) -> bytes:
    return struct.pack("<BBhi", 0xB7, register, 0, value)


def _call(helper: int) -> bytes:
    return struct.pack("<BBhi", 0x85, 0, 0, helper)


# types of programs (enum bpf_prog_type) and numbers of helpers (enum bpf_func_id)
_SCHED_CLS, _XDP, _CGROUP_SOCK_ADDR, _TRACING, _LSM, _NETFILTER = 3, 6, 18, 26, 29, 32
_TRACE_RAW_TP, _FENTRY, _LSM_MAC, _NETFILTER_HOOK = 23, 24, 27, 45
_SET_RETVAL, _REDIRECT_NEIGH, _REDIRECT_PEER, _NETNS_COOKIE = 187, 152, 155, 122
_HASH, _PERCPU_ARRAY, _PROG_ARRAY, _LRU_HASH, _RINGBUF = 1, 6, 3, 9, 27


def probe() -> Mapping[str, str]:
    """Each feature with "ok" or the kernel's refusal. Blocks for some ms; needs root to mean anything."""
    return {name: _tried(feature) for name, feature in FEATURES.items()}


def missing(found: Mapping[str, str]) -> list[str]:
    """What is needed and not there."""
    return sorted(name for name in NEEDED if found.get(name) != OK)


def _tried(feature: Callable[[], None]) -> str:
    try:
        feature()
    except LibbpfMissing as error:
        return str(error)
    except OSError as error:
        number = error.errno or 0
        return f"{errno.errorcode.get(number, number)} {os.strerror(number)}"
    return OK


def _root() -> None:
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "not root")


def _exists(path: Path) -> None:
    path.stat()


def _bpffs() -> None:
    if not is_bpffs(SYSTEM):
        raise FileNotFoundError(errno.ENOENT, f"no bpffs at {SYSTEM}; an instance mounts its own")


def _program(kind: int, code: bytes, expected: int = 0, target: int = 0) -> int:
    """attr of PROG_LOAD: `<u32 kind><u32 count><u64 instructions><u64 licence>`, no log; at 68 the expected attach
    type, at 108 the BTF id of the target."""
    instructions, licence = buffer_of(code), buffer_of(b"Apache-2.0\0")
    attr = struct.pack("=IIQQ", kind, len(code) // 8, address(instructions), address(licence)).ljust(128, b"\0")
    buffer = bytearray(attr)
    struct.pack_into("=I", buffer, 68, expected)
    struct.pack_into("=I", buffer, 108, target)
    return bpf(Command.PROG_LOAD, bytes(buffer), "load a program")


def _loads(kind: int, code: bytes, expected: int = 0) -> None:
    os.close(_program(kind, code, expected))


def _traces(kind: int, expected: int, name: bytes) -> None:
    """A program that is bound to a function or tracepoint of the kernel by its BTF."""
    with listening():
        target: int = library().libbpf_find_vmlinux_btf_id(name, expected)
    if target < 0:
        raise BpfError(-target, f"find {name.decode()} in the kernel's BTF")
    os.close(_program(kind, _set(0, 0) + _RETURN, expected, target))


def _map(kind: int, key: int, value: int, entries: int) -> int:
    """attr of MAP_CREATE: `<u32 kind><u32 key><u32 value><u32 entries><u32 flags>`."""
    return bpf(Command.MAP_CREATE, struct.pack("=5I", kind, key, value, entries, 0), "make a map")


def _makes(kind: int, key: int, value: int, entries: int) -> None:
    os.close(_map(kind, key, value, entries))


def _batch() -> None:
    fd = _map(_HASH, 4, 4, 4)
    keys, values = buffer_of(bytes(4)), buffer_of(bytes(4))
    try:
        attr = struct.pack("=QQQQIIQQ", 0, 0, address(keys), address(values), 1, fd, 0, 0)
        bpf(Command.MAP_UPDATE_BATCH, attr, "update a map by batch")
    finally:
        os.close(fd)


def _tcx() -> None:
    program = _program(_SCHED_CLS, _set(0, -1) + _RETURN)  # -1: the next program decides
    try:
        os.close(create(program, socket.if_nametoindex("lo"), At.TCX_INGRESS))
    finally:
        os.close(program)


def _cgroup2() -> None:
    cgroup_root()


_PASS, _ZERO = _set(0, 1) + _RETURN, _set(0, 0) + _RETURN


def _redirects(helper: int, arguments: int) -> None:
    _loads(_SCHED_CLS, b"".join(_set(n + 1, 0) for n in range(arguments)) + _call(helper) + _ZERO)


FEATURES: Final[Mapping[str, Callable[[], None]]] = {
    "root": _root,
    "libbpf": lambda: library() and None,
    "btf": partial(_exists, Path("/sys/kernel/btf/vmlinux")),
    "bpffs": _bpffs,
    "cgroup2": _cgroup2,
    "map hash": partial(_makes, _HASH, 4, 4, 1),
    "map lru_hash": partial(_makes, _LRU_HASH, 4, 4, 128),
    "map percpu_array": partial(_makes, _PERCPU_ARRAY, 4, 4, 1),
    "map prog_array": partial(_makes, _PROG_ARRAY, 4, 4, 1),
    "map ringbuf": partial(_makes, _RINGBUF, 0, 0, 4096),
    "batch": _batch,
    **{
        f"cgroup {at.name.lower()}": partial(_loads, _CGROUP_SOCK_ADDR, _PASS, int(at))
        for at in At
        if at not in {At.TCX_INGRESS, At.TCX_EGRESS}
    },
    "set_retval": partial(_loads, _CGROUP_SOCK_ADDR, _set(1, -111) + _call(_SET_RETVAL) + _ZERO, int(At.CONNECT4)),
    "netns_cookie": partial(_loads, _CGROUP_SOCK_ADDR, _call(_NETNS_COOKIE) + _PASS, int(At.CONNECT4)),
    "tc": partial(_loads, _SCHED_CLS, _ZERO),
    "tcx": _tcx,
    "redirect_peer": partial(_redirects, _REDIRECT_PEER, 2),
    "redirect_neigh": partial(_redirects, _REDIRECT_NEIGH, 4),
    "xdp": partial(_loads, _XDP, _ZERO),
    "netfilter": partial(_loads, _NETFILTER, _PASS, _NETFILTER_HOOK),
    "tp_btf": partial(_traces, _TRACING, _TRACE_RAW_TP, b"sched_process_exec"),
    "fentry": partial(_traces, _TRACING, _FENTRY, b"tcp_connect"),
    "lsm": partial(_traces, _LSM, _LSM_MAC, b"file_open"),
}
