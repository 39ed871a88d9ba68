"""Links: programs at work. A pinned link keeps its program attached when nobody holds it, and lets it be replaced.

    attach_cgroup   to a cgroup v2 directory, for every process below it, beside programs of others
    attach_packets  to an interface, ingress or egress: tcx, or the older tc filter on kernels before 6.6

`keep` does what a start after a crash needs: a link that is pinned under the name and at the right place gets the new
program in one step, no packet or call sees none; else the link is made and pinned.

tc filters have no pins: they live as long as their interface, and replacing them is one step too.
Source: linux/bpf.h (bpf_attach_type, bpf_link_info); kernel Documentation/bpf/libbpf; libbpf's bpf_tc_attach.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from havre.node.bpf.call import BpfError, Command, bpf, info
from havre.node.bpf.libbpf import TcHook, TcOptions, library, listening, tail
from havre.node.bpf.pins import Pins


class At(IntEnum):
    """Where in the kernel: enum bpf_attach_type."""

    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    RECVMSG4 = 19
    RECVMSG6 = 20
    GETPEERNAME4 = 29
    GETPEERNAME6 = 30
    TCX_INGRESS = 46
    TCX_EGRESS = 47


_TC_POINTS: Final = {At.TCX_INGRESS: 1, At.TCX_EGRESS: 2}  # BPF_TC_INGRESS, BPF_TC_EGRESS
_REPLACE = 1  # BPF_TC_F_REPLACE
UNKNOWN: Final = (errno.EINVAL, errno.EOPNOTSUPP)  # what a kernel without tcx says to a link of that type


@dataclass(frozen=True, slots=True)
class Place:
    """What a link is attached to: an interface's index or a cgroup's id; `id` is 0 when that is gone."""

    id: int
    at: int


def place(link: int, at: At) -> Place:
    """Where a link is. struct bpf_link_info: `<u32 type><u32 id><u32 program><pad>`, then `<u32 ifindex><u32 at>` of a
    tcx link or `<u64 cgroup><u32 at>`."""
    known = info(link, 64, "ask about a link")
    form = "=II" if at in _TC_POINTS else "=QI"
    return Place(*struct.unpack_from(form, known, 16))


def create(program: int, target: int, at: At) -> int:
    """A link, as a descriptor: the program works until it is closed.

    attr: `<u32 program><u32 target><u32 at><u32 flags>`.
    """
    return bpf(Command.LINK_CREATE, struct.pack("=iIII", program, target, at, 0), f"attach a program at {at.name}")


def replace(link: int, program: int) -> None:
    """From now on `program` does the work. attr: `<u32 link><u32 program><u32 flags><u32 old>`."""
    bpf(Command.LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0), "replace the program of a link")


def detach(pins: Pins, name: str) -> None:
    """Take the program off and drop the pin, whoever else holds the link."""
    link = pins.get(name)
    if link is None:
        return
    try:
        bpf(Command.LINK_DETACH, struct.pack("=I", link), f"detach {name}")
    except BpfError as error:
        if error.errno not in {errno.ENOLINK, errno.EOPNOTSUPP}:  # its interface or cgroup is gone already
            raise
    finally:
        os.close(link)
    pins.drop(name)


def keep(pins: Pins, name: str, program: int, wanted: Place, make: Callable[[], int]) -> None:
    """Have `program` attached at `wanted` by the link pinned as `name`."""
    link = pins.get(name)
    if link is not None:
        try:
            if place(link, At(wanted.at)) == wanted:
                replace(link, program)
                return
        finally:
            os.close(link)
        detach(pins, name)
    link = make()
    try:
        pins.pin(name, link)
    finally:
        os.close(link)


def attach_cgroup(pins: Pins, name: str, program: int, cgroup: Path, at: At) -> None:
    """For every process in `cgroup` (a cgroup v2 directory) and below it. The cgroup's id is its inode."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wanted = Place(os.fstat(directory).st_ino, at)
        keep(pins, name, program, wanted, lambda: create(program, directory, at))
    finally:
        os.close(directory)


def attach_packets(pins: Pins, name: str, program: int, ifindex: int, at: At) -> None:
    """For every packet that the interface receives (TCX_INGRESS) or sends (TCX_EGRESS)."""
    try:
        keep(pins, name, program, Place(ifindex, at), lambda: create(program, ifindex, at))
    except BpfError as error:
        if error.errno not in UNKNOWN:
            raise
        attach_filter(handle_of(pins), program, ifindex, at)


def detach_packets(pins: Pins, name: str, ifindex: int, at: At) -> None:
    """The contrary. An interface that is gone has taken its programs along."""
    if name in pins.names(name):
        detach(pins, name)
    else:
        detach_filter(handle_of(pins), ifindex, at)


def has_tcx() -> bool:
    """Whether interfaces take links: a kernel that knows the type answers EBADF to a program that is none."""
    try:
        create(-1, 0, At.TCX_INGRESS)
    except BpfError as error:
        return error.errno == errno.EBADF
    return True


# tc filters, for kernels without tcx

_PRIORITY = 7  # among the filters of an interface; others come before or after ours, none is disturbed


def handle_of(pins: Pins) -> int:
    """The number of an instance's filters: two instances on one interface do not take each other's."""
    return 1 + zlib.crc32(pins.folder.name.encode()) % 0xFFFE


def attach_filter(handle: int, program: int, ifindex: int, at: At) -> None:
    """As `attach_packets`, by a direct-action filter on the interface's clsact queue; replaces an earlier one."""
    lib, hook = library(), _hook(ifindex, at)
    with listening() as said:
        made = lib.bpf_tc_hook_create(ctypes.byref(hook))
        if made and -made != errno.EEXIST:
            raise BpfError(-made, f"make a clsact queue on interface {ifindex}", tail(said))
        options = _options(handle, program, _REPLACE)
        result = lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
        if result:
            raise BpfError(-result, f"attach a tc filter to interface {ifindex}", tail(said))


def detach_filter(handle: int, ifindex: int, at: At) -> None:
    """Take our filter off, if it is there. The queue stays: others may use it, and it costs nothing."""
    lib, hook, options = library(), _hook(ifindex, at), _options(handle, 0, 0)
    with listening() as said:
        result = lib.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options))
        if result and -result not in {errno.ENOENT, errno.EINVAL, errno.ENODEV}:
            raise BpfError(-result, f"detach a tc filter from interface {ifindex}", tail(said))


def _hook(ifindex: int, at: At) -> TcHook:
    return TcHook(sz=ctypes.sizeof(TcHook), ifindex=ifindex, attach_point=_TC_POINTS[at])


def _options(handle: int, program: int, flags: int) -> TcOptions:
    return TcOptions(sz=ctypes.sizeof(TcOptions), prog_fd=program, flags=flags, handle=handle, priority=_PRIORITY)
