"""Opening a path that somebody else wrote: the kernel itself keeps the walk inside a directory of ours.

A path from an image layer or from `subPath` may lead through symbolic links that were made to escape. openat2(2)
resolves the whole path in one call as if `root` were `/`: absolute links and `..` stay inside, and nobody can swap a
component between a check and its use, because there is no check.

Source: openat2(2), since Linux 5.6; the only system call that gives this, hence ctypes.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_OPENAT2: Final = 437  # the same number on every architecture: new calls are numbered alike since 5.1
_libc = ctypes.CDLL(None, use_errno=True)

NO_XDEV: Final = 0x01  # refuse to enter another mount, bind mounts too
NO_MAGICLINKS: Final = 0x02  # refuse /proc/<pid>/fd and its like
NO_SYMLINKS: Final = 0x04
BENEATH: Final = 0x08  # refuse to leave the directory
IN_ROOT: Final = 0x10  # the directory is `/` and its own parent

_AGAIN: Final = (
    100  # a rename elsewhere in the file system makes `..` uncertain: EAGAIN; upstream users try 32–128 times
)


class _How(ctypes.Structure):
    """struct open_how { __u64 flags; __u64 mode; __u64 resolve; }"""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_SIZE: Final = ctypes.sizeof(_How)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def openat2(directory: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = IN_ROOT | NO_MAGICLINKS) -> int:
    """A new descriptor of `path` under the open `directory`, close-on-exec.

    Raises OSError as open(2) does, and EXDEV or ELOOP for a path that is refused."""
    how = _How(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_AGAIN):
        descriptor = _syscall(
            ctypes.c_long(_OPENAT2), ctypes.c_int(directory), path, ctypes.byref(how), ctypes.c_size_t(_HOW_SIZE)
        )
        if descriptor >= 0:
            return int(descriptor)
        if (number := ctypes.get_errno()) != _EAGAIN:
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


_EAGAIN: Final = 11
