"""bpf(2): one system call with a union of structs; here its commands, its buffers and its errors.

Source: linux/bpf.h, `union bpf_attr`; the man page bpf(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from enum import IntEnum
from typing import Final

NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}  # the call, by machine
ATTR = 128  # bytes of bpf_attr that we pass; what we leave zero, an older kernel accepts

Buffer = ctypes.Array[ctypes.c_char]


class Command(IntEnum):
    """The first argument."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class BpfError(OSError):
    """The kernel or libbpf refused; the message says what was attempted, `errno` is the kernel's."""

    def __init__(self, number: int, doing: str, advice: str = "") -> None:
        name = errno.errorcode.get(number, str(number))
        super().__init__(number, f"{doing}: {name} {os.strerror(number)}" + (f"; {advice}" if advice else ""))

    def __str__(self) -> str:
        return str(self.strerror)


_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: Command, attr: bytes | Buffer, doing: str) -> int:
    """The call's result. A buffer is passed as it is (the kernel may write into it), bytes are copied and filled up."""
    buffer = attr if not isinstance(attr, bytes) else ctypes.create_string_buffer(attr, max(ATTR, len(attr)))
    result: int = _libc.syscall(_number(), int(command), buffer, len(buffer))
    if result < 0:
        raise BpfError(ctypes.get_errno(), doing)
    return result


def _number() -> int:
    machine = platform.machine()
    if machine not in NUMBERS:
        raise BpfError(errno.ENOSYS, f"bpf(2) on {machine}", "the number of the system call is not known here")
    return NUMBERS[machine]


def buffer_of(data: bytes | bytearray | memoryview) -> Buffer:
    """A copy of `data` that the kernel can read and write."""
    return (ctypes.c_char * len(data)).from_buffer_copy(data)


def room(size: int) -> Buffer:
    """`size` zero bytes."""
    return ctypes.create_string_buffer(size)


def address(buffer: Buffer) -> int:
    return ctypes.addressof(buffer)


def info(fd: int, size: int, doing: str) -> bytes:
    """What the kernel tells of a program, map or link: the first `size` bytes of its bpf_*_info.

    attr: `<u32 fd><u32 length><u64 address>`.
    """
    answer = room(size)
    bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, size, address(answer)), doing)
    return answer.raw
